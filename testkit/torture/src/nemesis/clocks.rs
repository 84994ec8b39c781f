//! Faults of clocks: a wall clock that jumps, clocks that run at other rates.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use millet_testkit::SeededEntropy;

use super::{Effect, Stage, between, pick, until_valid, within};
use crate::{
    cluster::{CLIENTS, WORKERS, name},
    host::clocks::Clocks,
};

/// How far a wall clock jumps.
const HOUR: i64 = 3600;
/// The library looks at its file once a second.
const SEEN: Duration = Duration::from_secs(4);
/// Thousandths: within the 10 % that sessions allow for (R9), with room for the slewing of this machine.
const RATE: (u64, u64) = (60, 95);

/// The wall clock of one node is an hour wrong for a moment.
pub async fn jump(stage: &Stage, entropy: &SeededEntropy) -> Result<Effect> {
    let first = pick(entropy, stage.cluster.all());
    let all = stage.cluster.all().len();
    let jumping = |i: &usize| {
        let node = stage.cluster.node(*i);
        node.is_running() && node.clocks() == Clocks::Jumping
    };
    let Some(node) = (0..all).map(|n| (first + n) % all).find(jumping) else {
        return Ok(Effect::of(first, 0, false, "no node runs with such a clock"));
    };
    let (process, lives) = (stage.cluster.node(node), stage.cluster.node(node).heard().lives);
    let seconds = if entropy.below(2) == 0 { HOUR } else { -HOUR };
    let off = || {
        let truth = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let shown = process.heard().stats.wall_ms / 1000;
        i64::try_from(shown).unwrap_or(0) - i64::try_from(truth).unwrap_or(0)
    };
    process.jump(seconds)?;
    let seen = within(SEEN, || (off() - seconds).abs() < 10).await;
    tokio::time::sleep(between(entropy, Duration::from_millis(500), Duration::from_secs(3))).await;
    process.jump(0)?;
    let back = within(SEEN, || off().abs() < 10).await;
    // Another fault may have ended that life meanwhile.
    let same = process.heard().lives == lives;
    Ok(Effect::of(node, 0, seen, format!("{seconds:+} s seen: {seen}, and back: {back}; one life: {same}")))
}

/// A worker's clocks run slow and the leader's to be fast, or the other way round, while the worker is cut
/// off: the one case in which the rate of clocks decides who owns what.
pub async fn rate(stage: &Stage, entropy: &SeededEntropy) -> Result<Effect> {
    let cluster = &stage.cluster;
    let worker = pick(entropy, WORKERS);
    let member = cluster.until_led().await?;
    let by = RATE.0 + entropy.below(RATE.1 - RATE.0);
    let (slow, fast) = (Clocks::Rate(1000 - by), Clocks::Rate(1000 + by));
    let worker_slow = entropy.below(2) == 0;
    let (of_worker, of_member) = if worker_slow { (slow, fast) } else { (fast, slow) };
    for (i, clocks) in [(worker, of_worker), (member, of_member)] {
        cluster.kill(i).await?;
        cluster.start(i, clocks)?;
    }
    cluster.bring_up([worker, member]).await?;
    let session = until_valid(stage, worker).await?;
    let before = (Instant::now(), cluster.node(worker).heard());
    tokio::time::sleep(stage.ttl / 2).await;
    let pairs: Vec<_> = cluster
        .links
        .pairs()
        .filter(|(a, b)| (*a == worker || *b == worker) && *a != CLIENTS && *b != CLIENTS)
        .collect();
    pairs.iter().for_each(|p| cluster.links.change(*p, |c| c.cut = true));
    tokio::time::sleep(stage.ttl + Duration::from_secs(2)).await;
    pairs.iter().for_each(|p| cluster.links.change(*p, |c| c.cut = false));
    let rate = measured(&before, &cluster.node(worker).heard());
    until_valid(stage, worker).await?;
    for i in [worker, member] {
        cluster.kill(i).await?;
        cluster.start(i, Clocks::Jumping)?;
    }
    cluster.bring_up([worker, member]).await?;
    let Clocks::Rate(wanted) = of_worker else { unreachable!("drawn as a rate") };
    let took = rate.abs_diff(wanted) < 20;
    let what = format!("{} at {wanted}/1000 (measured {rate}), {} the other way", name(worker), name(member));
    Ok(Effect::of(worker, session, took, what))
}

/// The rate of a node's boot clock in thousandths of ours.
fn measured(before: &(Instant, crate::cluster::Heard), after: &crate::cluster::Heard) -> u64 {
    let (Some(from), Some(to)) = (before.1.at, after.at) else { return 0 };
    let ours = to.saturating_duration_since(from).as_nanos();
    let its = u128::from(after.stats.boot_ns.saturating_sub(before.1.stats.boot_ns));
    u64::try_from((its * 1000).checked_div(ours).unwrap_or(0)).unwrap_or(0)
}
