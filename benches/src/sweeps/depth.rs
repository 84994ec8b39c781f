//! Messages taken a second against how many wait: whether a deep mailbox is slower than a shallow one.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use futures::future;
use millet::prelude::*;
use tokio::sync::Semaphore;

use crate::{
    node::with_node,
    row::{Figures, Size},
    sweep::{SMALL, Sweep},
};

/// The sweep.
pub const SWEEP: Sweep = Sweep {
    name: "depth",
    work: "a counter on a node in memory is held inside a turn while so many messages of 8 bytes gather in its \
           mailbox, the last of them an ask; then it is let go. `per_s` and `ns`: messages a second and \
           nanoseconds a message from the letting go to the ask's answer, mean of rounds with half a million \
           messages in all (at least 8 rounds). At a depth of one it is the cost of waking the grain and its \
           caller. `push_ns`: what putting one in costs its sender",
    axis: "messages waiting",
    points: &[1, 4, 16, 64, 256, 1_024, 4_096, 16_384, 65_536],
    memory: SMALL,
    run,
};

/// Deeper than the deepest point.
const MAILBOX: usize = 1 << 17;

/// How the grain says that it is held, and is told to go on.
#[derive(Clone)]
struct Gate {
    held: Arc<Semaphore>,
    open: Arc<Semaphore>,
}

/// A counter that can be held.
pub struct Dam {
    sum: u64,
    gate: Arc<Gate>,
}

impl Grain for Dam {
    type Service = DamService;

    fn options() -> GrainOptions {
        GrainOptions::sharded(1).mailbox(MAILBOX)
    }

    fn create(c: &mut Create<'_, Self>) -> Self {
        Self { sum: 0, gate: c.resource::<Gate>() }
    }
}

#[millet::grain(name = "bench.Dam", key = int)]
impl Dam {
    /// Adds and answers the sum.
    async fn add(&mut self, _ctx: &Ctx<Self>, by: u64) -> u64 {
        self.sum += by;
        self.sum
    }

    /// Holds the grain until the gate opens.
    async fn hold(&mut self, _ctx: &Ctx<Self>) {
        self.gate.held.add_permits(1);
        // The gate is never closed for good.
        if let Ok(permit) = self.gate.open.acquire().await {
            permit.forget();
        }
    }
}

fn run(depth: u64, size: Size) -> Result<Figures> {
    let gate = Gate { held: Arc::new(Semaphore::new(0)), open: Arc::new(Semaphore::new(0)) };
    let builder = Node::builder().in_memory().grain::<Dam>().resource(gate.clone());
    with_node(builder, move |node| async move {
        let grain = node.get::<DamService>(Key::Int(1));
        // Active, so that tells go straight into its mailbox.
        ensure!(grain.add(0).await? == 0, "nothing was sent yet");
        let rounds = size.of((500_000 / depth).max(8), 2);
        let (mut pushing, mut taking, mut sum) = (Duration::ZERO, Duration::ZERO, 0);
        // The first round is not measured.
        for n in 0..=rounds {
            let (pushed, taken) = round(&grain, &gate, depth).await?;
            sum += depth - 1;
            ensure!(grain.add(0).await? == sum, "the counter has not {sum} after {n} rounds");
            if n > 0 {
                pushing += pushed;
                taking += taken;
            }
        }
        let messages = (rounds * depth) as f64;
        Ok(vec![
            ("per_s", messages / taking.as_secs_f64()),
            ("ns", taking.as_nanos() as f64 / messages),
            ("push_ns", pushing.as_nanos() as f64 / messages),
        ])
    })
}

/// Holds the grain, lets messages gather, and lets it go; how long the pushing took, and the taking.
async fn round(
    grain: &<DamService as millet_runtime::Hosted>::Ref,
    gate: &Gate,
    depth: u64,
) -> Result<(Duration, Duration)> {
    grain.tell::<dam::Hold>(dam::HoldArgs {})?;
    gate.held.acquire().await?.forget();
    let start = Instant::now();
    for _ in 1..depth {
        grain.tell::<dam::Add>(dam::AddArgs { by: 1 })?;
    }
    let pushed = start.elapsed();
    // The ask is polled first, which puts it behind the tells.
    let (answer, opened) = future::join(grain.add(0), async {
        let opened = Instant::now();
        gate.open.add_permits(1);
        opened
    })
    .await;
    answer?;
    Ok((pushed, opened.elapsed()))
}
