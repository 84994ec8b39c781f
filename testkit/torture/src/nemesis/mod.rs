//! The nemesis: series of faults beside each other, from a seed, each with its recovery; and the record of
//! what each did. A fault that changed nothing is recorded as such: it proves nothing.
//!
//! - `kind`: the table of faults and their order.
//! - `processes`, `network`, `disks`, `clocks`: the faults.

mod clocks;
mod disks;
mod kind;
mod network;
mod processes;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use millet_oracle::history::Fault;
use millet_testkit::SeededEntropy;
use millet_workload::Recorder;
use parking_lot::Mutex;
use tokio::task::JoinSet;

pub use kind::{Kind, Series};

use crate::{
    cluster::{Shared, name},
    probe::Prober,
    watch::Watch,
};

/// What a fault did.
pub struct Effect {
    /// Whom it hit.
    pub target: String,
    /// The session that the target held.
    pub session: Option<u64>,
    /// When it struck, where that is later than its turn began.
    pub struck: Option<Instant>,
    /// Whether it did what it is for.
    pub took: bool,
    /// What was seen of it.
    pub what: String,
}

impl Effect {
    fn of(node: usize, session: u64, took: bool, what: impl Into<String>) -> Self {
        let session = (session != 0).then_some(session);
        Self { target: name(node), session, struck: None, took, what: what.into() }
    }

    fn everywhere(took: bool, what: String) -> Self {
        Self { target: "all".into(), session: None, struck: None, took, what }
    }
}

/// Times from a crash to first answers.
#[derive(Clone, Default)]
pub struct Failovers {
    /// The metadata leader lived.
    pub led: Vec<Duration>,
    /// It was killed at the same moment.
    pub leaderless: Vec<Duration>,
    /// Measured while this machine stood still for a while: what they say is not judged.
    pub stalled: Vec<Duration>,
    /// Grains that did not come back within [`processes::MISSED`].
    pub missed: usize,
}

/// What became of the faults.
#[derive(Default)]
pub struct Record {
    /// Measured by the faults that kill workers.
    pub failovers: Mutex<Failovers>,
}

/// What a fault works with.
#[derive(Clone)]
pub struct Stage {
    /// The nodes.
    pub cluster: Shared,
    /// Measures.
    pub prober: Arc<Prober>,
    /// Remembers.
    pub record: Arc<Record>,
    /// Writes the history.
    pub recorder: Arc<Recorder>,
    /// Watches the machine.
    pub watch: Arc<Watch>,
    /// A session's time to live.
    pub ttl: Duration,
}

impl Stage {
    /// A moment of the past on the history's axis.
    fn micros(&self, at: Instant) -> u64 {
        let ago = u64::try_from(at.elapsed().as_micros()).unwrap_or(0);
        self.recorder.now().saturating_sub(ago)
    }

    fn note(&self, kind: Kind, start: Instant, effect: Effect) {
        let Effect { target, session, struck, took, what } = effect;
        tracing::info!(fault = kind.name(), target, took, ms = start.elapsed().as_millis(), "over: {what}");
        let fault = Fault {
            kind: kind.name().into(),
            target,
            session,
            start: self.micros(struck.unwrap_or(start)),
            end: self.recorder.now(),
            took_effect: took,
        };
        self.recorder.fault(fault);
    }
}

/// Between two faults of one series: short, so that recoveries overlap faults of other series.
const GAP_MS: (u64, u64) = (300, 2_500);

/// Runs faults of these kinds until the time is over and every kind has had its turn.
///
/// # Errors
/// A node did not recover from a fault, or the machine did not do what it is told to.
pub async fn run(stage: &Stage, seed: u64, kinds: &[Kind], until: Instant) -> Result<()> {
    let grounds = Arc::<Grounds>::default();
    let mut all = JoinSet::new();
    for series in [Series::Members, Series::Workers, Series::Mild] {
        let order = kind::Order::new(seed, series, kinds);
        all.spawn(one_series(stage.clone(), order, grounds.clone(), until));
    }
    while let Some(ended) = all.join_next().await {
        ended.context("a series of faults ended badly")??;
    }
    Ok(())
}

/// What faults have for themselves, always taken in this order.
#[derive(Default)]
struct Grounds {
    members: tokio::sync::Mutex<()>,
    workers: tokio::sync::Mutex<()>,
    mild: tokio::sync::Mutex<()>,
}

async fn one_series(
    stage: Stage,
    mut order: kind::Order,
    grounds: Arc<Grounds>,
    until: Instant,
) -> Result<()> {
    while Instant::now() < until || !order.is_complete() {
        let Some((kind, entropy)) = order.next() else { return Ok(()) };
        let (from, to) = GAP_MS;
        tokio::time::sleep(Duration::from_millis(from + entropy.below(to - from))).await;
        let ground = kind.ground();
        let _members = if ground.members { Some(grounds.members.lock().await) } else { None };
        let _workers = if ground.workers { Some(grounds.workers.lock().await) } else { None };
        let _mild = if ground.mild { Some(grounds.mild.lock().await) } else { None };
        let start = Instant::now();
        tracing::info!(fault = kind.name(), "begins");
        let effect =
            strike(&stage, kind, &entropy).await.with_context(|| format!("fault {}", kind.name()))?;
        if effect.took {
            order.effective(kind);
        } else {
            order.in_vain(kind);
        }
        stage.note(kind, start, effect);
    }
    Ok(())
}

async fn strike(stage: &Stage, kind: Kind, entropy: &SeededEntropy) -> Result<Effect> {
    match kind {
        Kind::KillWorker => processes::kill_worker(stage, entropy, false).await,
        Kind::KillWorkerAndLeader => processes::kill_worker(stage, entropy, true).await,
        Kind::PauseWorker => processes::pause_worker(stage, entropy).await,
        Kind::KillLeader => processes::kill_leader(stage, entropy).await,
        Kind::PauseLeader => processes::pause_leader(stage, entropy).await,
        Kind::Rolling => processes::rolling(stage).await,
        Kind::KillAll => processes::kill_all(stage).await,
        Kind::IsolateWorker => network::isolate_worker(stage, entropy).await,
        Kind::IsolateLeader => network::isolate_leader(stage, entropy).await,
        Kind::OneWayCut => network::one_way_cut(stage, entropy).await,
        Kind::Ring => network::ring(stage, entropy).await,
        Kind::ResetLinks => network::reset_links(stage).await,
        Kind::SlowLink => network::slow_link(stage, entropy).await,
        Kind::PacketDrop => network::filtered(stage, entropy, crate::host::netns::Verdict::Drop).await,
        Kind::PacketReset => network::filtered(stage, entropy, crate::host::netns::Verdict::Reset).await,
        Kind::SyncError => disks::sync_error(stage, entropy).await,
        Kind::DiskFull => disks::disk_full(stage, entropy).await,
        Kind::PowerCut => disks::power_cut(stage).await,
        Kind::ClockJump => clocks::jump(stage, entropy).await,
        Kind::ClockRate => clocks::rate(stage, entropy).await,
        Kind::ReplaceMember => disks::replace_member(stage, entropy).await,
    }
}

/// A position out of a range.
fn pick(entropy: &SeededEntropy, from: std::ops::Range<usize>) -> usize {
    from.start + usize::try_from(entropy.below(from.len() as u64)).expect("an index")
}

/// A time between two, in milliseconds.
fn between(entropy: &SeededEntropy, from: Duration, to: Duration) -> Duration {
    let (from, to) = (from.as_millis(), to.as_millis());
    let span = u64::try_from(to.saturating_sub(from)).unwrap_or(0).max(1);
    Duration::from_millis(u64::try_from(from).unwrap_or(0) + entropy.below(span))
}

/// How long a node may take to have a valid session again once nothing holds it up.
const RECOVERY: Duration = Duration::from_secs(30);

/// Waits until a node has a valid session; returns it.
async fn until_valid(stage: &Stage, i: usize) -> Result<u64> {
    let start = Instant::now();
    loop {
        let node = stage.cluster.node(i);
        let heard = node.heard();
        if heard.at.is_some_and(|at| at > start) && heard.stats.valid {
            return Ok(heard.stats.session);
        }
        anyhow::ensure!(
            start.elapsed() < RECOVERY,
            "{} has no valid session {RECOVERY:?} after the fault; its log:\n{}",
            name(i),
            node.log_tail()
        );
        tokio::time::sleep(crate::cluster::LOOK).await;
    }
}

/// Waits until `cond` holds, at most `limit`; says whether it did.
async fn within(limit: Duration, mut cond: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + limit;
    while !cond() {
        if Instant::now() > until {
            return false;
        }
        tokio::time::sleep(crate::cluster::LOOK).await;
    }
    true
}
