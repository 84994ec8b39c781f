//! The metadata store as a node's directory uses it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use millet_core::{BoxFuture, GrainId, GrainType, Grant, Revision, SessionId, ShardId, model::Watched};
pub use millet_proto::meta::Held;
use millet_proto::{
    meta::{Op, OpResult},
    wire::{self, meta_client::MetaClient as Wire},
};

use super::{
    ClientError, ClientOptions,
    batch::{Batcher, Request},
    road::{ATTEMPT, Failure, Road},
};

/// A watch that is silent for so long (members speak every second) has lost its member.
const WATCH_SILENCE: Duration = Duration::from_secs(3);
/// A watch message: a resync of 65,536 shards and a thousand nodes is below this.
const WATCH_BYTES: usize = 64 * 1024 * 1024;

/// The answer to an acquire: from an applied entry (R24).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Acquired {
    /// The asking session holds the grain. May be a grant given before: check it against R1.
    Granted {
        /// Under this grant.
        grant: Grant,
        /// Which replaced this one by a move (R23).
        previous: Option<Grant>,
    },
    /// Another living session does.
    Held(Held),
    /// Ask again (R24).
    Retry,
}

/// How the cluster stands, as one member sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClusterStatus {
    /// The cluster's id.
    pub cluster: String,
    /// The member that answers.
    pub member: u64,
    /// Its groups.
    pub groups: Vec<GroupStatus>,
    /// All members, as it knows.
    pub members: Vec<MemberRow>,
}

/// One Raft group as one member sees it. Positions count from 1; 0: none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GroupStatus {
    /// 0 `meta`, 1 `state`.
    pub group: u32,
    /// The leading member; 0: none known.
    pub leader: u64,
    /// Raft's term.
    pub term: u64,
    /// Last applied entry.
    pub applied: u64,
    /// Last committed entry.
    pub committed: u64,
    /// Last entry in the log.
    pub last_log: u64,
}

/// One member.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemberRow {
    /// Its id, never used again.
    pub id: u64,
    /// `host:port`.
    pub addr: String,
    /// Whether it votes.
    pub voter: bool,
}

/// A stream of changes; see [`MetaClient::watch`].
pub type Watch = BoxStream<'static, Result<Watched, ClientError>>;

/// The metadata store. Cheap to clone; its tasks end with the last clone.
///
/// Every operation is repeated until it is answered, for at most ten seconds. Cancel safety: a dropped
/// future leaves the outcome unknown; repeating is safe.
#[derive(Clone)]
pub struct MetaClient {
    road: Arc<Road>,
    ops: Arc<Batcher<Ops>>,
    lookups: Arc<Batcher<Lookups>>,
    /// Watches begun: each begins at the next member.
    watches: Arc<AtomicUsize>,
}

impl MetaClient {
    /// Starts the client's tasks; connects when first used.
    pub fn new(options: &ClientOptions) -> Self {
        let road = Arc::new(Road::new(&options.cluster, &options.members, Arc::clone(&options.dial)));
        let ops = Arc::new(Batcher::start(Ops(Arc::clone(&road)), "meta-batch", &options.spawner));
        let lookups = Arc::new(Batcher::start(Lookups(Arc::clone(&road)), "meta-lookup", &options.spawner));
        Self { road, ops, lookups, watches: Arc::default() }
    }

    async fn op(&self, op: Op) -> Result<OpResult, ClientError> {
        match self.ops.ask(op).await? {
            OpResult::NotAlive(session) => Err(ClientError::SessionNotAlive(session)),
            OpResult::Refused(why) => Err(ClientError::Refused(why)),
            other => Ok(other),
        }
    }

    async fn done(&self, op: Op) -> Result<(), ClientError> {
        match self.op(op).await? {
            OpResult::Retry => {
                Err(ClientError::Unavailable("metadata store: busy with this grain, repeat".into()))
            }
            _ => Ok(()),
        }
    }

    /// Asks for a grain's lease.
    pub async fn acquire(&self, grain: &GrainId, session: SessionId) -> Result<Acquired, ClientError> {
        match self.op(Op::Acquire { grain: grain.clone(), session }).await? {
            OpResult::Granted { grant, previous } => Ok(Acquired::Granted { grant, previous }),
            OpResult::Held(held) => Ok(Acquired::Held(held)),
            OpResult::Retry => Ok(Acquired::Retry),
            OpResult::Done | OpResult::NotAlive(_) | OpResult::Refused(_) => Err(unfit()),
        }
    }

    /// Gives a lease back; the caller has marked the grant as given up (R1). Done also if it was gone.
    pub async fn release(
        &self,
        grain: &GrainId,
        session: SessionId,
        grant: Grant,
    ) -> Result<(), ClientError> {
        self.done(Op::Release { grain: grain.clone(), session, grant }).await
    }

    /// Gives `grant` up and grants the grain to `to`, in one entry (R23): who holds it afterwards (`to`,
    /// or whoever held it if `grant` was no longer in force; `None` where that is not known).
    pub async fn move_to(
        &self,
        grain: &GrainId,
        session: SessionId,
        grant: Grant,
        to: SessionId,
    ) -> Result<Option<Held>, ClientError> {
        match self.op(Op::Move { grain: grain.clone(), session, grant, to }).await? {
            OpResult::Held(held) => Ok(Some(held)),
            // The grant names no node: the lookup does.
            OpResult::Granted { .. } => self.lookup(grain).await,
            OpResult::Retry => {
                Err(ClientError::Unavailable("metadata store: busy with this grain, repeat".into()))
            }
            OpResult::Done | OpResult::NotAlive(_) | OpResult::Refused(_) => Ok(None),
        }
    }

    /// Who holds the grain, by a read-index read.
    pub async fn lookup(&self, grain: &GrainId) -> Result<Option<Held>, ClientError> {
        self.lookups.ask(grain.clone()).await
    }

    /// Answers a revoke of a shard (R8).
    pub async fn ack_shard(
        &self,
        ty: &GrainType,
        shard: ShardId,
        session: SessionId,
        grant: Grant,
        given_up: bool,
    ) -> Result<(), ClientError> {
        self.done(Op::AckShard { ty: ty.clone(), shard, session, grant, given_up }).await
    }

    /// Says that the session is leaving.
    pub async fn drain(&self, session: SessionId) -> Result<(), ClientError> {
        self.done(Op::Drain { session }).await
    }

    /// Ends the caller's own session, after its last turn has ended and its fence is set (R18).
    pub async fn close(&self, session: SessionId) -> Result<(), ClientError> {
        self.done(Op::Close { session }).await
    }

    /// Changes after `from` from any one member, or a resync first. Revisions never go back, also over
    /// several calls with the revision held. Ends with an error when the member is lost or falls silent:
    /// call again with the revision held. Every call begins at another member: the last one may answer and
    /// yet be cut off from the others.
    ///
    /// Cancel safety: dropping the future or the stream ends the watch.
    pub async fn watch(&self, from: Revision) -> Result<Watch, ClientError> {
        let mut why = Failure::NotDone("no metadata members are configured".into());
        let begun = self.watches.fetch_add(1, Ordering::Relaxed);
        for n in 0..self.road.len() {
            // Not the leader first: watches are served by all.
            let member = self.road.leader().wrapping_add(1 + n).wrapping_add(begun);
            let mut client = Wire::new(self.road.channel(member)?).max_decoding_message_size(WATCH_BYTES);
            let request = wire::WatchRequest { cluster: self.road.cluster.to_string(), from: from.0 };
            match tokio::time::timeout(ATTEMPT, client.watch(request)).await {
                Ok(Ok(answer)) => return Ok(rising(answer.into_inner(), from)),
                Ok(Err(status)) => why = Failure::of(&status),
                Err(_) => why = Failure::late(),
            }
        }
        Err(why.into())
    }

    /// How the cluster stands, from the first member that answers.
    pub async fn status(&self) -> Result<ClusterStatus, ClientError> {
        let mut why = Failure::NotDone("no metadata members are configured".into());
        for n in 0..self.road.len() {
            match status_of(&self.road, self.road.leader() + n).await {
                Ok(status) => return Ok(status),
                Err(f) => why = f,
            }
        }
        Err(why.into())
    }

    /// How the cluster stands, from one member, by position.
    pub async fn status_of(&self, member: usize) -> Result<ClusterStatus, ClientError> {
        Ok(status_of(&self.road, member).await?)
    }
}

fn unfit() -> ClientError {
    ClientError::Unavailable("metadata store: an answer that does not fit the question".into())
}

async fn status_of(road: &Road, member: usize) -> Result<ClusterStatus, Failure> {
    let request = wire::MetaStatusRequest { cluster: road.cluster.to_string() };
    let mut client = Wire::new(road.channel(member)?);
    let answer = tokio::time::timeout(ATTEMPT, client.status(request)).await.map_err(|_| Failure::late())?;
    let s = answer.map_err(|status| Failure::of(&status))?.into_inner();
    let group = |g: wire::GroupStatus| GroupStatus {
        group: g.group,
        leader: g.leader,
        term: g.term,
        applied: g.applied,
        committed: g.committed,
        last_log: g.last_log,
    };
    let member = |m: wire::MemberRow| MemberRow { id: m.id, addr: m.addr, voter: m.voter };
    Ok(ClusterStatus {
        cluster: s.cluster,
        member: s.member,
        groups: s.groups.into_iter().map(group).collect(),
        members: s.members.into_iter().map(member).collect(),
    })
}

/// Reads a watch so that its revision only rises, and ends it at the first error or silence.
fn rising(answers: tonic::Streaming<wire::WatchResponse>, from: Revision) -> Watch {
    let next = |state: Option<(tonic::Streaming<wire::WatchResponse>, Revision)>| async move {
        let (mut answers, mut at) = state?;
        let failed = |f: Failure| Some((Err(f.into()), None));
        loop {
            let Ok(answer) = tokio::time::timeout(WATCH_SILENCE, answers.next()).await else {
                return failed(Failure::NotDone(format!(
                    "the watch was silent for {} s",
                    WATCH_SILENCE.as_secs()
                )));
            };
            let watched = match answer? {
                Ok(message) => Watched::try_from(message),
                Err(status) => return failed(Failure::of(&status)),
            };
            let (revision, equal_passes) = match &watched {
                Ok(Watched::Event(e)) => (e.revision, false),
                Ok(Watched::Resync(v)) => (v.revision, true),
                Ok(Watched::Progress(r)) => (*r, true),
                Err(e) => return failed(Failure::unreadable(e)),
            };
            if revision > at || (equal_passes && revision == at) {
                at = revision;
                return Some((watched.map_err(|e| Failure::unreadable(e).into()), Some((answers, at))));
            }
        }
    };
    stream::unfold(Some((answers, from)), next).boxed()
}

/// `Meta.Batch`.
struct Ops(Arc<Road>);

impl Request for Ops {
    type Op = Op;
    type Answer = Result<OpResult, ClientError>;

    fn weight(_: &Op) -> usize {
        0
    }

    fn attempt(&self, ops: Vec<Op>, limit: Duration) -> BoxFuture<'_, Result<Vec<Self::Answer>, Failure>> {
        Box::pin(async move {
            let member = self.0.leader();
            let mut client = Wire::new(self.0.channel(member)?);
            let ops = ops.into_iter().map(Into::into).collect();
            let request =
                wire::MetaBatchRequest { cluster: self.0.cluster.to_string(), ops, forwarded: false };
            let answer = answered(&self.0, member, tokio::time::timeout(limit, client.batch(request)).await)?;
            Ok(answer
                .results
                .into_iter()
                .map(|r| OpResult::try_from(r).map_err(|e| Failure::unreadable(e).into()))
                .collect())
        })
    }

    fn given_up(_: &Op, why: Failure) -> Self::Answer {
        Err(why.into())
    }
}

/// `Meta.Lookup`.
struct Lookups(Arc<Road>);

impl Request for Lookups {
    type Op = GrainId;
    type Answer = Result<Option<Held>, ClientError>;

    fn weight(_: &GrainId) -> usize {
        0
    }

    fn attempt(
        &self,
        grains: Vec<GrainId>,
        limit: Duration,
    ) -> BoxFuture<'_, Result<Vec<Self::Answer>, Failure>> {
        Box::pin(async move {
            let member = self.0.leader();
            let mut client = Wire::new(self.0.channel(member)?);
            let grains = grains.into_iter().map(Into::into).collect();
            let request =
                wire::LookupRequest { cluster: self.0.cluster.to_string(), grains, forwarded: false };
            let answer =
                answered(&self.0, member, tokio::time::timeout(limit, client.lookup(request)).await)?;
            let held = |r: wire::LookupResult| {
                r.held.map(Held::try_from).transpose().map_err(|e| Failure::unreadable(e).into())
            };
            Ok(answer.results.into_iter().map(held).collect())
        })
    }

    fn given_up(_: &GrainId, why: Failure) -> Self::Answer {
        Err(why.into())
    }
}

/// Takes an attempt's outcome apart and keeps the hint where the leader is.
pub(super) fn answered<T>(
    road: &Road,
    member: usize,
    outcome: Result<Result<tonic::Response<T>, tonic::Status>, tokio::time::error::Elapsed>,
) -> Result<T, Failure> {
    match outcome {
        Ok(Ok(answer)) => {
            road.hint(member, answer.metadata());
            Ok(answer.into_inner())
        }
        Ok(Err(status)) => {
            road.failed(member, Some(&status));
            Err(Failure::of(&status))
        }
        Err(_) => {
            road.failed(member, None);
            Err(Failure::late())
        }
    }
}
