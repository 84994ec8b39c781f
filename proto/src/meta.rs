//! Conversions of `meta.proto`: sessions, keepalives, batched operations, the watch.

use std::time::Duration;

use millet_core::{
    GrainId, GrainType, Grant, NodeId, Revision, SessionId, ShardId,
    model::{
        Change, Keepalive, KeepaliveAnswer, OpenSession, OpenedSession, SessionInfo, SessionState,
        ShardState, TypeRow, Verdict, ViewSnapshot, WatchEvent, Watched, WorkerLease,
    },
};

use crate::{
    WireError,
    common::{grain_type, millis},
    required,
    wire::{self, change, meta_op, meta_op_result, watch_response},
};

/// One thing a node asks of the metadata store; many travel in one request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Op {
    /// Asks for a grain's lease.
    Acquire {
        /// Whose.
        grain: GrainId,
        /// For whom.
        session: SessionId,
    },
    /// Gives a lease back.
    Release {
        /// Whose.
        grain: GrainId,
        /// By whom.
        session: SessionId,
        /// The grant given up.
        grant: Grant,
    },
    /// Gives a lease up in favour of another session (R23).
    Move {
        /// Whose.
        grain: GrainId,
        /// By whom.
        session: SessionId,
        /// The grant given up.
        grant: Grant,
        /// To whom.
        to: SessionId,
    },
    /// Answers a revoke (R8).
    AckShard {
        /// The type.
        ty: GrainType,
        /// Its shard.
        shard: ShardId,
        /// By whom.
        session: SessionId,
        /// The grant given up, or kept.
        grant: Grant,
        /// False: the shard stays.
        given_up: bool,
    },
    /// The session is leaving.
    Drain {
        /// Which.
        session: SessionId,
    },
    /// Ends the caller's own session (R18).
    Close {
        /// Which.
        session: SessionId,
    },
}

/// The result of one [`Op`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OpResult {
    /// The asking session (after a move: the new one) holds the grain.
    Granted {
        /// Under this grant.
        grant: Grant,
        /// Which replaced this one by a move (R23).
        previous: Option<Grant>,
    },
    /// Another living session holds it.
    Held(Held),
    /// Ask again (R24).
    Retry,
    /// Done, or nothing left to do.
    Done,
    /// This session is not alive.
    NotAlive(SessionId),
    /// The request is wrong.
    Refused(String),
}

/// Who holds a grain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Held {
    /// The session.
    pub session: SessionId,
    /// Its node.
    pub node: NodeId,
    /// The grant it holds.
    pub grant: Grant,
}

fn grant(g: Option<wire::Grant>, field: &'static str) -> Result<Grant, WireError> {
    required(g, field).map(Grant::from)
}

impl From<Op> for wire::MetaOp {
    fn from(op: Op) -> Self {
        use wire::meta_op::{AckShard, Acquire, Close, Drain, Kind, Move, Release};
        let kind = match op {
            Op::Acquire { grain, session } => {
                Kind::Acquire(Acquire { grain: Some(grain.into()), session: session.0 })
            }
            Op::Release { grain, session, grant } => Kind::Release(Release {
                grain: Some(grain.into()),
                session: session.0,
                grant: Some(grant.into()),
            }),
            Op::Move { grain, session, grant, to } => Kind::Move(Move {
                grain: Some(grain.into()),
                session: session.0,
                grant: Some(grant.into()),
                to: to.0,
            }),
            Op::AckShard { ty, shard, session, grant, given_up } => Kind::AckShard(AckShard {
                r#type: ty.into(),
                shard: shard.0,
                session: session.0,
                grant: Some(grant.into()),
                given_up,
            }),
            Op::Drain { session } => Kind::Drain(Drain { session: session.0 }),
            Op::Close { session } => Kind::Close(Close { session: session.0 }),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<wire::MetaOp> for Op {
    type Error = WireError;
    fn try_from(op: wire::MetaOp) -> Result<Self, WireError> {
        let grain = |g: Option<wire::GrainId>| required(g, "MetaOp.grain")?.try_into();
        Ok(match required(op.kind, "MetaOp.kind")? {
            meta_op::Kind::Acquire(o) => {
                Self::Acquire { grain: grain(o.grain)?, session: SessionId(o.session) }
            }
            meta_op::Kind::Release(o) => Self::Release {
                grain: grain(o.grain)?,
                session: SessionId(o.session),
                grant: grant(o.grant, "Release.grant")?,
            },
            meta_op::Kind::Move(o) => {
                let to = SessionId(o.to);
                Self::Move {
                    grain: grain(o.grain)?,
                    session: SessionId(o.session),
                    grant: grant(o.grant, "Move.grant")?,
                    to,
                }
            }
            meta_op::Kind::AckShard(o) => Self::AckShard {
                ty: grain_type(&o.r#type, "AckShard.type")?,
                shard: ShardId(o.shard),
                session: SessionId(o.session),
                grant: grant(o.grant, "AckShard.grant")?,
                given_up: o.given_up,
            },
            meta_op::Kind::Drain(o) => Self::Drain { session: SessionId(o.session) },
            meta_op::Kind::Close(o) => Self::Close { session: SessionId(o.session) },
        })
    }
}

impl From<Held> for meta_op_result::Held {
    fn from(h: Held) -> Self {
        Self { session: h.session.0, node: h.node.0, grant: Some(h.grant.into()) }
    }
}

impl TryFrom<meta_op_result::Held> for Held {
    type Error = WireError;
    fn try_from(h: meta_op_result::Held) -> Result<Self, WireError> {
        Ok(Self { session: SessionId(h.session), node: NodeId(h.node), grant: grant(h.grant, "Held.grant")? })
    }
}

impl From<OpResult> for wire::MetaOpResult {
    fn from(r: OpResult) -> Self {
        use wire::meta_op_result::{Done, Granted, Kind, NotAlive, Refused, Retry};
        let kind = match r {
            OpResult::Granted { grant, previous } => {
                Kind::Granted(Granted { grant: Some(grant.into()), previous: previous.map(Into::into) })
            }
            OpResult::Held(held) => Kind::Held(held.into()),
            OpResult::Retry => Kind::Retry(Retry {}),
            OpResult::Done => Kind::Done(Done {}),
            OpResult::NotAlive(session) => Kind::NotAlive(NotAlive { session: session.0 }),
            OpResult::Refused(why) => Kind::Refused(Refused { why }),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<wire::MetaOpResult> for OpResult {
    type Error = WireError;
    fn try_from(r: wire::MetaOpResult) -> Result<Self, WireError> {
        use wire::meta_op_result::Kind;
        Ok(match required(r.kind, "MetaOpResult.kind")? {
            Kind::Granted(g) => Self::Granted {
                grant: grant(g.grant, "Granted.grant")?,
                previous: g.previous.map(Into::into),
            },
            Kind::Held(h) => Self::Held(h.try_into()?),
            Kind::Retry(_) => Self::Retry,
            Kind::Done(_) => Self::Done,
            Kind::NotAlive(n) => Self::NotAlive(SessionId(n.session)),
            Kind::Refused(r) => Self::Refused(r.why),
        })
    }
}

impl From<OpenSession> for wire::OpenSessionRequest {
    fn from(o: OpenSession) -> Self {
        Self {
            cluster: String::new(),
            incarnation: o.incarnation.to_be_bytes().to_vec().into(),
            attempt: o.attempt,
            node: Some(o.node.into()),
            ttl_ms: millis(o.ttl),
            forwarded: false,
        }
    }
}

impl TryFrom<wire::OpenSessionRequest> for OpenSession {
    type Error = WireError;
    fn try_from(o: wire::OpenSessionRequest) -> Result<Self, WireError> {
        let incarnation = <[u8; 16]>::try_from(&o.incarnation[..])
            .map_err(|_| WireError::bad("OpenSessionRequest.incarnation", "16 bytes are needed"))?;
        let node = required(o.node, "OpenSessionRequest.node")?.try_into()?;
        Ok(Self {
            incarnation: u128::from_be_bytes(incarnation),
            attempt: o.attempt,
            node,
            ttl: Duration::from_millis(o.ttl_ms),
        })
    }
}

impl From<OpenedSession> for wire::OpenSessionResponse {
    fn from(o: OpenedSession) -> Self {
        Self {
            session: o.session.0,
            ttl_ms: millis(o.ttl),
            worker: o.worker.map(|w| u32::from(w.worker)),
            worker_after_ms: o.worker.map_or(0, |w| w.after_ms),
        }
    }
}

impl TryFrom<wire::OpenSessionResponse> for OpenedSession {
    type Error = WireError;
    fn try_from(o: wire::OpenSessionResponse) -> Result<Self, WireError> {
        let number =
            |w| u16::try_from(w).map_err(|_| WireError::bad("OpenSessionResponse.worker", "over 16 bits"));
        let worker = o
            .worker
            .map(number)
            .transpose()?
            .map(|worker| WorkerLease { worker, after_ms: o.worker_after_ms });
        Ok(Self { session: SessionId(o.session), ttl: Duration::from_millis(o.ttl_ms), worker })
    }
}

impl From<Keepalive> for wire::KeepaliveRequest {
    fn from(k: Keepalive) -> Self {
        Self {
            cluster: String::new(),
            session: k.session.0,
            number: k.number,
            heard: k.heard,
            revision: k.revision.0,
            activations: k.activations,
            reserve_ms: k.reserve_ms,
            forwarded: false,
        }
    }
}

impl From<wire::KeepaliveRequest> for Keepalive {
    fn from(k: wire::KeepaliveRequest) -> Self {
        Self {
            session: SessionId(k.session),
            number: k.number,
            heard: k.heard,
            revision: Revision(k.revision),
            activations: k.activations,
            reserve_ms: k.reserve_ms,
        }
    }
}

impl From<KeepaliveAnswer> for wire::KeepaliveResponse {
    fn from(a: KeepaliveAnswer) -> Self {
        let verdict = match a.verdict {
            Verdict::Renewed => wire::Verdict::Renewed,
            Verdict::NotRenewed => wire::Verdict::NotRenewed,
            Verdict::Dead => wire::Verdict::Dead,
        };
        Self {
            session: a.session.0,
            number: a.number,
            verdict: verdict.into(),
            revision: a.revision.0,
            resync: a.ended.is_none(),
            ended: a.ended.unwrap_or_default().into_iter().map(|s| s.0).collect(),
            reserved_ms: a.reserved_ms,
            cluster_ms: a.cluster_ms,
        }
    }
}

impl TryFrom<wire::KeepaliveResponse> for KeepaliveAnswer {
    type Error = WireError;
    fn try_from(a: wire::KeepaliveResponse) -> Result<Self, WireError> {
        let verdict = match a.verdict() {
            wire::Verdict::Renewed => Verdict::Renewed,
            wire::Verdict::NotRenewed => Verdict::NotRenewed,
            wire::Verdict::Dead => Verdict::Dead,
            wire::Verdict::Unspecified => return Err(WireError::missing("KeepaliveResponse.verdict")),
        };
        let ended = (!a.resync).then(|| a.ended.into_iter().map(SessionId).collect());
        Ok(Self {
            session: SessionId(a.session),
            number: a.number,
            verdict,
            revision: Revision(a.revision),
            ended,
            reserved_ms: a.reserved_ms,
            cluster_ms: a.cluster_ms,
        })
    }
}

impl From<SessionInfo> for wire::SessionRow {
    fn from(s: SessionInfo) -> Self {
        let state = match s.state {
            SessionState::Opened => wire::SessionState::Opened,
            SessionState::Alive => wire::SessionState::Alive,
            SessionState::Draining => wire::SessionState::Draining,
            SessionState::Dead => wire::SessionState::Dead,
        };
        Self { id: s.id.0, node: Some(s.node.into()), state: state.into() }
    }
}

impl TryFrom<wire::SessionRow> for SessionInfo {
    type Error = WireError;
    fn try_from(s: wire::SessionRow) -> Result<Self, WireError> {
        let state = match s.state() {
            wire::SessionState::Opened => SessionState::Opened,
            wire::SessionState::Alive => SessionState::Alive,
            wire::SessionState::Draining => SessionState::Draining,
            wire::SessionState::Dead => SessionState::Dead,
            wire::SessionState::Unspecified => return Err(WireError::missing("SessionRow.state")),
        };
        Ok(Self { id: SessionId(s.id), node: required(s.node, "SessionRow.node")?.try_into()?, state })
    }
}

impl From<TypeRow> for wire::TypeRow {
    fn from(t: TypeRow) -> Self {
        let decl = millet_core::model::TypeDecl { ty: t.ty, ownership: t.ownership, keys: t.keys };
        Self { decl: Some(decl.into()), generation: t.generation }
    }
}

impl TryFrom<wire::TypeRow> for TypeRow {
    type Error = WireError;
    fn try_from(t: wire::TypeRow) -> Result<Self, WireError> {
        let decl = millet_core::model::TypeDecl::try_from(required(t.decl, "TypeRow.decl")?)?;
        Ok(Self { ty: decl.ty, ownership: decl.ownership, keys: decl.keys, generation: t.generation })
    }
}

fn shard_row(ty: GrainType, shard: ShardId, state: ShardState) -> wire::ShardRow {
    let (session, grant, to) = match state {
        ShardState::Free => (0, None, 0),
        ShardState::Assigned { session, grant } => (session.0, Some(grant.into()), 0),
        ShardState::Revoking { session, grant, to } => (session.0, Some(grant.into()), to.0),
    };
    wire::ShardRow { r#type: ty.into(), shard: shard.0, session, grant, to }
}

fn shard(row: wire::ShardRow) -> Result<(GrainType, ShardId, ShardState), WireError> {
    let ty = grain_type(&row.r#type, "ShardRow.type")?;
    let session = SessionId(row.session);
    let state = match (row.session, row.to) {
        (0, _) => ShardState::Free,
        (_, 0) => ShardState::Assigned { session, grant: grant(row.grant, "ShardRow.grant")? },
        (_, to) => {
            ShardState::Revoking { session, grant: grant(row.grant, "ShardRow.grant")?, to: SessionId(to) }
        }
    };
    Ok((ty, ShardId(row.shard), state))
}

impl From<Change> for wire::Change {
    fn from(c: Change) -> Self {
        let kind = match c {
            Change::Session(s) => change::Kind::Session(s.into()),
            Change::Ended(id) => change::Kind::Ended(id.0),
            Change::Type(t) => change::Kind::Type(t.into()),
            Change::Shard { ty, shard, state } => change::Kind::Shard(shard_row(ty, shard, state)),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<wire::Change> for Change {
    type Error = WireError;
    fn try_from(c: wire::Change) -> Result<Self, WireError> {
        Ok(match required(c.kind, "Change.kind")? {
            change::Kind::Session(s) => Self::Session(s.try_into()?),
            change::Kind::Ended(id) => Self::Ended(SessionId(id)),
            change::Kind::Type(t) => Self::Type(t.try_into()?),
            change::Kind::Shard(row) => {
                let (ty, shard, state) = shard(row)?;
                Self::Shard { ty, shard, state }
            }
        })
    }
}

impl From<Watched> for wire::WatchResponse {
    fn from(w: Watched) -> Self {
        use watch_response::{Event, Kind, Resync};
        let kind = match w {
            Watched::Event(e) => Kind::Event(Event {
                revision: e.revision.0,
                changes: e.changes.into_iter().map(Into::into).collect(),
            }),
            Watched::Resync(v) => Kind::Resync(Resync {
                revision: v.revision.0,
                sessions: v.sessions.into_iter().map(Into::into).collect(),
                types: v.types.into_iter().map(Into::into).collect(),
                shards: v.shards.into_iter().map(|(ty, shard, state)| shard_row(ty, shard, state)).collect(),
            }),
            Watched::Progress(r) => Kind::Progress(r.0),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<wire::WatchResponse> for Watched {
    type Error = WireError;
    fn try_from(w: wire::WatchResponse) -> Result<Self, WireError> {
        Ok(match required(w.kind, "WatchResponse.kind")? {
            watch_response::Kind::Event(e) => {
                let changes = e.changes.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?;
                Self::Event(WatchEvent { revision: Revision(e.revision), changes })
            }
            watch_response::Kind::Resync(v) => Self::Resync(ViewSnapshot {
                revision: Revision(v.revision),
                sessions: v.sessions.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
                types: v.types.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
                shards: v.shards.into_iter().map(shard).collect::<Result<_, _>>()?,
            }),
            watch_response::Kind::Progress(r) => Self::Progress(Revision(r)),
        })
    }
}

#[cfg(test)]
mod tests;
