//! The seam between finding owners (this crate) and running grains (`runtime`): what each asks of the
//! other. `Directory` implements [`Owners`]; the runtime implements [`Residents`].

use std::sync::Arc;

use millet_core::{
    BootTime, BoxFuture, Envelope, ErrorKind, GrainId, GrainType, Grant, Outcome, SessionId, SessionLease,
    ShardId,
};

/// The right to run one grain, obtained before its activation starts.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The session the grant was made to: the activation's own, for ever (R12).
    pub session: Arc<SessionLease>,
    /// The grant.
    pub grant: Grant,
    /// The shard, for sharded types. The directory has opened it in the state store (`open_shard`).
    pub shard: Option<ShardId>,
    /// The grant this one replaced by a `Move`, if it did (R23).
    pub previous: Option<Grant>,
}

/// Where a grain of a leased type is activated when nobody holds it. (Sharded types follow their table.)
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Default)]
#[non_exhaustive]
pub enum Placement {
    /// On the node that calls it first.
    #[default]
    PreferLocal,
    /// On the node that the hash ring names: calls from anywhere go there directly.
    Hash,
}

/// What the runtime asks of the directory.
pub trait Owners: Send + Sync + 'static {
    /// Obtains the right to activate `grain` here. `Moved` if another session holds it, `Unavailable`
    /// without a valid session or metadata quorum, or when the shard has no owner.
    fn claim<'a>(&'a self, grain: &'a GrainId) -> BoxFuture<'a, Result<Claim, ErrorKind>>;

    /// As `claim`, where it needs no waiting: sharded grains whose shard is held here. `None`: use `claim`.
    fn claim_now(&self, grain: &GrainId) -> Option<Claim>;

    /// The node's session of this moment, whatever an activation was born under. Nothing is decided by it
    /// (R12): it is there for the control that shows why.
    fn own_session(&self) -> Option<Arc<SessionLease>> {
        None
    }

    /// Ends the use of a leased grain's claim: from this call on its grant is dead on this node for
    /// ever (R1); the release is queued and repeated until the metadata store has answered. Does nothing
    /// for sharded grains. The activation's turns have ended and its writes have a definite outcome.
    fn give_up(&self, grain: &GrainId, claim: &Claim);

    /// Waits while a session is frozen: true as soon as it is valid, false at once when it is dead, or
    /// at `until` (R4).
    fn until_valid(&self, session: &Arc<SessionLease>, until: BootTime) -> BoxFuture<'static, bool>;

    /// Carries a call to wherever the grain is, this node included, and follows `Moved` and `Fenced`
    /// (R13, R30). The one road: the gateway and grain-to-grain calls both take it. Ends by itself, at the
    /// latest shortly after the envelope's deadline (G5): callers set no timer of their own.
    fn call(&self, envelope: Envelope) -> BoxFuture<'static, Outcome>;

    /// Whether a call to the grain should be given to this node's runtime right away: it is held here,
    /// or prefer-local placement would put it here and no other owner is known.
    fn prefers_here(&self, grain: &GrainId) -> bool;
}

/// What the directory asks of the runtime.
pub trait Residents: Send + Sync + 'static {
    /// The session is dead: every activation under it is dropped without saving, its queued calls are
    /// answered, its late outputs are dropped (R4, R28).
    fn session_ended(&self, session: SessionId);

    /// Ends every activation of a shard: no new turn, turns and spawned work and timers end, dirty state
    /// is flushed and has a definite outcome. True when done; false if `until` came first, and then the
    /// shard goes on here (R8).
    fn close_shard<'a>(
        &'a self,
        ty: &'a GrainType,
        shard: ShardId,
        grant: Grant,
        until: BootTime,
    ) -> BoxFuture<'a, bool>;

    /// Someone has seen a higher grant for this grain: an activation below it ends at once (R30).
    fn outranked(&self, grain: &GrainId, grant: Grant);

    /// Ends every activation of leased grains and gives their leases up, flushing first; for a graceful
    /// leave. Returns how many are left at `until`.
    fn drain<'a>(&'a self, until: BootTime) -> BoxFuture<'a, usize>;

    /// Activations alive: load for placement.
    fn activations(&self) -> u64;

    /// Runs an envelope here (the directory has decided that this node is the one to try).
    fn dispatch(&self, envelope: Envelope) -> BoxFuture<'static, Outcome>;
}
