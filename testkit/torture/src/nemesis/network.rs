//! Faults of links: cut, one way, reset, slow; and by packet filters.

use std::time::Duration;

use anyhow::Result;
use millet_testkit::SeededEntropy;

use super::{Effect, Stage, between, pick, until_valid};
use crate::{
    cluster::{CLIENTS, MEMBERS, NODES, WORKERS, name},
    host::netns::{self, Verdict},
};

type Pair = (usize, usize);

/// Cuts these ways for a while; returns the bytes that were held.
async fn cut(stage: &Stage, pairs: &[Pair], time: Duration) -> u64 {
    let links = &stage.cluster.links;
    let held = || pairs.iter().map(|p| links.flow(*p).1).sum::<u64>();
    let before = held();
    pairs.iter().for_each(|p| links.change(*p, |c| c.cut = true));
    tokio::time::sleep(time).await;
    pairs.iter().for_each(|p| links.change(*p, |c| c.cut = false));
    held() - before
}

/// Every way from and to a node.
fn around(stage: &Stage, node: usize, clients_too: bool) -> Vec<Pair> {
    let links = &stage.cluster.links;
    links
        .pairs()
        .filter(|(a, b)| (*a == node || *b == node) && (clients_too || (*a != CLIENTS && *b != CLIENTS)))
        .collect()
}

/// Shorter than a session lives, or longer.
fn while_cut(stage: &Stage, entropy: &SeededEntropy) -> Duration {
    match entropy.below(2) {
        0 => between(entropy, Duration::from_millis(500), stage.ttl / 2),
        _ => between(entropy, stage.ttl, stage.ttl + Duration::from_secs(3)),
    }
}

/// A worker hears nobody and nobody hears it; its clients sometimes still do.
pub async fn isolate_worker(stage: &Stage, entropy: &SeededEntropy) -> Result<Effect> {
    let worker = pick(entropy, WORKERS);
    let session = until_valid(stage, worker).await?;
    let clients_too = entropy.below(2) == 0;
    let time = while_cut(stage, entropy);
    let held = cut(stage, &around(stage, worker, clients_too), time).await;
    let after = until_valid(stage, worker).await?;
    let what = format!(
        "{} ms, {held} bytes held, clients too: {clients_too}; session {session} then {after}",
        time.as_millis()
    );
    Ok(Effect::of(worker, session, held > 0, what))
}

/// The metadata leader hears nobody and nobody hears it.
pub async fn isolate_leader(stage: &Stage, entropy: &SeededEntropy) -> Result<Effect> {
    let leader = stage.cluster.until_led().await?;
    let session = stage.cluster.node(leader).heard().stats.session;
    let time = between(entropy, Duration::from_millis(1_500), Duration::from_secs(6));
    let pairs = around(stage, leader, true);
    let (held, other) = tokio::join!(cut(stage, &pairs, time), async {
        super::within(time, || stage.cluster.leader().is_some_and(|l| l != leader)).await
    });
    stage.cluster.until_led().await?;
    until_valid(stage, leader).await?;
    let what = format!("{} ms, {held} bytes held; another led: {other}", time.as_millis());
    Ok(Effect::of(leader, session, held > 0, what))
}

/// A node is heard by nobody (or by one other not), and hears everybody; or the other way round.
pub async fn one_way_cut(stage: &Stage, entropy: &SeededEntropy) -> Result<Effect> {
    let node = pick(entropy, WORKERS);
    let session = until_valid(stage, node).await?;
    let others: Vec<usize> = match entropy.below(3) {
        0 => (0..NODES).filter(|o| *o != node).collect(),
        1 => MEMBERS.collect(),
        _ => vec![(node + 1 - WORKERS.start) % WORKERS.len() + WORKERS.start],
    };
    let out = entropy.below(2) == 0;
    let pairs: Vec<Pair> = others.iter().map(|o| if out { (node, *o) } else { (*o, node) }).collect();
    let time = while_cut(stage, entropy);
    let held = cut(stage, &pairs, time).await;
    until_valid(stage, node).await?;
    let way = if out { "to" } else { "from" };
    let names: Vec<_> = others.iter().map(|o| name(*o)).collect();
    let what = format!("{} ms, {way} {}: {held} bytes held", time.as_millis(), names.join(" "));
    Ok(Effect::of(node, session, held > 0, what))
}

/// Two members cannot hear each other, the third hears both; every worker hears two members of three and
/// one worker of two.
pub async fn ring(stage: &Stage, entropy: &SeededEntropy) -> Result<Effect> {
    let leader = stage.cluster.until_led().await?;
    let step = 1 + usize::try_from(entropy.below(2)).expect("small");
    let other = (leader + step) % MEMBERS.len();
    let mut pairs = vec![(leader, other), (other, leader)];
    for (i, worker) in WORKERS.enumerate() {
        let deaf_to = (i + step) % MEMBERS.len();
        pairs.extend([(worker, deaf_to), (deaf_to, worker)]);
    }
    pairs.extend([(WORKERS.start, WORKERS.start + 1), (WORKERS.start + 1, WORKERS.start)]);
    let time = between(entropy, Duration::from_secs(2), Duration::from_secs(6));
    let held = cut(stage, &pairs, time).await;
    for i in stage.cluster.all() {
        until_valid(stage, i).await?;
    }
    let what =
        format!("{} ms, {} and {} apart: {held} bytes held", time.as_millis(), name(leader), name(other));
    Ok(Effect::of(leader, 0, held > 0, what))
}

/// Every connection of the cluster ends with RST.
pub async fn reset_links(stage: &Stage) -> Result<Effect> {
    let links = &stage.cluster.links;
    let carrying: Vec<_> = links.pairs().filter(|p| links.flow(*p).0 > 0).collect();
    for pair in links.pairs() {
        links.change(pair, |c| c.resets += 1);
    }
    let what = format!("{} ways had carried bytes", carrying.len());
    Ok(Effect::everywhere(!carrying.is_empty(), what))
}

/// One node's links are late, narrow and lossy.
pub async fn slow_link(stage: &Stage, entropy: &SeededEntropy) -> Result<Effect> {
    let links = &stage.cluster.links;
    let node = pick(entropy, stage.cluster.all());
    let pairs = around(stage, node, true);
    let carried = || pairs.iter().map(|p| links.flow(*p).0).sum::<u64>();
    let delay = between(entropy, Duration::from_millis(5), Duration::from_millis(60));
    let bytes_per_second = 128 * 1024 + entropy.below(512 * 1024);
    let lost_per_mille = entropy.below(60);
    let before = carried();
    for pair in &pairs {
        links.change(*pair, |c| {
            (c.delay, c.bytes_per_second, c.lost_per_mille) = (delay, bytes_per_second, lost_per_mille);
        });
    }
    tokio::time::sleep(between(entropy, Duration::from_secs(2), Duration::from_secs(6))).await;
    for pair in &pairs {
        links.change(*pair, |c| (c.delay, c.bytes_per_second, c.lost_per_mille) = (Duration::ZERO, 0, 0));
    }
    let bytes = carried() - before;
    let what =
        format!("{delay:?}, {} KiB/s, {lost_per_mille}/1000 lost: {bytes} bytes", bytes_per_second / 1024);
    Ok(Effect::of(node, 0, bytes > 0, what))
}

/// A worker's packets meet a filter in its network namespace.
pub async fn filtered(stage: &Stage, entropy: &SeededEntropy, verdict: Verdict) -> Result<Effect> {
    let worker = pick(entropy, WORKERS);
    let session = until_valid(stage, worker).await?;
    let others: Vec<usize> = match entropy.below(2) {
        0 => (0..NODES).filter(|o| *o != worker).collect(),
        _ => MEMBERS.collect(),
    };
    let time = while_cut(stage, entropy);
    netns::filter(worker, &others, verdict)?;
    tokio::time::sleep(time).await;
    let packets = netns::open(worker)?;
    until_valid(stage, worker).await?;
    let what = format!("{} ms, {verdict:?} from {} nodes: {packets} packets", time.as_millis(), others.len());
    Ok(Effect::of(worker, session, packets > 0, what))
}
