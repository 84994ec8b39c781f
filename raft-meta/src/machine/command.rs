//! What the `meta` group's log holds: commands, already decided, encoded with postcard behind a version
//! byte. `apply` needs nothing else.

use std::time::Duration;

use millet_core::{
    GrainType, Grant, SessionId, ShardId,
    model::{NodeInfo, OpenSession, Ownership, ShardState},
};
use serde::{Deserialize, Serialize};

use super::{LeaseKey, MemberStep, Secret};

/// The first byte of every encoded command and reply. Fields and variants are only ever added at the
/// end, behind a feature level; anything else raises this.
pub const FORMAT: u8 = 1;

/// Why bytes are not a command, a reply or a snapshot of this build's format.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CodecError {
    /// Nothing there.
    #[error("an empty {0}")]
    Empty(&'static str),
    /// Written by another format version.
    #[error("{what} of format {found}, this build reads {FORMAT}; upgrade this member")]
    Version {
        /// What was read.
        what: &'static str,
        /// The version byte found.
        found: u8,
    },
    /// The content cannot be read.
    #[error("damaged {what}: {why}")]
    Damaged {
        /// What was read.
        what: &'static str,
        /// What is wrong.
        why: String,
    },
}

pub(super) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_extend(value, vec![FORMAT]).expect("plain data always encodes into a Vec")
}

pub(super) fn decode<'a, T: Deserialize<'a>>(what: &'static str, bytes: &'a [u8]) -> Result<T, CodecError> {
    let (&version, rest) = bytes.split_first().ok_or(CodecError::Empty(what))?;
    if version != FORMAT {
        return Err(CodecError::Version { what, found: version });
    }
    let (value, left) =
        postcard::take_from_bytes(rest).map_err(|e| CodecError::Damaged { what, why: e.to_string() })?;
    if !left.is_empty() {
        return Err(CodecError::Damaged { what, why: format!("{} bytes behind the end", left.len()) });
    }
    Ok(value)
}

/// One entry of the `meta` log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Command {
    /// Makes the cluster; once. Everything else is refused before it.
    Init(Init),
    /// Opens a session whose id is this entry's index (one per entry, R24).
    OpenSession(Open),
    /// Cluster time and the sessions renewed at it (R6).
    Tick(Tick),
    /// What nodes asked for; one result per op.
    Batch(Vec<Op>),
    /// What the leader decided about shards.
    ShardDecisions(Vec<Decision>),
    /// Looks at up to `rows` lease rows, from where the last sweep stopped, and deletes those whose
    /// session is dead now.
    Sweep {
        /// How many rows to look at.
        rows: u32,
    },
    /// Lets apply use what this level of builds understands; only rises (R24).
    FeatureLevel(u32),
    /// Changes a type's ownership, raising its generation (R11).
    TypeSet {
        /// Which type; it must exist.
        ty: GrainType,
        /// Its new mode and shard count.
        ownership: Ownership,
    },
    /// A change of members (feature level 2).
    Members(MemberStep),
}

impl Command {
    /// To log form.
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }
    /// From log form.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        decode("command", bytes)
    }
}

/// See [`Command::Init`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Init {
    /// The cluster's id, in every request.
    pub cluster: String,
    /// Names lease rows (R31).
    pub secret: Secret,
    /// The first generation: above the largest in any configured store (R16).
    pub generation: u32,
}

/// See [`Command::OpenSession`]; `core::model::OpenSession` in log form.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Open {
    /// Random per process start.
    pub incarnation: u128,
    /// Counts up with every session the process asks for.
    pub attempt: u32,
    /// Who asks.
    pub node: NodeInfo,
    /// Wished time to live, milliseconds.
    pub ttl_ms: u64,
}

impl From<OpenSession> for Open {
    fn from(o: OpenSession) -> Self {
        Self { incarnation: o.incarnation, attempt: o.attempt, node: o.node, ttl_ms: millis(o.ttl) }
    }
}

pub(super) fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

/// See [`Command::Tick`]. Built by `leader::Renewals`, which keeps the order of R6.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Tick {
    /// Cluster time, milliseconds; apply takes the maximum.
    pub time_ms: u64,
    /// The leader's wall clock, milliseconds since 1970: bounds snowflake reservations only (R33).
    pub wall_ms: u64,
    /// Sessions heard from, with the highest keepalive number of the closed set.
    pub renewed: Vec<Renewed>,
}

/// One renewal within a [`Tick`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Renewed {
    /// Whose.
    pub session: SessionId,
    /// The keepalive.
    pub number: u64,
    /// Snowflake times wished up to here (0: none; R33).
    pub reserve_ms: u64,
    /// Activations on the node.
    pub load: u64,
}

/// One thing a node asks for. Safety conditions are checked in apply (R24).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Op {
    /// Asks for a grain's lease.
    Acquire {
        /// Which row.
        key: LeaseKey,
        /// `GrainType::id`.
        ty: u64,
        /// For whom.
        session: SessionId,
    },
    /// Gives a lease back.
    Release {
        /// Which row.
        key: LeaseKey,
        /// `GrainType::id`.
        ty: u64,
        /// By whom.
        session: SessionId,
        /// The grant given up.
        grant: Grant,
    },
    /// Gives `grant` up and grants the grain to `to`, in one entry (R23).
    Move {
        /// Which row.
        key: LeaseKey,
        /// `GrainType::id`.
        ty: u64,
        /// By whom.
        session: SessionId,
        /// The grant given up.
        grant: Grant,
        /// To whom.
        to: SessionId,
    },
    /// Answers a revoke (R8).
    AckShard {
        /// `GrainType::id`.
        ty: u64,
        /// Which shard.
        shard: ShardId,
        /// By whom.
        session: SessionId,
        /// The grant given up, or kept.
        grant: Grant,
        /// False: refused, the shard stays.
        given_up: bool,
    },
    /// The session is leaving: chosen for nothing new.
    Drain {
        /// Which.
        session: SessionId,
    },
    /// Ends a session, on proof of death only (R18).
    Close {
        /// Which.
        session: SessionId,
    },
}

/// One decision about one shard; applied only if the row still is as it was decided on (R8).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Decision {
    /// `GrainType::id`.
    pub ty: u64,
    /// The type's generation.
    pub generation: u32,
    /// Which shard.
    pub shard: ShardId,
    /// The row it replaces.
    pub expect: ShardState,
    /// What to do.
    pub set: ShardSet,
}

/// See [`Decision`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ShardSet {
    /// Gives a shard without a living owner to a session.
    Assign {
        /// To whom.
        to: SessionId,
    },
    /// Asks the owner to hand the shard over; also redirects a revoke under way.
    Revoke {
        /// To whom.
        to: SessionId,
    },
    /// Takes a revoke back: the owner keeps the shard under its grant, unless it has given it up.
    Cancel,
}
