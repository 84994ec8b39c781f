//! What the directory asks of the metadata store. Implemented over gRPC by the server's adapter, in
//! memory by the tests.

use futures::stream::BoxStream;
use millet_core::{
    BoxFuture, GrainId, GrainType, Grant, NodeId, Revision, SessionId, ShardId,
    model::{Keepalive, KeepaliveAnswer, OpenSession, OpenedSession, Watched},
};

/// Why the metadata store did not answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MetaError {
    /// No leader, no quorum, not reachable. Nothing is known about the outcome of writes; all of them
    /// may be repeated.
    #[error("{0}")]
    Unavailable(String),
    /// The session that asks is not alive.
    #[error("session {0} is not alive")]
    SessionNotAlive(SessionId),
    /// The request itself is wrong (unknown type, mode differs, …).
    #[error("{0}")]
    Refused(String),
}

/// Who holds a grain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Holder {
    /// The holding session, alive as of the answer.
    pub session: SessionId,
    /// Its node.
    pub node: NodeId,
    /// The grant it holds.
    pub grant: Grant,
}

/// The answer to an acquire: from an applied entry or a read-index read (R24).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Acquired {
    /// The asking session holds the grain. May be a grant given before: check it against R1.
    Granted(Grant),
    /// Another living session does.
    Held(Holder),
    /// Ask again: this entry has already granted the grain (R24).
    Retry,
}

/// What became of a shard acknowledgement.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ShardAck {
    /// The type.
    pub ty: GrainType,
    /// The shard.
    pub shard: ShardId,
    /// Who gives it up.
    pub session: SessionId,
    /// The grant that is given up (R8).
    pub grant: Grant,
    /// False: "refused", turns did not end within the revoke bound; the leader leaves the shard here.
    pub given_up: bool,
}

/// The metadata store, as the directory sees it. All methods may be repeated after `Unavailable`.
///
/// Cancel safety: a dropped future leaves the outcome unknown; repeating is safe.
pub trait Meta: Send + Sync + 'static {
    /// Asks for a grain's lease. Adapters batch these.
    fn acquire<'a>(
        &'a self,
        grain: &'a GrainId,
        session: SessionId,
    ) -> BoxFuture<'a, Result<Acquired, MetaError>>;
    /// Gives a lease back. The caller has marked the grant as given up before (R1).
    fn release<'a>(
        &'a self,
        grain: &'a GrainId,
        session: SessionId,
        grant: Grant,
    ) -> BoxFuture<'a, Result<(), MetaError>>;
    /// Moves a lease: gives `grant` up and grants the grain to `to` in one entry (R23).
    fn move_to<'a>(
        &'a self,
        grain: &'a GrainId,
        session: SessionId,
        grant: Grant,
        to: SessionId,
    ) -> BoxFuture<'a, Result<Option<Holder>, MetaError>>;
    /// Who holds the grain, by a read-index read.
    fn lookup<'a>(&'a self, grain: &'a GrainId) -> BoxFuture<'a, Result<Option<Holder>, MetaError>>;
    /// Answers a revoke.
    fn ack_shard(&self, ack: ShardAck) -> BoxFuture<'_, Result<(), MetaError>>;
    /// Says that the session is leaving: it is chosen for nothing new, its shards are handed over.
    fn drain(&self, session: SessionId) -> BoxFuture<'_, Result<(), MetaError>>;
    /// Ends the caller's own session, after its last turn has ended and its fence is set (R18).
    fn close(&self, session: SessionId) -> BoxFuture<'_, Result<(), MetaError>>;
    /// Events after `from` (or a resync first). Ends when the connection does; the caller reconnects
    /// with the revision it has.
    fn watch(
        &self,
        from: Revision,
    ) -> BoxFuture<'_, Result<BoxStream<'static, Result<Watched, MetaError>>, MetaError>>;
}

/// The keeper's own, separate road to the metadata members: nothing else may delay it (R5, R21).
pub trait KeeperLink: Send + Sync + 'static {
    /// How many members can be addressed.
    fn members(&self) -> usize;
    /// Opens a session through whichever member leads.
    fn open(&self, open: OpenSession) -> BoxFuture<'_, Result<OpenedSession, MetaError>>;
    /// Sends a keepalive to one member (by position); it is passed on to the leader that member knows.
    fn keepalive(
        &self,
        member: usize,
        keepalive: Keepalive,
    ) -> BoxFuture<'_, Result<KeepaliveAnswer, MetaError>>;
}
