//! Asks against nodes: what it costs that grains are on many.

use anyhow::{Result, ensure};

use crate::{
    child::Child,
    drive,
    host::Members,
    node::with_node,
    row::{Figures, Size},
    spread::{self, Spreads},
    sweep::Sweep,
};

/// The sweep.
pub const SWEEP: Sweep = Sweep {
    name: "nodes",
    work: "64 tasks of a node that hosts nothing ask 10,000 counters of a sharded type with 256 shards, 300,000 \
           asks in all, keys drawn at random; the counters are on so many other nodes, each a process of its own, \
           all on this machine and over loopback; one more process keeps the metadata. Once every node has its \
           shards and every counter was asked. `cpu_us`: of all processes, an ask. All nodes share this machine's \
           cores: this shows how overhead grows with nodes, not how capacity does",
    axis: "hosting processes",
    points: &[1, 2, 4, 8, 16],
    // A process that hosts a few thousand counters.
    memory: |nodes| nodes * (100 << 20) + (1 << 30),
    run,
};

const CALLERS: u64 = 64;
const GRAINS: u64 = 10_000;

fn run(nodes: u64, size: Size) -> Result<Figures> {
    let members = Members::one()?;
    let hosts = (0..nodes).map(|n| members.host_process(&format!("host{n}"))).collect::<Result<Vec<_>>>()?;
    // All start at once; each waits for its session.
    let hosts = hosts.into_iter().map(Child::ready).collect::<Result<Vec<_>>>()?;
    let mut pids = members.pids();
    pids.extend(hosts.iter().map(Child::pid));
    with_node(members.worker("caller"), move |node| async move {
        spread::settled(&node, usize::try_from(nodes)?).await?;
        let (target, grains) = (Spreads(node.clone()), size.of(GRAINS, 500));
        drive::once_each(&target, 0..grains, CALLERS).await?;
        let asks = size.of(300_000, 2_000);
        let figures = drive::many_random(&target, CALLERS, grains, asks, &pids).await?;
        let (sum, asked) = (drive::total(&target, 0..grains).await?, drive::asked(CALLERS, asks) + grains);
        ensure!(sum == asked, "the counters hold {sum} after {asked} asks of 1");
        ensure!(node.stats().now().activations == 0, "a counter was active in the calling process");
        drop(hosts);
        Ok(figures)
    })
}
