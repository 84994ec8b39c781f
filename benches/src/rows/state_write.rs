//! Saved state: one durable write an ask.

use anyhow::{Result, ensure};

use crate::{
    drive::{self, Target},
    floors::etcd::{self, Etcd},
    host::Members,
    node::with_node,
    row::{Figures, Goal, Row, Side, Size},
    stored::{Saved, SavedCounters},
};

/// The row.
pub const ROW: Row = Row {
    name: "state-write",
    work: "64 tasks add to 1,000 counters by key, 20,000 adds in all, each task its own one after the other; \
           then one task alone, 2,000. Three member processes on this machine, each with a disk folder and every \
           write synced; CPU of all processes. Ours: the grains are in the asking process, and every add is a turn, \
           a save in three replicas and then the answer; all counters are read back. Beside it three members of \
           etcd from Debian's package, a put of 8 bytes sent straight to the leader, over 8 connections",
    sides: &[Side::new("millet", millet), Side::new("etcd", puts).needs(etcd::PROGRAM)],
    goals: &[
        Goal::at_least("per_s", 2.0).times("etcd"),
        Goal::at_most("p50_us", 1.0).times("etcd"),
        Goal::at_most("one_p50_us", 1.0).times("etcd"),
    ],
    peers: &[],
    missing: &[],
};

const GRAINS: u64 = 1000;
const CALLERS: u64 = 64;

fn asks(size: Size) -> u64 {
    size.of(20_000, 128)
}

fn asks_of_one(size: Size) -> u64 {
    size.of(2_000, 20)
}

/// Grains here, their state with three members.
fn millet(size: Size) -> Result<Figures> {
    let members = Members::three()?;
    with_node(members.worker("grains").grain::<Saved>(), move |node| async move {
        let target = SavedCounters(node);
        // Every counter is active before the clock runs.
        drive::total(&target, 0..GRAINS).await?;
        let figures = run(&target, size, &members.pids()).await?;
        let (sum, one) = (drive::total(&target, 0..GRAINS).await?, asks_of_one(size));
        let asked = drive::asked(CALLERS, asks(size)) + one + one.div_ceil(10);
        ensure!(sum == asked, "the counters hold {sum} after {asked} adds of 1");
        Ok(figures)
    })
}

/// Three members of etcd.
fn puts(size: Size) -> Result<Figures> {
    let members = Etcd::start()?;
    drive::in_pool(async move { run(&members.puts().await?, size, &members.pids()).await })
}

async fn run<T: Target>(target: &T, size: Size, others: &[u32]) -> Result<Figures> {
    let mut figures = drive::many(target, CALLERS, GRAINS, asks(size), others).await?;
    let one = drive::one(target, 7, asks_of_one(size), others).await?;
    figures.extend(one.into_iter().filter(|(name, _)| *name == "p50_us").map(|(_, us)| ("one_p50_us", us)));
    Ok(figures)
}
