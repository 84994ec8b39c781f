//! Drives the pure [`Keeper`]: turns its effects into calls over a [`KeeperLink`] and its answers into
//! inputs, keeps the node's [`SessionLease`] renewed, and watches over the main runtime (R26).
//!
//! The server runs [`keeper_loop`] on a current-thread runtime of its own OS thread, so that nothing
//! on the main runtime can delay a keepalive.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use millet_core::{
    BootTime, Clock, Revision, SessionId, SessionLease,
    control::{Point, reached},
    limits,
    model::{Keepalive, KeepaliveAnswer, NodeInfo, OpenSession, OpenedSession, WorkerLease},
};
use tokio::sync::Notify;

use crate::{
    keeper::{Effect, EndReason, Keeper, Report, To},
    meta::{KeeperLink, MetaError},
};

/// One request to a member is given up after this; a repeat under the same number is long under way.
const REQUEST_LIMIT: Duration = Duration::from_secs(1);
/// Requests under way to one member; at one repeat per 100 ms none is skipped before they time out.
const PENDING_PER_MEMBER: usize = 12;
/// The loop looks around at least this often, for the watchdog and for reports.
const LOOK: Duration = Duration::from_millis(100);
/// The watchdog counts at most this much per look: time in which the keeper did not run either (a
/// suspended machine) is not held against the runtime.
const LOOK_COUNTS: Duration = Duration::from_secs(1);

/// What the main runtime tells the keeper's thread. All plain atomics: neither side waits.
#[derive(Debug, Default)]
pub struct Vitals {
    revision: AtomicU64,
    activations: AtomicU64,
    reserve_ms: AtomicU64,
    probe: AtomicU64,
    stopped: AtomicBool,
    wake: Notify,
}

impl Vitals {
    /// How far the watch is.
    pub fn set_revision(&self, revision: Revision) {
        self.revision.fetch_max(revision.0, Ordering::AcqRel);
    }

    /// The main runtime ran its probe task (R26), and this is its load and its wish for snowflakes.
    pub fn beat(&self, activations: u64, reserve_ms: u64) {
        self.activations.store(activations, Ordering::Relaxed);
        self.reserve_ms.store(reserve_ms, Ordering::Relaxed);
        self.probe.fetch_add(1, Ordering::AcqRel);
    }

    /// Ends the keeper: it renews nothing and opens nothing any more. Returns at once.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    /// Whether [`Vitals::stop`] was called.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    fn report(&self) -> Report {
        Report {
            revision: Revision(self.revision.load(Ordering::Acquire)),
            activations: self.activations.load(Ordering::Relaxed),
            reserve_ms: self.reserve_ms.load(Ordering::Relaxed),
        }
    }
}

/// What the keeper tells the node. Handed to a callback on the keeper's thread, which must return at once.
#[derive(Clone, Debug)]
pub enum KeeperEvent {
    /// The session has been renewed for the first time and may be used (R7).
    Ready {
        /// The session: the one object that everything done under it is checked against (R12).
        session: Arc<SessionLease>,
        /// Its snowflake worker, if one was free.
        worker: Option<WorkerLease>,
    },
    /// Renewed again.
    Renewed {
        /// The session.
        session: SessionId,
        /// Snowflake milliseconds reserved (R33).
        reserved_ms: u64,
    },
    /// Past the local deadline (R4).
    Frozen(SessionId),
    /// Renewed after a freeze (R4).
    Thawed(SessionId),
    /// Over: its lease object is already dead; drop everything done under it, without saving (R4, R28).
    Ended(SessionId),
    /// Sessions known to have ended as of a revision (R17).
    EndedElsewhere {
        /// Which.
        sessions: Vec<SessionId>,
        /// As of when.
        revision: Revision,
    },
    /// The watch must start over (R17).
    Resync,
    /// For people.
    Alarm(String),
}

/// Who this process is, for `OpenSession`.
#[derive(Clone, Debug)]
pub struct KeeperIdentity {
    /// Random per process start (R7).
    pub incarnation: u128,
    /// The node.
    pub node: NodeInfo,
}

enum Answer {
    Opened(u32, Result<OpenedSession, MetaError>),
    Keepalive { member: usize, number: u64, result: Result<KeepaliveAnswer, MetaError> },
}

/// Runs the keeper until [`Vitals::stop`], or until the main runtime has not run its probe for
/// [`limits::WATCHDOG`]: then nothing is renewed any more and `fatal` is called, which should abort the
/// process (R26).
///
/// Cancel safety: dropping it stops renewing; the session then expires by itself.
pub async fn keeper_loop(
    keeper: Keeper,
    identity: KeeperIdentity,
    link: Arc<dyn KeeperLink>,
    clock: Arc<dyn Clock>,
    vitals: Arc<Vitals>,
    on_event: impl Fn(KeeperEvent) + Send,
    fatal: impl FnOnce(String) + Send,
) {
    let mut driver = Driver {
        keeper,
        identity,
        pending: vec![0; link.members()],
        link,
        clock,
        on_event,
        answers: FuturesUnordered::new(),
        lease: None,
    };
    let mut watchdog = Watchdog::new(driver.clock.boottime());
    while !vitals.is_stopped() {
        let now = driver.clock.boottime();
        if watchdog.look(now, vitals.probe.load(Ordering::Acquire)) {
            driver.keeper.stop();
            let limit = limits::WATCHDOG;
            return fatal(format!(
                "the async runtime has not run its probe task for {limit:?}: a turn blocks its threads; the node stops"
            ));
        }
        driver.keeper.report(vitals.report());
        let effects = driver.keeper.step(now);
        driver.perform(effects);
        let wait = driver.keeper.next_wake().since(driver.clock.boottime()).min(LOOK);
        tokio::select! {
            Some(answer) = driver.answers.next(), if !driver.answers.is_empty() => driver.take(answer),
            () = tokio::time::sleep(wait) => {}
            () = vitals.wake.notified() => {}
        }
    }
    driver.keeper.stop();
}

struct Driver<F> {
    keeper: Keeper,
    identity: KeeperIdentity,
    link: Arc<dyn KeeperLink>,
    clock: Arc<dyn Clock>,
    on_event: F,
    answers: FuturesUnordered<BoxFuture<'static, Answer>>,
    /// Requests under way, per member.
    pending: Vec<usize>,
    lease: Option<(Arc<SessionLease>, Option<WorkerLease>)>,
}

impl<F: Fn(KeeperEvent)> Driver<F> {
    fn take(&mut self, answer: Answer) {
        let now = self.clock.boottime();
        let effects = match answer {
            Answer::Opened(attempt, Ok(opened)) => self.keeper.opened(now, attempt, &opened),
            Answer::Opened(attempt, Err(error)) => {
                tracing::warn!(%error, attempt, "no session yet");
                self.keeper.open_failed(now, attempt);
                Vec::new()
            }
            Answer::Keepalive { member, number, result } => {
                self.pending[member] -= 1;
                match result {
                    Ok(answer) => self.keeper.answered(now, member, &answer),
                    Err(error) => {
                        tracing::debug!(%error, member, number, "keepalive not answered");
                        self.keeper.send_failed(now, number);
                        Vec::new()
                    }
                }
            }
        };
        self.perform(effects);
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Open { attempt } => self.open(attempt),
                Effect::Send { to: To::Member(member), keepalive } => self.send(member, &keepalive),
                Effect::Send { to: To::All, keepalive } => {
                    (0..self.pending.len()).for_each(|member| self.send(member, &keepalive));
                }
                Effect::Opened { session, ttl, worker } => {
                    self.lease = Some((Arc::new(SessionLease::opened(session, ttl)), worker));
                }
                Effect::Renewed { session, sent, reserved_ms } => {
                    if let Some((lease, _)) = &self.lease {
                        debug_assert_eq!(lease.id(), session);
                        lease.renewed(sent);
                    }
                    (self.on_event)(KeeperEvent::Renewed { session, reserved_ms });
                }
                Effect::Ready { .. } => {
                    if let Some((lease, worker)) = &self.lease {
                        (self.on_event)(KeeperEvent::Ready { session: lease.clone(), worker: *worker });
                    }
                }
                Effect::Frozen { session } => {
                    tracing::warn!(%session, "frozen: not renewed in time");
                    (self.on_event)(KeeperEvent::Frozen(session));
                }
                Effect::Thawed { session } => {
                    tracing::info!(%session, "thawed");
                    (self.on_event)(KeeperEvent::Thawed(session));
                }
                Effect::Ended { session, why } => self.ended(session, why),
                Effect::EndedElsewhere { sessions, revision } => {
                    (self.on_event)(KeeperEvent::EndedElsewhere { sessions, revision });
                }
                Effect::Resync => (self.on_event)(KeeperEvent::Resync),
                Effect::Alarm(text) => {
                    tracing::error!("{text}");
                    (self.on_event)(KeeperEvent::Alarm(text));
                }
            }
        }
    }

    /// The lease object dies first: whatever still runs fails its exit check from here on (R12).
    fn ended(&mut self, session: SessionId, why: EndReason) {
        if let Some((lease, _)) = self.lease.take() {
            lease.end();
        }
        tracing::warn!(%session, ?why, "session ended");
        (self.on_event)(KeeperEvent::Ended(session));
    }

    fn open(&self, attempt: u32) {
        let open = OpenSession {
            incarnation: self.identity.incarnation,
            attempt,
            node: self.identity.node.clone(),
            ttl: self.keeper.ttl(),
        };
        let link = self.link.clone();
        self.answers.push(
            async move {
                let result = limited(link.open(open)).await;
                Answer::Opened(attempt, result)
            }
            .boxed(),
        );
    }

    fn send(&mut self, member: usize, keepalive: &Keepalive) {
        if self.pending.get(member).is_none_or(|n| *n >= PENDING_PER_MEMBER) {
            return;
        }
        self.pending[member] += 1;
        reached(Point::KeepaliveCounted);
        let (link, keepalive, number) = (self.link.clone(), keepalive.clone(), keepalive.number);
        self.answers.push(
            async move {
                let result = limited(link.keepalive(member, keepalive)).await;
                Answer::Keepalive { member, number, result }
            }
            .boxed(),
        );
    }
}

async fn limited<T>(request: millet_core::BoxFuture<'_, Result<T, MetaError>>) -> Result<T, MetaError> {
    tokio::time::timeout(REQUEST_LIMIT, request)
        .await
        .unwrap_or_else(|_| Err(MetaError::Unavailable(format!("no answer within {REQUEST_LIMIT:?}"))))
}

/// Counts how long the probe stood still.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Watchdog {
    probe: u64,
    still: Duration,
    looked: BootTime,
}

impl Watchdog {
    fn new(now: BootTime) -> Self {
        Self { probe: 0, still: Duration::ZERO, looked: now }
    }

    /// Whether the probe has stood still for [`limits::WATCHDOG`] of the keeper's own running time.
    fn look(&mut self, now: BootTime, probe: u64) -> bool {
        let passed = now.since(self.looked).min(LOOK_COUNTS);
        self.looked = now;
        if probe == self.probe {
            self.still += passed;
        } else {
            self.probe = probe;
            self.still = Duration::ZERO;
        }
        self.still >= limits::WATCHDOG
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A runtime that does not run its probe is given up after 10 s; a suspended machine is not.
    #[test]
    fn r26_the_watchdog_bites_after_ten_seconds_without_a_probe() {
        let mut now = BootTime(0);
        let mut dog = Watchdog::new(now);
        for probe in 1..=300 {
            now = now.after(LOOK);
            assert!(!dog.look(now, probe), "probes run");
        }
        now = now.after(Duration::from_secs(3600));
        assert!(!dog.look(now, 300), "the machine slept");
        let bites = (0..200).take_while(|_| {
            now = now.after(LOOK);
            !dog.look(now, 300)
        });
        assert_eq!(bites.count(), 89, "9 s after the one second that the sleep counted for");
    }
}
