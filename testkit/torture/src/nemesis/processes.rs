//! Faults of processes: killed, stopped, told to leave.

use std::time::Duration;

use anyhow::Result;
use millet_testkit::SeededEntropy;
use rustix::process::Signal;

use super::{Effect, Stage, between, pick, until_valid, within};
use crate::cluster::{MEMBERS, WORKERS, name};

/// A grain that does not answer for so long after a crash is missed.
pub const MISSED: Duration = Duration::from_secs(20);
/// A machine that stands still for longer while a crash is measured makes cluster time stand still too:
/// sessions end later, by rule.
const STOOD_STILL: Duration = Duration::from_millis(250);
/// How long a metadata failover may take here before it counts as none.
const FAILOVER: Duration = Duration::from_secs(15);

/// A worker that hosts grains, and its session.
async fn a_host(stage: &Stage, entropy: &SeededEntropy) -> Result<(usize, u64)> {
    let first = pick(entropy, WORKERS);
    let mut found = (first, until_valid(stage, first).await?);
    // After an earlier fault nobody may host anything for a moment.
    for n in 1..=LOOKS {
        if stage.prober.hosted(found.1) > 0 {
            break;
        }
        tokio::time::sleep(LOOK).await;
        let other = WORKERS.start + (first + n) % WORKERS.len();
        found = (other, until_valid(stage, other).await?);
    }
    Ok(found)
}

/// How often a worker that hosts something is looked for.
const LOOKS: usize = 300;
/// Between two such looks.
const LOOK: Duration = Duration::from_millis(20);

/// Kills a worker, and the metadata leader too; measures how long its grains are away.
pub async fn kill_worker(stage: &Stage, entropy: &SeededEntropy, leader_too: bool) -> Result<Effect> {
    let (cluster, prober) = (&stage.cluster, &stage.prober);
    // What an earlier fault left behind is not of this crash.
    within(MISSED, || prober.missing() == 0).await;
    let (worker, session) = a_host(stage, entropy).await?;
    let leader = cluster.until_led().await?;
    prober.take();
    let stalled = stage.watch.seen().stalled;
    let struck = std::time::Instant::now();
    if leader_too {
        cluster.node(leader).kill()?;
    }
    cluster.node(worker).kill()?;
    let lost = prober.crashed(session);
    cluster.until_gone(worker, FAILOVER).await?;
    if leader_too {
        cluster.until_gone(leader, FAILOVER).await?;
    }
    // Sometimes it is back long before its old session ends.
    if entropy.below(2) == 0 {
        cluster.start(worker, cluster.node(worker).clocks())?;
    }
    let back = within(MISSED, || prober.missing() == 0).await;
    let found = prober.take();
    let longest = found.iter().max().copied().unwrap_or_default();
    {
        let mut failovers = stage.record.failovers.lock();
        let stood_still = stage.watch.seen().stalled - stalled > STOOD_STILL;
        match (stood_still, leader_too) {
            (true, _) => failovers.stalled.extend(&found),
            (false, true) => failovers.leaderless.extend(&found),
            (false, false) => failovers.led.extend(&found),
        }
        failovers.missed += prober.missing();
    }
    cluster.bring_up([leader, worker]).await?;
    let what = format!("{lost} grains away, the longest for {} ms; all back: {back}", longest.as_millis());
    Ok(Effect { struck: Some(struck), ..Effect::of(worker, session, lost > 0, what) })
}

/// Stops a worker until its session has ended, then lets it go on.
pub async fn pause_worker(stage: &Stage, entropy: &SeededEntropy) -> Result<Effect> {
    let (worker, session) = a_host(stage, entropy).await?;
    let node = stage.cluster.node(worker);
    let hosted = stage.prober.hosted(session);
    let pause = stage.ttl + between(entropy, Duration::from_millis(500), Duration::from_millis(2_500));
    node.signal(Signal::STOP)?;
    tokio::time::sleep(pause).await;
    node.signal(Signal::CONT)?;
    let mut after = until_valid(stage, worker).await?;
    // It may have believed in its old session for the moment of one line.
    if after == session {
        within(stage.ttl, || node.heard().stats.session != session).await;
        after = until_valid(stage, worker).await?;
    }
    let what = format!("{} ms, held {hosted} probes; session {session} then {after}", pause.as_millis());
    Ok(Effect::of(worker, session, hosted > 0 && after != session, what))
}

/// Kills the metadata leader.
pub async fn kill_leader(stage: &Stage, entropy: &SeededEntropy) -> Result<Effect> {
    let cluster = &stage.cluster;
    let leader = cluster.until_led().await?;
    let session = cluster.node(leader).heard().stats.session;
    let start = std::time::Instant::now();
    cluster.kill(leader).await?;
    let led = within(FAILOVER, || cluster.leader().is_some_and(|l| l != leader)).await;
    let what = format!("another leads after {} ms", start.elapsed().as_millis());
    tokio::time::sleep(between(entropy, Duration::ZERO, Duration::from_secs(2))).await;
    cluster.bring_up([leader]).await?;
    Ok(Effect::of(leader, session, led, what))
}

/// Stops the metadata leader for longer than an election takes.
pub async fn pause_leader(stage: &Stage, entropy: &SeededEntropy) -> Result<Effect> {
    let cluster = &stage.cluster;
    let leader = cluster.until_led().await?;
    let session = cluster.node(leader).heard().stats.session;
    cluster.node(leader).signal(Signal::STOP)?;
    tokio::time::sleep(between(entropy, Duration::from_secs(2), stage.ttl + Duration::from_secs(2))).await;
    let other = cluster.leader().filter(|l| *l != leader);
    cluster.node(leader).signal(Signal::CONT)?;
    until_valid(stage, leader).await?;
    let what = format!("meanwhile {} led", other.map_or("nobody".into(), name));
    Ok(Effect::of(leader, session, other.is_some(), what))
}

/// Every node leaves in good order and comes back, one after the other.
pub async fn rolling(stage: &Stage) -> Result<Effect> {
    let cluster = &stage.cluster;
    let mut took = true;
    let mut times = Vec::new();
    for i in MEMBERS.chain(WORKERS) {
        until_valid(stage, i).await?;
        let time = cluster.terminate(i).await?;
        took &= cluster.node(i).ended().is_some_and(|s| s.success());
        times.push(format!("{} {} ms", name(i), time.as_millis()));
        cluster.bring_up([i]).await?;
    }
    Ok(Effect::everywhere(took, format!("left: {}", times.join(", "))))
}

/// Kills every node at once and starts them again.
pub async fn kill_all(stage: &Stage) -> Result<Effect> {
    let cluster = &stage.cluster;
    let running = cluster.all().filter(|i| cluster.node(*i).is_running()).count();
    for i in cluster.all() {
        cluster.node(i).kill()?;
    }
    for i in cluster.all() {
        cluster.until_gone(i, FAILOVER).await?;
    }
    let start = std::time::Instant::now();
    cluster.bring_up(cluster.all()).await?;
    let what = format!("{running} killed; all ready again after {} ms", start.elapsed().as_millis());
    Ok(Effect::everywhere(running == cluster.all().len(), what))
}
