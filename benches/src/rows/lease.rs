//! Activations of a leased type: each one a lease in three replicas.

use anyhow::{Context, Result, ensure};
use millet::Node;

use crate::{
    drive::{self, Target},
    host::Members,
    node::with_node,
    row::{Figures, Goal, Row, Side, Size},
    stored::{Leased, LeasedCounters, Saved, SavedCounters},
};

/// The row.
pub const ROW: Row = Row {
    name: "lease",
    work: "two nodes in two processes, 64 tasks in each, ask 100,000 leased counters of their own in all, once \
           each: a lease granted by three member processes, each with a disk folder and every write synced, then \
           activation, turn, answer; activations a second of both nodes, until the slower one is done. Then one \
           task alone: the median of 500 first calls, without state and with a saved one (lease and \
           opening the state; nothing is saved). Floor: the same 64 tasks on one node whose metadata is in its own memory",
    sides: &[Side::new("millet", millet), Side::new("in memory", memory)],
    goals: &[
        Goal::at_least("per_s", 0.4).times("in memory"),
        Goal::at_most("cold_p50_us", 1000.0),
        Goal::at_most("cold_state_p50_us", 1500.0),
    ],
    peers: &[],
    missing: &[],
};

const CALLERS: u64 = 64;
/// Keys from here on are the second node's, and then those of single first calls.
const SECOND: u64 = 1 << 32;
const COLD: u64 = 1 << 33;

fn grains(size: Size) -> u64 {
    size.of(100_000, 512)
}

/// Two nodes, three members.
fn millet(size: Size) -> Result<Figures> {
    let members = Members::three()?;
    let mut other = members.worker_process("second", false)?;
    let builder = members.worker("first").grain::<Leased>().grain::<Saved>();
    with_node(builder, move |node| async move {
        let target = LeasedCounters(node.clone());
        let each = grains(size) / 2;
        // Both warm up together, and are measured together.
        for (first, count) in [(0, each.div_ceil(10)), (each, each)] {
            other.tell(&format!("once {} {count} {CALLERS}", SECOND + first))?;
            let took = drive::once_each(&target, first..first + count, CALLERS).await?;
            let theirs: f64 = other.hears()?.first().context("it says how long")?.parse()?;
            if first > 0 {
                let slower = took.as_secs_f64().max(theirs);
                let mut figures = vec![("per_s", 2.0 * count as f64 / slower)];
                figures.push(("cold_p50_us", cold(&target, 1, size).await?));
                figures.push(("cold_state_p50_us", cold(&SavedCounters(node), 0, size).await?));
                return Ok(figures);
            }
        }
        unreachable!("the second round returns")
    })
}

/// One node with everything in its own memory.
fn memory(size: Size) -> Result<Figures> {
    with_node(Node::builder().in_memory().grain::<Leased>(), move |node| async move {
        let (target, count) = (LeasedCounters(node), grains(size));
        drive::once_each(&target, 0..count / 10, CALLERS).await?;
        let took = drive::once_each(&target, count..2 * count, CALLERS).await?;
        Ok(vec![("per_s", count as f64 / took.as_secs_f64())])
    })
}

/// The median of first calls, one after the other, in microseconds.
async fn cold<T: Target>(target: &T, by: u64, size: Size) -> Result<f64> {
    let mut latencies = Vec::new();
    for key in COLD..COLD + size.of(500, 5) {
        let start = std::time::Instant::now();
        let sum = target.ask(key, by).await?;
        latencies.push(drive::nanos(start.elapsed()));
        ensure!(sum == by, "counter {key} answered {sum} to its first ask of {by}");
    }
    let median = drive::quantiles(&mut latencies).first().map(|(_, us)| *us);
    median.context("there were first calls")
}
