//! Activations of a sharded type without state.

use std::time::Instant;

use anyhow::{Result, ensure};
use millet::Node;

use crate::{
    counter::Count,
    drive::{self, Target},
    floors::cell::Cells,
    node::{Grains, with_node},
    row::{Figures, Goal, Peer, Row, Side, Size},
};

/// The row.
pub const ROW: Row = Row {
    name: "activate",
    work: "one task of the grains' pool asks 1,000,000 counters once each: claim, entry in the catalog, \
           activation, one turn, reply; activations a second. Ours: a whole node in memory, sharded type, no \
           store. Floor: a cell without a task, its entry in the map and one ask",
    sides: &[Side::new("millet", millet), Side::new("keyed cell", cells)],
    goals: &[Goal::at_least("per_s", 0.5).times("keyed cell")],
    peers: &[
        Peer::per_s("orlando", "c/p_orlando/spawn"),
        Peer::per_s("rio-rs", "c/p_rio/activate_remote"),
        Peer::per_s("coerce sharding", "c/p_coerce/shard_spawn"),
        Peer::per_s("actix (bare spawn)", "c/p_actix/spawn"),
    ],
    missing: &[],
};

fn grains(size: Size) -> u64 {
    size.of(1_000_000, 2_000)
}

/// A whole node in memory.
fn millet(size: Size) -> Result<Figures> {
    with_node(Node::builder().in_memory().grain::<Count>(), move |node| async move {
        let figures = run(&Grains(node.clone()), grains(size)).await?;
        let alive = node.stats().now().activations;
        ensure!(alive == WARM + grains(size), "{alive} activations are alive");
        Ok(figures)
    })
}

/// Cells without tasks.
fn cells(size: Size) -> Result<Figures> {
    drive::in_pool(async move { run(&Cells::new(), grains(size)).await })
}

/// Made before, so that shard tables and code are there.
const WARM: u64 = 1000;

async fn run<T: Target>(target: &T, grains: u64) -> Result<Figures> {
    let target = target.clone();
    touch(&target, 0..WARM).await?;
    let cpu = drive::Cpu::start(&[])?;
    let start = Instant::now();
    touch(&target, WARM..WARM + grains).await?;
    let took = start.elapsed();
    Ok(vec![("per_s", grains as f64 / took.as_secs_f64()), ("cpu_us", cpu.us()? / grains as f64)])
}

async fn touch<T: Target>(target: &T, keys: std::ops::Range<u64>) -> Result<()> {
    for key in keys {
        let sum = target.ask(key, 1).await?;
        ensure!(sum == 1, "counter {key} answered {sum} to its first ask of 1");
    }
    Ok(())
}
