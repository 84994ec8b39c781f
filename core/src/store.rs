//! Where grain state is kept. Every write is fenced: `open` raises a floor below which nothing is
//! accepted any more (G1a, R2, R3).

use bytes::Bytes;

use crate::{
    BoxFuture, Epoch, GrainId, GrainType, Grant, SessionId, ShardId,
    control::{Rule, off},
};

/// Counts the accepted writes of one grain; never restarts, not even after `clear`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Version(pub u64);

/// Who writes: the token and the session it was made under.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Token {
    /// The writing activation.
    pub epoch: Epoch,
    /// Its session; stores refuse sessions below the oldest living one they were told of.
    pub session: SessionId,
}

/// What the memory image of a moving activation is stamped with.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ImageStamp {
    /// The token it ran under.
    pub epoch: Epoch,
    /// The version it had loaded or saved last.
    pub version: Version,
}

impl ImageStamp {
    /// Whether the image may be used under a grant that replaced `previous` by a Move, where `open`
    /// returned `opened`. If not it is thrown away and the state loaded (R23).
    pub fn fits(&self, previous: Option<Grant>, opened: Version) -> bool {
        off(Rule::R23) || previous == Some(self.epoch.grant) && opened == self.version
    }
}

/// A grain's stored value.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Stored {
    /// The version of the last accepted write; 0 where there never was one.
    pub version: Version,
    /// The value; `None` if never written, or cleared.
    pub value: Option<Bytes>,
}

/// Why a store did not do what it was asked.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A newer activation has opened the grain: this one must end.
    #[error("fenced: token {given} is below the floor {floor}")]
    Fenced {
        /// The token given.
        given: Epoch,
        /// The floor in the store.
        floor: Epoch,
    },
    /// The session has ended, as the store knows: this activation must end.
    #[error("session {0} has ended")]
    SessionEnded(SessionId),
    /// The value changed under the caller, who is not its only writer: this activation must end.
    #[error("version {given:?} was given, {stored:?} is stored")]
    Version {
        /// The version given.
        given: Version,
        /// The version in the store.
        stored: Version,
    },
    /// Over the limit; nothing was written.
    #[error("state of {bytes} bytes is over the limit of {limit} bytes")]
    TooLarge {
        /// Size of the value.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// Nothing was done; try again.
    #[error("store unavailable: {0}")]
    Unavailable(String),
    /// It may have been done or not, or be done later: the activation must end (R3).
    #[error("outcome unknown: {0}")]
    Unknown(String),
}

/// A state store. Dyn-compatible; every method is one transaction.
///
/// Cancel safety: dropping a future leaves the outcome of a write unknown.
pub trait StateStore: Send + Sync + 'static {
    /// Refuses a token below the floor, raises the floor to it (also where no row exists), and returns
    /// the value and its version.
    fn open<'a>(
        &'a self,
        grain: &'a GrainId,
        slot: &'a str,
        token: Token,
    ) -> BoxFuture<'a, Result<Stored, StoreError>>;

    /// Raises one floor for all keys of a shard; called once by its owner before its first activation.
    fn open_shard<'a>(
        &'a self,
        ty: &'a GrainType,
        shard: ShardId,
        grant: Grant,
        session: SessionId,
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Reads under a shard's floor, writing nothing. Only for sharded grains none of whose earlier
    /// writes has an unknown outcome.
    fn load<'a>(
        &'a self,
        grain: &'a GrainId,
        slot: &'a str,
        shard: ShardId,
        token: Token,
    ) -> BoxFuture<'a, Result<Stored, StoreError>>;

    /// Writes if the token is not below the floor and the stored version is `version`, the one the
    /// caller last saw; returns the new one. Repeating the write that is already stored (same token,
    /// same `version`) answers as the first time.
    fn save<'a>(&'a self, write: Write<'a>, value: Bytes) -> BoxFuture<'a, Result<Version, StoreError>>;

    /// As `save`, but removes the value. Floor and version stay.
    fn clear<'a>(&'a self, write: Write<'a>) -> BoxFuture<'a, Result<Version, StoreError>>;
}

/// What a write names.
#[derive(Clone, Copy, Debug)]
pub struct Write<'a> {
    /// Whose state.
    pub grain: &'a GrainId,
    /// Which of the grain's named states.
    pub slot: &'a str,
    /// The shard, for grains of sharded types: its floor counts too.
    pub shard: Option<ShardId>,
    /// Who writes.
    pub token: Token,
    /// The version last seen.
    pub version: Version,
}
