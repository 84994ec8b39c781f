//! One metadata member: the real machine, led by the real leader parts, and a node's link to it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::stream::{self, BoxStream, StreamExt};
use millet_core::{
    BoxFuture, Clock, GrainId, Grant, Revision, SessionId, SessionLease,
    model::{Keepalive, KeepaliveAnswer, OpenSession, OpenedSession, Watched},
};
use millet_directory::{Acquired, Holder, KeeperLink, Meta, MetaError, ShardAck};
use millet_raft_meta::{
    leader::{LeaderClock, Offered, Planner, Renewals, Turn},
    machine::{Command, Init, LeaseKey, Machine, Op, OpResult, Open, Reply, Secret},
};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{TokioClock, pass};

const TICK: Duration = Duration::from_millis(100);
const SECRET: Secret = Secret([7; 16]);

struct State {
    machine: Machine,
    clock: LeaderClock,
    renewals: Renewals<oneshot::Sender<KeepaliveAnswer>>,
    planner: Planner,
}

impl State {
    fn apply(&mut self, command: Command) -> Reply {
        let index = self.machine.revision().0 + 1;
        self.machine.apply(index, command).0
    }
}

/// The store. Without a quorum it answers nobody, and its time stands still.
pub struct Store {
    state: Mutex<State>,
    time: TokioClock,
    quorum: AtomicBool,
}

impl Store {
    pub fn start(time: TokioClock) -> Arc<Self> {
        let mut state = State {
            machine: Machine::new(),
            clock: LeaderClock::new(TICK),
            renewals: Renewals::new(),
            planner: Planner::new(),
        };
        let init = Init { cluster: "test".into(), secret: SECRET, generation: 1 };
        state.apply(Command::Init(init));
        state.clock.start(state.machine.time_ms(), time.boottime());
        let store = Arc::new(Self { state: Mutex::new(state), time, quorum: AtomicBool::new(true) });
        let leader = Arc::downgrade(&store);
        tokio::spawn(async move {
            while let Some(store) = leader.upgrade() {
                store.lead();
                drop(store);
                pass(TICK).await;
            }
        });
        store
    }

    pub fn set_quorum(&self, quorum: bool) {
        self.quorum.store(quorum, Ordering::Release);
    }

    pub fn has_quorum(&self) -> bool {
        self.quorum.load(Ordering::Acquire)
    }

    pub fn is_dead(&self, session: SessionId) -> bool {
        self.state.lock().machine.is_ended(session)
    }

    /// Applies a command as the log would.
    pub fn apply(&self, command: Command) -> Reply {
        self.state.lock().apply(command)
    }

    /// One Tick, then whatever the planner decides.
    fn lead(&self) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        if !self.has_quorum() || state.clock.turn(self.time.boottime()) != Turn::Propose {
            return;
        }
        let closed = state.renewals.close();
        let proposal = match closed.stamp(&mut state.clock, || self.time.boottime(), self.time.wall_ms()) {
            Ok(proposal) => proposal,
            Err(closed) => return state.renewals.reopen(closed),
        };
        let Reply::Ticked(ticked) = state.apply(proposal.command().clone()) else { panic!("a tick") };
        state.clock.applied(ticked.time_ms, self.time.boottime());
        for (to, answer) in proposal.applied(&state.machine, &ticked) {
            let _ = to.send(answer);
        }
        let decisions = state.planner.plan(&state.machine, self.time.boottime());
        if !decisions.is_empty() {
            state.apply(Command::ShardDecisions(decisions));
        }
    }

    fn op(&self, op: Op) -> OpResult {
        match self.apply(Command::Batch(vec![op])) {
            Reply::Batch(mut results) => results.remove(0),
            other => panic!("{other:?} for a batch"),
        }
    }

    fn watched(&self, from: Revision) -> (Revision, Vec<Watched>) {
        let state = self.state.lock();
        let now = state.machine.revision();
        let mut out: Vec<_> = match state.machine.events_since(from) {
            Some(events) => events.iter().map(|e| Watched::Event((**e).clone())).collect(),
            None => vec![Watched::Resync(state.machine.view())],
        };
        out.push(Watched::Progress(now));
        (now, out)
    }
}

/// One node's way to the store.
pub struct TestLink {
    pub store: Arc<Store>,
    /// Nothing passes.
    pub cut: Arc<AtomicBool>,
    /// Requests arrive, answers do not.
    pub deaf: AtomicBool,
    /// So long the first word of a watch takes.
    pub first_word_ms: AtomicU64,
    /// So long a release waits before it is sent.
    pub release_ms: AtomicU64,
    /// When a close is sent, this lease must have been fenced (R18).
    pub fenced_at_close: Mutex<Option<Arc<SessionLease>>>,
}

impl TestLink {
    pub fn new(store: Arc<Store>) -> Arc<Self> {
        Arc::new(Self {
            store,
            cut: Arc::default(),
            deaf: AtomicBool::new(false),
            first_word_ms: AtomicU64::new(0),
            release_ms: AtomicU64::new(0),
            fenced_at_close: Mutex::default(),
        })
    }

    fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Acquire) || !self.store.has_quorum()
    }

    /// A round trip: 1 ms there, 1 ms back.
    async fn ask<T>(&self, request: impl FnOnce(&Store) -> T) -> Result<T, MetaError> {
        let lost = |why: &str| MetaError::Unavailable(format!("no answer from the metadata store: {why}"));
        pass(Duration::from_millis(1)).await;
        if self.is_cut() {
            pass(Duration::from_millis(200)).await;
            return Err(lost("cut off"));
        }
        let answer = request(&self.store);
        pass(Duration::from_millis(1)).await;
        if self.is_cut() || self.deaf.load(Ordering::Acquire) {
            pass(Duration::from_millis(200)).await;
            return Err(lost("the answer was lost"));
        }
        Ok(answer)
    }

    async fn done(&self, op: Op) -> Result<(), MetaError> {
        match self.ask(|store| store.op(op)).await? {
            OpResult::Done => Ok(()),
            OpResult::NotAlive { session } => Err(MetaError::SessionNotAlive(session)),
            OpResult::Refused { why } => Err(MetaError::Refused(why)),
            other => panic!("{other:?}"),
        }
    }
}

fn key(grain: &GrainId) -> LeaseKey {
    LeaseKey::of(&SECRET, grain)
}

impl Meta for TestLink {
    fn acquire<'a>(
        &'a self,
        grain: &'a GrainId,
        session: SessionId,
    ) -> BoxFuture<'a, Result<Acquired, MetaError>> {
        Box::pin(async move {
            let op = Op::Acquire { key: key(grain), ty: grain.ty.id(), session };
            match self.ask(|store| store.op(op)).await? {
                OpResult::Granted { grant, .. } => Ok(Acquired::Granted(grant)),
                OpResult::Held { session, node, grant } => {
                    Ok(Acquired::Held(Holder { session, node, grant }))
                }
                OpResult::Retry => Ok(Acquired::Retry),
                OpResult::NotAlive { session } => Err(MetaError::SessionNotAlive(session)),
                OpResult::Refused { why } => Err(MetaError::Refused(why)),
                OpResult::Done => panic!("done for an acquire"),
            }
        })
    }
    fn release<'a>(
        &'a self,
        grain: &'a GrainId,
        session: SessionId,
        grant: Grant,
    ) -> BoxFuture<'a, Result<(), MetaError>> {
        Box::pin(async move {
            pass(Duration::from_millis(self.release_ms.load(Ordering::Acquire))).await;
            self.done(Op::Release { key: key(grain), ty: grain.ty.id(), session, grant }).await
        })
    }
    fn move_to<'a>(
        &'a self,
        _: &'a GrainId,
        _: SessionId,
        _: Grant,
        _: SessionId,
    ) -> BoxFuture<'a, Result<Option<Holder>, MetaError>> {
        Box::pin(async { Err(MetaError::Refused("not used in these tests".into())) })
    }
    fn lookup<'a>(&'a self, grain: &'a GrainId) -> BoxFuture<'a, Result<Option<Holder>, MetaError>> {
        Box::pin(self.ask(|store| {
            let held = store.state.lock().machine.holder(key(grain));
            held.map(|h| Holder { session: h.session, node: h.node, grant: h.grant })
        }))
    }
    fn ack_shard(&self, a: ShardAck) -> BoxFuture<'_, Result<(), MetaError>> {
        let ShardAck { ty, shard, session, grant, given_up } = a;
        Box::pin(self.done(Op::AckShard { ty: ty.id(), shard, session, grant, given_up }))
    }
    fn drain(&self, session: SessionId) -> BoxFuture<'_, Result<(), MetaError>> {
        Box::pin(self.done(Op::Drain { session }))
    }
    fn close(&self, session: SessionId) -> BoxFuture<'_, Result<(), MetaError>> {
        let lease = self.fenced_at_close.lock().clone();
        assert!(lease.is_none_or(|l| l.id() == session && l.is_dead()), "closed before it was fenced");
        Box::pin(self.done(Op::Close { session }))
    }
    fn watch(
        &self,
        from: Revision,
    ) -> BoxFuture<'_, Result<BoxStream<'static, Result<Watched, MetaError>>, MetaError>> {
        Box::pin(async move {
            self.ask(|_| ()).await?;
            let (store, cut) = (self.store.clone(), self.cut.clone());
            let mut next = from;
            let first = Duration::from_millis(self.first_word_ms.load(Ordering::Acquire));
            let ticks = stream::unfold((), |()| async {
                pass(Duration::from_millis(20)).await;
                Some(((), ()))
            });
            // Chunks as they come; a cut link brings nothing.
            let chunks = ticks.map(move |()| {
                if cut.load(Ordering::Acquire) || !store.has_quorum() {
                    return Vec::new();
                }
                let (now, out) = store.watched(next);
                next = now;
                out
            });
            let words = chunks.flat_map(|chunk| stream::iter(chunk.into_iter().map(Ok)));
            Ok(stream::once(pass(first)).flat_map(|()| stream::empty()).chain(words).boxed())
        })
    }
}

impl KeeperLink for TestLink {
    fn members(&self) -> usize {
        1
    }
    fn open(&self, open: OpenSession) -> BoxFuture<'_, Result<OpenedSession, MetaError>> {
        Box::pin(async move {
            match self.ask(|store| store.apply(Command::OpenSession(Open::from(open)))).await? {
                Reply::Opened(o) => Ok(OpenedSession {
                    session: o.session,
                    ttl: Duration::from_millis(o.ttl_ms),
                    worker: o.worker,
                }),
                other => Err(MetaError::Refused(format!("{other:?}"))),
            }
        })
    }
    fn keepalive(&self, _: usize, keepalive: Keepalive) -> BoxFuture<'_, Result<KeepaliveAnswer, MetaError>> {
        Box::pin(async move {
            let (to, answer) = oneshot::channel();
            self.ask(|store| {
                let mut guard = store.state.lock();
                let state = &mut *guard;
                if let Offered::Answer(to, answer) = state.renewals.offer(&state.machine, &keepalive, to) {
                    let _ = to.send(answer);
                }
            })
            .await?;
            let lost = || MetaError::Unavailable("the answer was lost".into());
            let answer = answer.await.map_err(|_| lost())?;
            if self.is_cut() || self.deaf.load(Ordering::Acquire) { Err(lost()) } else { Ok(answer) }
        })
    }
}
