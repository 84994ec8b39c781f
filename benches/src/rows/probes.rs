//! Correctness beside the numbers: what peers were seen to get wrong, tried on us.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use millet::prelude::*;
use tokio::task::JoinSet;

use crate::{
    drive,
    host::{Members, signal},
    node::with_node,
    row::{Figures, Goal, Row, Side, Size},
    stored::{Leased, LeasedCounters},
};

/// The row.
pub const ROW: Row = Row {
    name: "probes",
    work: "`hangs`: 1,000 grains whose `activate` asks another grain for the first time, which asks a third; 64 \
           callers; how many have no answer after 30 s. `doubles`: two nodes and a metadata member, 10,000 leased \
           grains whose activation takes 1 ms, each asked for the first time by 4 tasks on either node at once; how \
           many were activated a second time. `stale`: a node with 100 counters stands still (SIGSTOP) for 6 s, \
           longer than the TTL, while another node takes the counters over and counts on; then it goes on and asks \
           its counters: how far what it hears is from what the other one has made of them",
    sides: &[Side::new("millet", millet)],
    goals: &[Goal::at_most("hangs", 0.0), Goal::at_most("doubles", 0.0), Goal::at_most("stale", 0.0)],
    peers: &[],
    missing: &[],
};

fn millet(size: Size) -> Result<Figures> {
    Ok(vec![("hangs", hangs(size)?), ("doubles", doubles(size)?), ("stale", stale(size)?)])
}

// ---------------------------------------------------------------- nested first activations

/// Asks the next of three when it is activated.
pub struct Nested;

impl Grain for Nested {
    type Service = NestedService;

    fn options() -> GrainOptions {
        GrainOptions::sharded(8)
    }

    fn create(_: &mut Create<'_, Self>) -> Self {
        Self
    }

    async fn activate(&mut self, ctx: &Ctx<Self>) -> Result<(), String> {
        let Key::Int(n) = *ctx.key() else { return Ok(()) };
        if n % 3 == 2 {
            return Ok(());
        }
        ctx.get::<NestedService>(Key::Int(n + 1)).look().await.map(drop).map_err(|e| e.to_string())
    }
}

#[millet::grain(name = "bench.Nested", key = int)]
impl Nested {
    /// Answers.
    async fn look(&mut self, _ctx: &Ctx<Self>) -> u64 {
        1
    }
}

fn hangs(size: Size) -> Result<f64> {
    with_node(Node::builder().in_memory().grain::<Nested>(), move |node| async move {
        let (grains, answered) = (size.of(1_000, 50), Arc::new(AtomicU64::new(0)));
        let mut callers = JoinSet::new();
        for caller in 0..64 {
            let (node, answered) = (node.clone(), answered.clone());
            callers.spawn(async move {
                for n in (caller..grains).step_by(64) {
                    if node.get::<NestedService>(Key::Int(3 * n)).look().await.is_ok() {
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        // Who is late hangs; the count tells.
        let _ = tokio::time::timeout(Duration::from_secs(30), callers.join_all()).await;
        Ok((grains - answered.load(Ordering::Relaxed)) as f64)
    })
}

// ---------------------------------------------------------------- activation by two nodes at once

static ACTIVATED: [AtomicU64; 10_000] = [const { AtomicU64::new(0) }; 10_000];

/// Takes a millisecond to activate, as with a store.
pub struct Slow;

impl Grain for Slow {
    type Service = SlowService;

    fn create(_: &mut Create<'_, Self>) -> Self {
        Self
    }

    async fn activate(&mut self, ctx: &Ctx<Self>) -> Result<(), String> {
        if let Key::Int(n) = *ctx.key() {
            ACTIVATED[usize::try_from(n).map_err(|e| e.to_string())?].fetch_add(1, Ordering::Relaxed);
        }
        // tidy: sleep: an activation that takes a millisecond is what is tried
        tokio::time::sleep(Duration::from_millis(1)).await;
        Ok(())
    }
}

#[millet::grain(name = "bench.Slow", key = int)]
impl Slow {
    /// Answers.
    async fn look(&mut self, _ctx: &Ctx<Self>) -> u64 {
        1
    }
}

fn doubles(size: Size) -> Result<f64> {
    let members = Members::one()?;
    let second = members.worker("second").grain::<Slow>();
    with_node(members.worker("first").grain::<Slow>(), move |first| async move {
        let (second, _members) = (Arc::new(second.start().await?), members);
        let mut callers = JoinSet::new();
        for caller in 0..8 {
            let node = if caller % 2 == 0 { first.clone() } else { second.clone() };
            let grains = size.of(10_000, 200);
            callers.spawn(async move {
                for key in 0..grains {
                    node.get::<SlowService>(Key::Int(key)).look().await?;
                }
                anyhow::Ok(())
            });
        }
        while let Some(done) = callers.join_next().await {
            done.context("a caller panicked")??;
        }
        Ok(ACTIVATED.iter().map(|n| n.load(Ordering::Relaxed).saturating_sub(1)).sum::<u64>() as f64)
    })
}

// ---------------------------------------------------------------- a node that was away

fn stale(size: Size) -> Result<f64> {
    let members = Members::three()?;
    let mut victim = members.worker_process("victim", false)?;
    let grains = size.of(100, 10);
    victim.tell(&format!("once 0 {grains} 8"))?;
    victim.hears()?;
    let pid: u32 = victim.said.first().context("it says its process id")?.parse()?;
    with_node(members.worker("survivor").grain::<Leased>(), move |node| async move {
        let target = LeasedCounters(node);
        signal(pid, "STOP")?;
        let others = async {
            // tidy: sleep: longer than the TTL is what is tried
            tokio::time::sleep(Duration::from_secs(6)).await;
            // The victim's memory is gone: from 0 to 1, and to 2.
            for _ in 0..2 {
                for key in 0..grains {
                    drive::Target::ask(&target, key, 1).await?;
                }
            }
            drive::total(&target, 0..grains).await
        };
        let made = others.await;
        signal(pid, "CONT")?;
        let made = made?;
        ensure!(made == 2 * grains, "the survivor has made {made} of {grains} counters");
        victim.tell(&format!("total 0 {grains}"))?;
        let seen: f64 = victim.hears()?.first().context("it says the total")?.parse()?;
        Ok((made as f64 - seen).abs())
    })
}
