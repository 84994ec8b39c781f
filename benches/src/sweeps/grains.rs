//! Asks against grains: what it costs that memory is larger than the caches.

use anyhow::{Result, ensure};
use millet::Node;

use crate::{
    counter::Count,
    drive,
    memory::resident_bytes,
    node::{Grains, with_node},
    row::{Figures, Size},
    sweep::Sweep,
};

/// The sweep.
pub const SWEEP: Sweep = Sweep {
    name: "grains",
    work: "a node in memory with so many active counters (integer key, 8-byte value, sharded type, no store); 64 \
           tasks of its grains' pool ask keys drawn at random, all alike, 2,000,000 asks in all. `activate_per_s`: \
           the activations before, by one ask each from 64 tasks. `bytes`: growth of resident memory over those \
           activations, divided by grains; the callers', the pools' and the maps' slack is inside, so it is left \
           out below 100,000",
    axis: "active grains",
    points: &[1_000, 10_000, 100_000, 1_000_000, 10_000_000],
    // 230 bytes each and the catalog's map, which holds its old table while it doubles; the rest is the node.
    memory: |grains| grains * 500 + (1 << 30),
    run,
};

const CALLERS: u64 = 64;
/// Other keys, active before: they pull in code pages and the maps' first tables.
const WARM: u64 = 1000;
/// Fewer are less than the noise.
const COUNTED: u64 = 100_000;

fn run(grains: u64, size: Size) -> Result<Figures> {
    with_node(Node::builder().in_memory().grain::<Count>(), move |node| async move {
        let target = Grains(node.clone());
        drive::once_each(&target, grains..grains + WARM, CALLERS).await?;
        let before = resident_bytes()?;
        let took = drive::once_each(&target, 0..grains, CALLERS).await?;
        let grown = resident_bytes()?.saturating_sub(before);
        let alive = node.stats().now().activations;
        ensure!(alive == WARM + grains, "{alive} activations are alive");
        let mut figures =
            drive::many_random(&target, CALLERS, grains, size.of(2_000_000, 2_000), &[]).await?;
        figures.push(("activate_per_s", grains as f64 / took.as_secs_f64()));
        if grains >= COUNTED {
            figures.push(("bytes", grown as f64 / grains as f64));
        }
        Ok(figures)
    })
}
