//! The metadata store within this process: the same pure machine, leader clock, renewals and planner that
//! members run, without log and Raft. For tests, samples and tools: it forgets everything when it is
//! dropped, and it is the only member there is.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use futures::{StreamExt, stream::BoxStream};
use millet_core::{
    BoxFuture, GrainId, Grant, Revision, SessionId,
    clock::Clock,
    model::{Keepalive, KeepaliveAnswer, OpenSession, OpenedSession, Watched},
    world::{Entropy, Spawner},
};
use millet_directory::{Acquired, Holder, KeeperLink, Meta, MetaError, ShardAck};
use millet_raft_meta::{
    leader::{LeaderClock, Offered, Planner, Renewals, Turn},
    machine::{Command, Init, LeaseKey, Machine, Op, OpResult, Reply, Secret},
};
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

type Answer = oneshot::Sender<KeepaliveAnswer>;

struct Inner {
    machine: Machine,
    index: u64,
    secret: Secret,
    renewals: Renewals<Answer>,
    time: LeaderClock,
    planner: Planner,
}

/// A metadata store of one member in memory; may be shared by several nodes of one process.
pub struct LocalMeta {
    me: Weak<Self>,
    inner: Mutex<Inner>,
    revision: watch::Sender<Revision>,
    clock: Arc<dyn Clock>,
}

impl LocalMeta {
    /// Starts one for the cluster `cluster`, with a Tick every `tick`. It lives until it is dropped.
    pub fn start(
        cluster: &str,
        tick: Duration,
        clock: Arc<dyn Clock>,
        entropy: &dyn Entropy,
        spawner: &dyn Spawner,
    ) -> Arc<Self> {
        let secret = Secret(entropy.next_u128().to_be_bytes());
        let mut machine = Machine::new();
        machine.apply(1, Command::Init(Init { cluster: cluster.to_owned(), secret, generation: 1 }));
        let mut time = LeaderClock::new(tick);
        time.start(machine.time_ms(), clock.boottime());
        let (renewals, planner) = (Renewals::new(), Planner::new());
        let me = Arc::new_cyclic(|me| Self {
            me: me.clone(),
            inner: Mutex::new(Inner { machine, index: 1, secret, renewals, time, planner }),
            revision: watch::Sender::new(Revision(1)),
            clock,
        });
        spawner.spawn("local-meta", Box::pin(Self::ticks(Arc::downgrade(&me), tick)));
        me
    }

    async fn ticks(me: Weak<Self>, tick: Duration) {
        let mut interval = tokio::time::interval(tick);
        loop {
            interval.tick().await;
            let Some(me) = me.upgrade() else { return };
            me.turn();
        }
    }

    /// One Tick in the order of R6 (close, read the clock, propose, answer), then what the planner decides.
    fn turn(&self) {
        let mut inner = self.inner.lock();
        if inner.time.turn(self.clock.boottime()) != Turn::Propose {
            return;
        }
        let closed = inner.renewals.close();
        let stamped = closed.stamp(&mut inner.time, || self.clock.boottime(), self.clock.wall_ms());
        let answers = match stamped {
            Err(unstamped) => {
                inner.renewals.reopen(unstamped);
                return;
            }
            Ok(proposal) => {
                let command = proposal.command().clone();
                let Reply::Ticked(ticked) = self.apply(&mut inner, command) else { return };
                let now = self.clock.boottime();
                inner.time.applied(ticked.time_ms, now);
                proposal.applied(&inner.machine, &ticked)
            }
        };
        let now = self.clock.boottime();
        let Inner { machine, planner, .. } = &mut *inner;
        let decisions = planner.plan(machine, now);
        if !decisions.is_empty() {
            self.apply(&mut inner, Command::ShardDecisions(decisions));
        }
        drop(inner);
        for (to, answer) in answers {
            // A node that no longer waits sends another keepalive.
            drop(to.send(answer));
        }
    }

    fn apply(&self, inner: &mut Inner, command: Command) -> Reply {
        inner.index += 1;
        let (reply, _) = inner.machine.apply(inner.index, command);
        self.revision.send_replace(inner.machine.revision());
        reply
    }

    fn op(&self, op: Op) -> Result<OpResult, MetaError> {
        let mut inner = self.inner.lock();
        match self.apply(&mut inner, Command::Batch(vec![op])) {
            Reply::Batch(mut results) if results.len() == 1 => match results.remove(0) {
                OpResult::NotAlive { session } => Err(MetaError::SessionNotAlive(session)),
                OpResult::Refused { why } => Err(MetaError::Refused(why)),
                other => Ok(other),
            },
            other => Err(MetaError::Unavailable(format!("unexpected reply {other:?}"))),
        }
    }

    fn key(&self, grain: &GrainId) -> LeaseKey {
        LeaseKey::of(&self.inner.lock().secret, grain)
    }

    /// What a watcher at `from` has to hear now; empty if nothing.
    fn news(&self, from: Revision) -> Vec<Watched> {
        let inner = self.inner.lock();
        let now = inner.machine.revision();
        match inner.machine.events_since(from) {
            _ if from == now => Vec::new(),
            None => vec![Watched::Resync(inner.machine.view())],
            Some(events) => {
                let events = events.iter().map(|e| Watched::Event((**e).clone()));
                events.chain([Watched::Progress(now)]).collect()
            }
        }
    }
}

fn ready<'a, T: Send + 'a>(value: T) -> BoxFuture<'a, T> {
    Box::pin(std::future::ready(value))
}

impl Meta for LocalMeta {
    fn acquire<'a>(
        &'a self,
        grain: &'a GrainId,
        session: SessionId,
    ) -> BoxFuture<'a, Result<Acquired, MetaError>> {
        let op = Op::Acquire { key: self.key(grain), ty: grain.ty.id(), session };
        ready(self.op(op).map(|result| match result {
            OpResult::Granted { grant, .. } => Acquired::Granted(grant),
            OpResult::Held { session, node, grant } => Acquired::Held(Holder { session, node, grant }),
            _ => Acquired::Retry,
        }))
    }

    fn release<'a>(
        &'a self,
        grain: &'a GrainId,
        session: SessionId,
        grant: Grant,
    ) -> BoxFuture<'a, Result<(), MetaError>> {
        ready(self.op(Op::Release { key: self.key(grain), ty: grain.ty.id(), session, grant }).map(drop))
    }

    fn move_to<'a>(
        &'a self,
        grain: &'a GrainId,
        session: SessionId,
        grant: Grant,
        to: SessionId,
    ) -> BoxFuture<'a, Result<Option<Holder>, MetaError>> {
        let key = self.key(grain);
        let moved = self.op(Op::Move { key, ty: grain.ty.id(), session, grant, to });
        ready(moved.map(|_| self.holder(key)))
    }

    fn lookup<'a>(&'a self, grain: &'a GrainId) -> BoxFuture<'a, Result<Option<Holder>, MetaError>> {
        ready(Ok(self.holder(self.key(grain))))
    }

    fn ack_shard(&self, ack: ShardAck) -> BoxFuture<'_, Result<(), MetaError>> {
        let ShardAck { ty, shard, session, grant, given_up } = ack;
        ready(self.op(Op::AckShard { ty: ty.id(), shard, session, grant, given_up }).map(drop))
    }

    fn drain(&self, session: SessionId) -> BoxFuture<'_, Result<(), MetaError>> {
        ready(self.op(Op::Drain { session }).map(drop))
    }

    fn close(&self, session: SessionId) -> BoxFuture<'_, Result<(), MetaError>> {
        ready(self.op(Op::Close { session }).map(drop))
    }

    fn watch(
        &self,
        from: Revision,
    ) -> BoxFuture<'_, Result<BoxStream<'static, Result<Watched, MetaError>>, MetaError>> {
        // The stream does not keep the store alive: it ends when the store is dropped.
        let (me, mut revisions) = (self.me.clone(), self.revision.subscribe());
        revisions.mark_changed();
        let stream = futures::stream::unfold((from, revisions), move |(from, mut revisions)| {
            let me = me.clone();
            async move {
                loop {
                    revisions.changed().await.ok()?;
                    let news = me.upgrade()?.news(from);
                    let Some(at) = news.iter().map(revision_of).max() else { continue };
                    return Some((futures::stream::iter(news.into_iter().map(Ok)), (at, revisions)));
                }
            }
        });
        ready(Ok(stream.flatten().boxed()))
    }
}

fn revision_of(watched: &Watched) -> Revision {
    match watched {
        Watched::Event(event) => event.revision,
        Watched::Resync(view) => view.revision,
        Watched::Progress(revision) => *revision,
    }
}

impl LocalMeta {
    fn holder(&self, key: LeaseKey) -> Option<Holder> {
        let holder = self.inner.lock().machine.holder(key)?;
        Some(Holder { session: holder.session, node: holder.node, grant: holder.grant })
    }
}

impl KeeperLink for LocalMeta {
    fn members(&self) -> usize {
        1
    }

    fn open(&self, open: OpenSession) -> BoxFuture<'_, Result<OpenedSession, MetaError>> {
        let mut inner = self.inner.lock();
        ready(match self.apply(&mut inner, Command::OpenSession(open.into())) {
            Reply::Opened(opened) => Ok(OpenedSession {
                session: opened.session,
                ttl: Duration::from_millis(opened.ttl_ms),
                worker: opened.worker,
            }),
            Reply::Refused(why) => Err(MetaError::Refused(why)),
            other => Err(MetaError::Unavailable(format!("unexpected reply {other:?}"))),
        })
    }

    fn keepalive(
        &self,
        _member: usize,
        keepalive: Keepalive,
    ) -> BoxFuture<'_, Result<KeepaliveAnswer, MetaError>> {
        let (to, answer) = oneshot::channel();
        {
            let mut inner = self.inner.lock();
            let Inner { machine, renewals, .. } = &mut *inner;
            match renewals.offer(machine, &keepalive, to) {
                Offered::Queued { dropped } => drop(dropped),
                Offered::Answer(to, answer) => drop(to.send(answer)),
            }
        }
        Box::pin(async { answer.await.map_err(|_| MetaError::Unavailable("repeated too often".into())) })
    }
}
