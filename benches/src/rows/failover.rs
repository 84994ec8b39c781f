//! A node dies: how long its grains are away.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::task::JoinSet;

use crate::{
    drive::Target,
    host::{Members, signal},
    node::with_node,
    row::{Figures, Goal, Row, Side, Size},
    stored::{Leased, LeasedCounters},
};

/// The row.
pub const ROW: Row = Row {
    name: "failover",
    work: "a node in a process of its own holds leased counters, 10,000 in all; it is killed (SIGKILL), and at \
           once another node asks every one of them, a task each, again and again until it answers; milliseconds \
           from the kill to a counter's first answer. Three member processes, none of them on the victim, with \
           default settings: a session's TTL is 4 s. With a launcher, `millet run` around the victim closes its \
           session when it sees the end. No floor: others' figures are in docs/performance.md",
    sides: &[Side::new("millet", millet)],
    goals: &[Goal::at_most("p99_ms", 5000.0), Goal::at_most("launched_p99_ms", 300.0)],
    peers: &[],
    missing: &[],
};

/// Later than any failover that is meant to be.
const LIMIT: Duration = Duration::from_secs(30);

/// Without a launcher, then with one: clusters of their own.
fn millet(size: Size) -> Result<Figures> {
    let [p50, p99, max] = fail(size, false)?;
    let [launched_p50, launched_p99, launched_max] = fail(size, true)?;
    let plain = [("p50_ms", p50), ("p99_ms", p99), ("max_ms", max)];
    let launched = [
        ("launched_p50_ms", launched_p50),
        ("launched_p99_ms", launched_p99),
        ("launched_max_ms", launched_max),
    ];
    Ok(plain.into_iter().chain(launched).collect())
}

/// Median, 99th percentile and maximum in milliseconds.
fn fail(size: Size, launcher: bool) -> Result<[f64; 3]> {
    let members = Members::three()?;
    let mut victim = members.worker_process("victim", launcher)?;
    let grains = size.of(10_000, 100);
    victim.tell(&format!("once 0 {grains} 64"))?;
    victim.hears()?;
    let pid: u32 = victim.said.first().context("it says its process id")?.parse()?;
    with_node(members.worker("survivor").grain::<Leased>(), move |node| async move {
        let target = LeasedCounters(node.clone());
        ensure!(target.ask(0, 0).await? == 1, "the victim's counters are asked over there");
        ensure!(node.stats().now().activations == 0, "a counter was active in the surviving process");
        signal(pid, "KILL")?;
        let killed = Instant::now();
        let mut tasks = JoinSet::new();
        for key in 0..grains {
            tasks.spawn(answered(target.clone(), key, killed));
        }
        let mut waits = Vec::new();
        while let Some(done) = tasks.join_next().await {
            waits.push(done.context("a caller panicked")??);
        }
        drop(victim);
        waits.sort_unstable();
        let at = |q: f64| waits[((waits.len() - 1) as f64 * q) as usize].as_secs_f64() * 1000.0;
        Ok([at(0.5), at(0.99), at(1.0)])
    })
}

/// Asks until it answers; from nothing, because its memory died with its node.
async fn answered(target: LeasedCounters, key: u64, killed: Instant) -> Result<Duration> {
    loop {
        match target.ask(key, 1).await {
            Ok(sum) => {
                ensure!(sum >= 1, "counter {key} answered {sum}");
                return Ok(killed.elapsed());
            }
            Err(e) if killed.elapsed() > LIMIT => return Err(e),
            // tidy: sleep: between two asks of a counter that is away, bounded
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}
