//! Faults of disks: a sync that fails, no space, no power. A member that cannot write stops; it never
//! carries on.

use std::time::Duration;

use anyhow::{Result, ensure};
use millet_testkit::SeededEntropy;

use super::{Effect, Stage, pick, until_valid, within};
use crate::{
    cluster::{MEMBERS, name},
    host::shim::Call,
};

/// Ticks are written ten times a second: a member that cannot sync has noticed long before.
const NOTICED: Duration = Duration::from_secs(10);
/// How long a disk stays full. Space that was reserved before may carry a member through.
const FULL: Duration = Duration::from_secs(6);

/// Half of the time the leader.
async fn a_member(stage: &Stage, entropy: &SeededEntropy) -> Result<usize> {
    let leader = stage.cluster.until_led().await?;
    Ok(if entropy.below(2) == 0 { leader } else { pick(entropy, MEMBERS) })
}

/// Every sync of a member fails: it must stop.
pub async fn sync_error(stage: &Stage, entropy: &SeededEntropy) -> Result<Effect> {
    let cluster = &stage.cluster;
    let member = a_member(stage, entropy).await?;
    let session = until_valid(stage, member).await?;
    let node = cluster.node(member);
    node.expect_end();
    node.shim.set(Call::Sync, true)?;
    let gone = cluster.until_gone(member, NOTICED).await;
    node.shim.set(Call::Sync, false)?;
    let failed = node.shim.failed(Call::Sync)?;
    ensure!(
        gone.is_ok() || failed == 0,
        "{} goes on although {failed} syncs failed; its log:\n{}",
        name(member),
        node.log_tail()
    );
    let said = node.log_tail().lines().any(|l| l.contains("os error 5"));
    cluster.bring_up([member]).await?;
    let what = format!("{failed} syncs failed so far, the member stopped and named the error: {said}");
    Ok(Effect::of(member, session, failed > 0, what))
}

/// A member's disk is full for a while: it goes on as long as its reserved space lasts, or stops; after
/// that it must be able to start.
pub async fn disk_full(stage: &Stage, entropy: &SeededEntropy) -> Result<Effect> {
    let cluster = &stage.cluster;
    let member = a_member(stage, entropy).await?;
    let session = until_valid(stage, member).await?;
    let node = cluster.node(member);
    node.expect_end();
    let taken = match cluster.image(member) {
        Some(image) => image.fill()?,
        None => {
            node.shim.set(Call::Write, true)?;
            0
        }
    };
    let gone = within(FULL, || !node.is_running()).await;
    let said = node.log_tail().contains("os error 28");
    if gone {
        cluster.links.set_up(member, false);
        // It must refuse to run on a full disk, or run; never damage what is there.
        cluster.start(member, node.clocks())?;
        node.expect_end();
        within(Duration::from_secs(1), || !node.is_running()).await;
    }
    match cluster.image(member) {
        Some(image) => image.free()?,
        None => node.shim.set(Call::Write, false)?,
    }
    // What is still running may have met the full disk a moment ago.
    within(Duration::from_millis(300), || !node.is_running()).await;
    if !node.is_running() {
        cluster.links.set_up(member, false);
    }
    cluster.bring_up([member]).await?;
    node.expect_no_end();
    let failed = node.shim.failed(Call::Write)?;
    let what = format!("{} MiB taken, {failed} writes refused, stopped: {gone}, named: {said}", taken >> 20);
    Ok(Effect::of(member, session, gone || failed > 0, what))
}

/// The power of every member's disk goes, and with it every process; then everything starts again on
/// what had been synced.
pub async fn power_cut(stage: &Stage) -> Result<Effect> {
    let cluster = &stage.cluster;
    for i in cluster.all() {
        cluster.node(i).expect_end();
    }
    let mut cut = 0;
    for member in MEMBERS {
        if let Some(image) = cluster.image(member) {
            image.cut()?;
            cut += 1;
        }
    }
    for i in cluster.all() {
        cluster.node(i).kill()?;
    }
    for i in cluster.all() {
        cluster.until_gone(i, NOTICED).await?;
    }
    for member in MEMBERS {
        if let Some(image) = cluster.image(member) {
            image.restore()?;
        }
    }
    cluster.rebooted();
    let start = std::time::Instant::now();
    cluster.bring_up(cluster.all()).await?;
    let what = format!("{cut} disks; all ready again after {} ms", start.elapsed().as_millis());
    Ok(Effect::everywhere(cut == MEMBERS.len(), what))
}
