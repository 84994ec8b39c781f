//! Faults of disks: a sync that fails, no space, no power. A member that cannot write stops; it never
//! carries on.

use std::time::Duration;

use anyhow::{Result, ensure};
use millet_proto::wire::{ReplaceMemberRequest, members_client::MembersClient};
use millet_testkit::SeededEntropy;

use super::{Effect, Stage, pick, until_valid, within};
use crate::{
    cluster::{MEMBERS, name},
    host::shim::Call,
};

/// Ticks are written ten times a second: a member that cannot sync has noticed long before.
const NOTICED: Duration = Duration::from_secs(10);
/// How long a member may go on on a full disk: with space that it has reserved before.
const FULL: Duration = Duration::from_secs(3);
/// How long a start on a full disk is watched.
const START: Duration = Duration::from_secs(4);

/// A fresh member copies everything and catches up within this, or something is wrong.
const REPLACED: Duration = Duration::from_secs(45);
/// One request to replace a member, which itself waits for a while.
const ASKED: Duration = Duration::from_secs(8);

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
    let before = node.log_bytes();
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
    let said = node.has_said("os error 5", before);
    cluster.bring_up([member]).await?;
    let what = format!("{failed} syncs failed so far, the member stopped and named the error: {said}");
    Ok(Effect::of(member, session, failed > 0, what))
}

/// A member's disk is full for a while: it goes on as long as its reserved space lasts, or stops. It is
/// started on the full disk, where it must refuse or run; and once there is space it must run.
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
    let before = node.log_bytes();
    let named = || node.has_said("No space left on device", before);
    let stopped = full(stage, member, FULL).await?;
    let said = named();
    cluster.kill(member).await?;
    if let Some(image) = cluster.image(member) {
        image.fill()?;
    }
    cluster.start(member, node.clocks())?;
    node.expect_end();
    let refused = full(stage, member, START).await?;
    let said = said || named();
    match cluster.image(member) {
        Some(image) => image.free()?,
        None => node.shim.set(Call::Write, false)?,
    }
    // A process that met the full disk may still be on its way out.
    cluster.kill(member).await?;
    cluster.bring_up([member]).await?;
    let what =
        format!("{} MiB taken; stopped: {stopped}, refused to start: {refused}, named: {said}", taken >> 20);
    Ok(Effect::of(member, session, (stopped || refused) && said, what))
}

/// Keeps a disk full, whatever the member gives back, until it stops or the time is over; says whether it
/// stopped.
async fn full(stage: &Stage, member: usize, time: Duration) -> Result<bool> {
    const EVERY: Duration = Duration::from_millis(25);
    let until = std::time::Instant::now() + time;
    while std::time::Instant::now() < until {
        if let Some(image) = stage.cluster.image(member) {
            image.fill()?;
        }
        if within(EVERY, || !stage.cluster.node(member).is_running()).await {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A member loses its disk for good: a fresh one comes in its place, at the same address, under load.
pub async fn replace_member(stage: &Stage, entropy: &SeededEntropy) -> Result<Effect> {
    let cluster = &stage.cluster;
    let lost = a_member(stage, entropy).await?;
    let session = until_valid(stage, lost).await?;
    let node = cluster.node(lost);
    let old = node.heard().stats.member;
    cluster.kill(lost).await?;
    node.lose_disk()?;
    cluster.start(lost, node.clocks())?;
    let through = (lost + 1) % MEMBERS.len();
    let admin = format!("http://{}", cluster.node(through).admin());
    let request =
        ReplaceMemberRequest { cluster: String::new(), member: old, addr: node.peer(), limit_ms: 5_000 };
    let start = std::time::Instant::now();
    // Between the death of a leader and the next one nothing can be changed: the same request again goes on.
    let mut answer = String::from("none");
    let done = loop {
        let asked =
            async { Ok(MembersClient::connect(admin.clone()).await?.replace(request.clone()).await?) };
        let asked: Result<_> = tokio::time::timeout(ASKED, asked).await.unwrap_or_else(|e| Err(e.into()));
        match asked {
            Ok(changed) if changed.get_ref().done => break true,
            Ok(changed) => answer = changed.get_ref().text.clone(),
            Err(e) => answer = format!("{e:#}"),
        }
        if start.elapsed() > REPLACED {
            break false;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    ensure!(done, "{} was not replaced within {REPLACED:?}: {answer}", name(lost));
    cluster.until_ready(lost).await?;
    until_valid(stage, lost).await?;
    let new = node.heard().stats.member;
    let what = format!("member {old} is member {new} after {} ms", start.elapsed().as_millis());
    Ok(Effect::of(lost, session, new != old && new != 0, what))
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
    let start = std::time::Instant::now();
    cluster.bring_up(cluster.all()).await?;
    let what = format!("{cut} disks; all ready again after {} ms", start.elapsed().as_millis());
    Ok(Effect::everywhere(cut == MEMBERS.len(), what))
}
