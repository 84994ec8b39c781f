//! Asks against the size of their argument: from where on bytes cost more than the ask.

use std::sync::Arc;

use anyhow::{Context, Result};
use millet::Node;

use crate::{
    drive,
    echo::{Echoes, Echoing},
    host::Members,
    node::with_node,
    row::{Figures, Size},
    sweep::{SMALL, Sweep},
};

/// The sweep.
pub const SWEEP: Sweep = Sweep {
    name: "payload",
    work: "64 tasks ask 64 grains, each ask with so many bytes that come back in its answer; fewer tasks where 64 \
           asks would be more than 8 MiB (a node refuses what would make more than 32 MiB wait for one peer), so \
           32 at 262,144 bytes and 8 at 1,048,576. `local`: on one node \
           in memory, 200,000 asks; the value moves, no byte is copied, so it must not matter how many there are. \
           `remote`: the grains in another process, over loopback, encoded and decoded both ways, as many asks as \
           make 1 GiB one way, between 1,024 and 200,000. `remote_mib_per_s`: MiB of argument a second; as much \
           comes back. `remote_cpu_us`: of both processes and the metadata's, an ask",
    axis: "bytes of the argument",
    points: &[16, 64, 256, 1_024, 4_096, 16_384, 65_536, 262_144, 1_048_576],
    memory: SMALL,
    run,
};

/// So many, but not more than make so many bytes under way.
const CALLERS: u64 = 64;
const UNDER_WAY: u64 = 8 << 20;
const GRAINS: u64 = 64;
const MIB: f64 = 1_048_576.0;

fn run(bytes: u64, size: Size) -> Result<Figures> {
    let builder = Node::builder().in_memory().grain::<Echoing>();
    let local = with_node(builder, move |node| echoed(node, bytes, size.of(200_000, 640), Vec::new()))?;
    let members = Members::one()?;
    let host = members.host_process("host")?.ready()?;
    let pids = [members.pids(), vec![host.pid()]].concat();
    let asks = size.of(((1 << 30) / bytes).clamp(1_024, 200_000), 640);
    let remote = with_node(members.worker("caller"), move |node| echoed(node, bytes, asks, pids))?;
    let of = |figures: &Figures, name: &str| {
        let found = figures.iter().find(|(figure, _)| *figure == name);
        found.map(|(_, value)| *value).with_context(|| format!("there is no {name}"))
    };
    let per_s = of(&remote, "per_s")?;
    Ok(vec![
        ("local_per_s", of(&local, "per_s")?),
        ("remote_per_s", per_s),
        ("remote_mib_per_s", per_s * bytes as f64 / MIB),
        ("remote_p50_us", of(&remote, "p50_us")?),
        ("remote_cpu_us", of(&remote, "cpu_us")?),
    ])
}

async fn echoed(node: Arc<Node>, bytes: u64, asks: u64, others: Vec<u32>) -> Result<Figures> {
    let target = Echoes::of(node, bytes);
    // Every grain is active and its route known before the clock runs.
    for key in 0..GRAINS {
        target.checked(key).await?;
    }
    let callers = CALLERS.min(UNDER_WAY / bytes);
    drive::many(&target, callers, GRAINS, asks, &others).await
}
