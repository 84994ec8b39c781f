//! Asks against shards: what it costs that a type has many, on one node.

use std::time::Instant;

use anyhow::Result;
use millet::Node;

use crate::{
    drive,
    node::with_node,
    row::{Figures, Size},
    spread::{self, Spread, Spreads},
    sweep::{SMALL, Sweep},
};

/// The sweep.
pub const SWEEP: Sweep = Sweep {
    name: "shards",
    work: "a node in memory whose one grain type has so many shards. `session_ms`: from the start until it has a \
           session; `assigned_ms`: until it has heard that all shards are its own. Then 64 tasks ask 100,000 \
           counters once each, which opens the shards (`activate_per_s`), and then keys drawn at random, 2,000,000 \
           asks in all",
    axis: "shards of the type",
    points: &[1, 4, 16, 64, 256, 1_024, 4_096, 16_384],
    memory: SMALL,
    run,
};

const CALLERS: u64 = 64;

fn run(shards: u64, size: Size) -> Result<Figures> {
    spread::choose(u32::try_from(shards)?)?;
    let start = Instant::now();
    with_node(Node::builder().in_memory().grain::<Spread>(), move |node| async move {
        let session = start.elapsed();
        spread::settled(&node, 1).await?;
        let assigned = start.elapsed();
        let (target, grains) = (Spreads(node), size.of(100_000, 1_000));
        let took = drive::once_each(&target, 0..grains, CALLERS).await?;
        let mut figures =
            drive::many_random(&target, CALLERS, grains, size.of(2_000_000, 2_000), &[]).await?;
        figures.push(("activate_per_s", grains as f64 / took.as_secs_f64()));
        figures.push(("session_ms", session.as_secs_f64() * 1000.0));
        figures.push(("assigned_ms", assigned.as_secs_f64() * 1000.0));
        Ok(figures)
    })
}
