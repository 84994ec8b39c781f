//! What this member does while it leads: renews sessions, keeps cluster time, plans shards, sweeps. On a
//! thread of its own (R21); the decisions are `leader`'s, this only carries them out.

use std::{future::Future, io, pin::Pin, sync::Arc, time::Duration};

use futures::{StreamExt, stream::FuturesUnordered};
use millet_core::{
    Clock, SessionId,
    control::{Point, reached},
    model::{Keepalive, KeepaliveAnswer},
    world::Threads,
};
use parking_lot::RwLock;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::MissedTickBehavior,
};

use super::running::Tide;
use crate::{
    leader::{LeaderClock, Offered, Planner, Proposal, Renewals, Turn},
    machine::{Command, Init, Machine, MetaGroup, Reply},
    raft::{Group, ProposeError},
    state::{StateCommand, StateGroup},
};

/// A proposal that is not applied by then: its renewals go into the next Tick.
const COMMIT: Duration = Duration::from_secs(1);
/// The planner looks at everything after so many Ticks, changes or not.
const PLAN: u32 = 10;
/// Sweeps of dead lease rows, in Ticks, while there are any.
const SWEEP: u32 = 10;
/// Rows one sweep looks at: below a millisecond of apply.
const SWEEP_ROWS: u32 = 4096;
/// How often the `state` group's leader looks for a newer oldest session.
const RELAY: Duration = Duration::from_millis(500);

/// A keepalive that waits for its Tick. Dropped unanswered when leadership ends.
pub(crate) struct KeepaliveIn {
    pub(crate) keepalive: Keepalive,
    pub(crate) to: oneshot::Sender<KeepaliveAnswer>,
}

/// See the module.
pub(super) struct Driver {
    pub(super) meta: Group<MetaGroup>,
    pub(super) state: Group<StateGroup>,
    pub(super) machine: Arc<RwLock<Machine>>,
    pub(super) clock: Arc<dyn Clock>,
    /// Between two Ticks (docs/config.md, `cluster.tick_ms`).
    pub(super) tick: Duration,
    pub(super) init: Init,
    pub(super) keepalives: mpsc::Receiver<KeepaliveIn>,
    pub(super) tide: watch::Receiver<Tide>,
    pub(super) fail: watch::Sender<Option<String>>,
}

type Answer = oneshot::Sender<KeepaliveAnswer>;
type Applied = Result<Reply, ProposeError>;

/// What came of something proposed.
enum Outcome {
    Ticked(Box<Proposal<Answer>>, Applied),
    Initialized(Applied),
    Decided(Applied),
    Swept(Applied),
}

type InFlight = FuturesUnordered<Pin<Box<dyn Future<Output = Outcome> + Send>>>;

/// One leadership.
struct Duty {
    term: u64,
    clock: LeaderClock,
    renewals: Renewals<Answer>,
    planner: Planner,
    /// Watch events at the last plan.
    planned: u64,
    /// The Tick at which to plan again without any.
    plan_at: u32,
    ticks: u32,
    ticking: bool,
    initializing: bool,
    deciding: bool,
    sweeping: bool,
}

impl Driver {
    /// Runs on a thread of its own until `stop`.
    pub(super) fn start(self, threads: &dyn Threads, stop: watch::Receiver<bool>) -> io::Result<()> {
        let end = End(self.fail.clone());
        let body = async move {
            let _end = end;
            self.run(stop).await;
        };
        threads.run("meta-leader", Box::pin(body), Box::new(|| ()))
    }

    async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let (state, machine, fail, meta) =
            (self.state.clone(), Arc::clone(&self.machine), self.fail.clone(), self.meta.clone());
        let stopping = stop.clone();
        let lead = async {
            self.lead_again_and_again().await;
            // Raft has ended: `look_for_failure` still has to say why.
            std::future::pending::<()>().await;
        };
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => {}
            () = lead => {}
            () = relay_oldest(&state, &machine) => {}
            () = look_for_failure(&meta, &state, &fail, &stopping) => {}
        }
    }

    /// Until Raft has ended.
    async fn lead_again_and_again(&mut self) {
        let mut leadership = self.meta.leadership();
        loop {
            tokio::select! {
                // The guard is let go at once: this future may move between threads.
                term = async { leadership.wait_for(|l| l.established).await.map(|l| l.term) } => {
                    let Ok(term) = term else { return };
                    tracing::info!(term, "leads the metadata store");
                    let goes_on = self.lead(term).await;
                    tracing::info!(term, "leads the metadata store no more");
                    if !goes_on {
                        return;
                    }
                }
                // Not ours to answer: dropped, its sender is told to ask the leader.
                keepalive = self.keepalives.recv() => if keepalive.is_none() { return },
            }
        }
    }

    /// False when Raft itself has ended.
    async fn lead(&mut self, term: u64) -> bool {
        let mut leadership = self.meta.leadership();
        let mut duty = Duty::new(term, self.tick);
        // The base: what is applied once the first entry of this leadership is, then the clock (R21).
        let applied_ms = self.machine.read().time_ms();
        duty.clock.start(applied_ms, self.clock.boottime());
        let mut in_flight = InFlight::new();
        let mut timer = tokio::time::interval(self.tick);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                over = leadership.wait_for(|l| !l.own || l.term != term) => return over.is_ok(),
                Some(outcome) = in_flight.next() => self.finished(&mut duty, outcome),
                _ = timer.tick() => self.tick(&mut duty, &in_flight),
                keepalive = self.keepalives.recv() => match keepalive {
                    Some(keepalive) => self.offer(&mut duty, keepalive),
                    None => return false,
                },
            }
            self.plan(&mut duty, &in_flight);
        }
    }

    fn offer(&self, duty: &mut Duty, KeepaliveIn { keepalive, to }: KeepaliveIn) {
        match duty.renewals.offer(&self.machine.read(), &keepalive, to) {
            Offered::Queued { dropped } => drop(dropped),
            Offered::Answer(to, answer) => drop(to.send(answer)),
        }
    }

    /// Every 100 ms: keepalives first, then the clock, then one Tick (R6).
    fn tick(&mut self, duty: &mut Duty, in_flight: &InFlight) {
        duty.ticks = duty.ticks.saturating_add(1);
        while let Ok(keepalive) = self.keepalives.try_recv() {
            self.offer(duty, keepalive);
        }
        let (made, sessions, dead_rows) = {
            let machine = self.machine.read();
            (machine.cluster().is_some(), machine.sessions().next().is_some(), machine.dead_rows())
        };
        if !made {
            if !std::mem::replace(&mut duty.initializing, true) {
                let command = Command::Init(self.init.clone());
                in_flight.push(self.propose(duty.term, command, Outcome::Initialized));
            }
            return;
        }
        if dead_rows > 0 && duty.ticks.is_multiple_of(SWEEP) && !std::mem::replace(&mut duty.sweeping, true) {
            in_flight.push(self.propose(duty.term, Command::Sweep { rows: SWEEP_ROWS }, Outcome::Swept));
        }
        // Asked also while a Tick is under way: a slow commit is no gap of this thread.
        let turn = duty.clock.turn(self.clock.boottime());
        if turn != Turn::Propose || duty.ticking || (!sessions && duty.renewals.is_empty()) {
            return;
        }
        let (clock, closed) = (Arc::clone(&self.clock), duty.renewals.close());
        reached(Point::KeepalivesClosed);
        match closed.stamp(&mut duty.clock, || clock.boottime(), clock.wall_ms()) {
            Err(closed) => duty.renewals.reopen(closed),
            Ok(proposal) => {
                reached(Point::TickStamped);
                duty.ticking = true;
                let command = proposal.command().clone();
                in_flight.push(self.propose(duty.term, command, move |applied| {
                    Outcome::Ticked(Box::new(proposal), applied)
                }));
            }
        }
    }

    fn plan(&self, duty: &mut Duty, in_flight: &InFlight) {
        let events = self.tide.borrow().events;
        let due = events != duty.planned || duty.ticks >= duty.plan_at;
        if duty.deciding || !due || self.machine.read().is_quiet() {
            return;
        }
        duty.planned = events;
        duty.plan_at = duty.ticks + PLAN;
        let decisions = duty.planner.plan(&self.machine.read(), self.clock.boottime());
        if !decisions.is_empty() {
            duty.deciding = true;
            in_flight.push(self.propose(duty.term, Command::ShardDecisions(decisions), Outcome::Decided));
        }
    }

    /// Proposes for this leadership only.
    fn propose(
        &self,
        term: u64,
        command: Command,
        outcome: impl FnOnce(Applied) -> Outcome + Send + 'static,
    ) -> Pin<Box<dyn Future<Output = Outcome> + Send>> {
        let (meta, bytes) = (self.meta.clone(), command.encode().into());
        Box::pin(async move {
            let applied = match tokio::time::timeout(COMMIT, meta.propose_in_term(bytes, term)).await {
                Err(_) => Err(ProposeError::Unknown("not committed in time".into())),
                Ok(Err(e)) => Err(e),
                Ok(Ok((_, reply))) => Reply::decode(&reply).map_err(|e| ProposeError::Unknown(e.to_string())),
            };
            outcome(applied)
        })
    }

    fn finished(&self, duty: &mut Duty, outcome: Outcome) {
        match outcome {
            Outcome::Ticked(proposal, Ok(Reply::Ticked(ticked))) => {
                duty.ticking = false;
                duty.clock.applied(ticked.time_ms, self.clock.boottime());
                for (to, answer) in proposal.applied(&self.machine.read(), &ticked) {
                    drop(to.send(answer));
                }
            }
            Outcome::Ticked(proposal, applied) => {
                duty.ticking = false;
                tracing::debug!(?applied, "a tick was not applied");
                proposal.failed(&mut duty.renewals);
            }
            Outcome::Initialized(applied) => {
                duty.initializing = false;
                tracing::info!(?applied, "made the cluster");
            }
            Outcome::Decided(applied) => {
                duty.deciding = false;
                tracing::debug!(?applied, "shard decisions");
            }
            Outcome::Swept(applied) => {
                duty.sweeping = false;
                tracing::debug!(?applied, "sweep");
            }
        }
    }
}

impl Duty {
    fn new(term: u64, tick: Duration) -> Self {
        Self {
            term,
            clock: LeaderClock::new(tick),
            renewals: Renewals::new(),
            planner: Planner::new(),
            planned: u64::MAX,
            plan_at: 0,
            ticks: 0,
            ticking: false,
            initializing: false,
            deciding: false,
            sweeping: false,
        }
    }
}

/// While this member leads the `state` group, tells it the oldest session still alive: stores refuse
/// older ones (R2). What it knows may lag; the fact only grows.
async fn relay_oldest(state: &Group<StateGroup>, machine: &RwLock<Machine>) {
    let leadership = state.leadership();
    let mut told = (0, SessionId(0));
    loop {
        tokio::time::sleep(RELAY).await;
        let (own, term) = {
            let l = leadership.borrow();
            (l.established, l.term)
        };
        let Some(oldest) = machine.read().oldest_session() else { continue };
        if !own || told == (term, oldest) {
            continue;
        }
        let command = StateCommand::OldestLiving(oldest).encode();
        match tokio::time::timeout(COMMIT, state.propose_in_term(command, term)).await {
            Ok(Ok(_)) => told = (term, oldest),
            Ok(Err(e)) => tracing::debug!(error = %e, "the state group was not told of the oldest session"),
            Err(_) => tracing::debug!("the state group was not told of the oldest session in time"),
        }
    }
}

/// Tells that the member has failed for good; the first reason stays.
pub(super) fn fail(to: &watch::Sender<Option<String>>, why: String) {
    to.send_if_modified(|have| {
        have.is_none() && {
            *have = Some(why);
            true
        }
    });
}

/// A group that has stopped by itself takes the member down.
async fn look_for_failure(
    meta: &Group<MetaGroup>,
    state: &Group<StateGroup>,
    to: &watch::Sender<Option<String>>,
    stop: &watch::Receiver<bool>,
) {
    loop {
        tokio::time::sleep(RELAY).await;
        let failed = meta.failed().or_else(|| state.failed());
        if let Some(why) = failed.filter(|_| !*stop.borrow()) {
            fail(to, why);
            std::future::pending::<()>().await;
        }
    }
}

/// A leader without this thread renews nobody and moves no time, and nobody else would be elected.
struct End(watch::Sender<Option<String>>);

impl Drop for End {
    fn drop(&mut self) {
        if std::thread::panicking() {
            fail(&self.0, "the leader's thread panicked; the member stops".into());
        }
    }
}
