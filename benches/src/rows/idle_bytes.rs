//! Bytes per idle grain, everything counted: catalog, activation, mailbox, allocator overhead, pages half
//! used.
//!
//! The figure is the growth of resident memory as the kernel counts it. That is an upper bound on what
//! the grains need, and needs no allocator hook, which would be `unsafe` code.

use anyhow::{Result, ensure};
use millet_core::Key;

use crate::{
    counter::{Add, Count, Counter},
    drive::Target,
    floors::cell::Cells,
    memory::resident_bytes,
    row::{Figures, Goal, Peer, Row, Side, Size},
    solo,
};

/// The row.
pub const ROW: Row = Row {
    name: "idle-bytes",
    work: "activates 1,000,000 counters (integer key, 8-byte value) by one ask each, one after the other, on one \
           thread, and divides what resident memory has grown by. Ours: the runtime alone, owning everything. \
           Floor: a cell without a task and its entry in the map",
    sides: &[Side::new("millet", millet), Side::new("keyed cell", cells)],
    goals: &[Goal::at_most("bytes", 256.0)],
    peers: &[bytes("rio-rs", "c/p_rio/activate_remote"), bytes("orlando", "c/p_orlando/spawn")],
    missing: &[],
};

const fn bytes(name: &'static str, row: &'static str) -> Peer {
    Peer { name, row, figure: "bytes", theirs: "bytes_per_actor", scale: 1.0 }
}

/// The first few pull in code pages and the map's first tables.
const WARM: u64 = 1000;

fn grains(size: Size) -> u64 {
    size.of(1_000_000, 2_000)
}

/// One thread: several allocator arenas would add their own slack.
fn on_one_thread<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(work)
}

/// The runtime alone, its clock standing still, so that nothing is collected.
fn millet(size: Size) -> Result<Figures> {
    on_one_thread(async {
        let (grains, runtime) = (grains(size), solo::runtime::<Count>()?);
        let figures =
            grown(grains, async |key| Ok(runtime.get::<Counter>(Key::Int(key)).call::<Add>(key).await?))
                .await?;
        let alive = millet_directory::Residents::activations(&*runtime);
        ensure!(alive == WARM + grains, "{alive} activations are alive, {} were made", WARM + grains);
        Ok(figures)
    })
}

/// Cells without tasks, in their map.
fn cells(size: Size) -> Result<Figures> {
    on_one_thread(async {
        let cells = Cells::new();
        grown(grains(size), async |key| cells.ask(key, key).await).await
    })
}

async fn grown(grains: u64, touch: impl AsyncFn(u64) -> Result<u64>) -> Result<Figures> {
    for key in 0..WARM {
        touch(key).await?;
    }
    let before = resident_bytes()?;
    for key in WARM..WARM + grains {
        let sum = touch(key).await?;
        ensure!(sum == key, "grain {key} answered {sum}");
    }
    let grown = resident_bytes()?.saturating_sub(before);
    Ok(vec![("bytes", grown as f64 / grains as f64)])
}
