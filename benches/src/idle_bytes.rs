//! Bytes per idle grain: activates so many counters, calls each once, and divides what the process has
//! grown by. Nothing is left out: catalog, activation, mailbox, allocator overhead, pages half used.
//!
//! The figure is the growth of resident memory as the kernel counts it. That is an upper bound on what
//! the grains need, and needs no allocator hook, which would be `unsafe` code.

use anyhow::{Context, Result, ensure};
use millet_core::Key;

use crate::{
    counter::{Add, Count, Counter},
    flags::Flags,
    solo,
};

/// The budget of docs/status.md.
const LIMIT_BYTES: f64 = 256.0;

/// Runs the benchmark; fails if a grain costs more than its budget.
pub fn run(flags: &Flags) -> Result<()> {
    flags.only(&["grains"])?;
    let grains = flags.number("grains", 1_000_000)?;
    ensure!(grains > 0, "--grains 0 leaves nothing to divide by");
    // One thread: several allocator arenas would add their own slack.
    let tokio = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    tokio.block_on(measure(grains))
}

async fn measure(grains: u64) -> Result<()> {
    let runtime = solo::runtime::<Count>()?;
    // The first few pull in code pages and the catalog's first tables.
    let warm = 1000;
    for key in 0..warm {
        call(&runtime, key).await?;
    }
    let before = resident_bytes()?;
    for key in warm..warm + grains {
        call(&runtime, key).await?;
    }
    let after = resident_bytes()?;
    let alive = millet_directory::Residents::activations(&*runtime);
    ensure!(alive == warm + grains, "{alive} activations are alive, {} were made", warm + grains);

    let each = after.saturating_sub(before) as f64 / grains as f64;
    println!("{each:.1} bytes per idle grain at {grains} grains (limit {LIMIT_BYTES:.0})");
    println!(
        "method: growth of resident memory, {before} to {after} bytes, integer key, 8-byte value, each called once"
    );
    ensure!(each <= LIMIT_BYTES, "{each:.1} bytes per idle grain are over the limit of {LIMIT_BYTES:.0}");
    Ok(())
}

async fn call(runtime: &millet_runtime::Runtime, key: u64) -> Result<()> {
    let sum = runtime.get::<Counter>(Key::Int(key)).call::<Add>(key).await?;
    ensure!(sum == key, "grain {key} answered {sum}");
    Ok(())
}

/// Resident memory of this process, from the kernel's own count of pages. (`statm` would be cheaper, but
/// is kept per thread and lags behind.)
fn resident_bytes() -> Result<u64> {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup")
        .context("this benchmark needs Linux's /proc/self/smaps_rollup")?;
    let line =
        rollup.lines().find_map(|line| line.strip_prefix("Rss:")).context("smaps_rollup has no Rss line")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().context("Rss is not a number of kB")?;
    Ok(kib * 1024)
}
