//! The metadata store's view of the cluster, as every node sees it: nodes and their sessions, grain
//! types, shard tables, and the revisioned events that change them.

use std::time::Duration;

use crate::{GrainType, Grant, KeyKind, NodeId, Revision, SessionId, ShardId};

/// How grains of a type are owned; cluster state, not code (R11).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Ownership {
    /// Every grain has a lease of its own.
    Leased,
    /// Grains hash onto this many shards, each with a lease (1 = cluster singleton).
    Sharded {
        /// 1 to [`crate::limits::SHARDS`].
        shards: u32,
    },
}

/// What a node's build declares about a grain type it hosts.
#[derive(Clone, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct TypeDecl {
    /// The type.
    pub ty: GrainType,
    /// Its ownership mode and shard count: a node whose declaration differs from the cluster's row is
    /// not eligible for the type.
    pub ownership: Ownership,
    /// Its kind of key.
    pub keys: KeyKind,
}

/// A node as it introduces itself when it opens a session.
#[derive(Clone, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct NodeInfo {
    /// From its data directory.
    pub id: NodeId,
    /// For people.
    pub name: String,
    /// Where other nodes reach it, `host:port`.
    pub peer_addr: String,
    /// Where outside callers reach it, `host:port`; empty if nowhere.
    pub api_addr: String,
    /// The grain types it hosts.
    pub types: Vec<TypeDecl>,
}

/// A session's life, as the metadata store decides it. `Dead` is final.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum SessionState {
    /// Opened, never renewed: grants nothing, is assigned nothing (R7).
    Opened,
    /// Renewed at least once.
    Alive,
    /// Leaving: keeps what it holds, is chosen for nothing new.
    Draining,
    /// Ended.
    Dead,
}

/// A living session.
#[derive(Clone, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct SessionInfo {
    /// The session.
    pub id: SessionId,
    /// Whose it is.
    pub node: NodeInfo,
    /// How it stands; never `Dead` in a view.
    pub state: SessionState,
}

/// The cluster's row for a grain type.
#[derive(Clone, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct TypeRow {
    /// The type.
    pub ty: GrainType,
    /// Mode and shard count in force.
    pub ownership: Ownership,
    /// Its kind of key.
    pub keys: KeyKind,
    /// Rises when `ownership` changes or after a recovery.
    pub generation: u32,
}

/// One shard's row.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum ShardState {
    /// Nobody holds it. Callers wait until their deadline.
    Free,
    /// Held. An owner whose session has ended counts as none.
    Assigned {
        /// By whom.
        session: SessionId,
        /// Under which grant.
        grant: Grant,
    },
    /// Asked back from its holder, to be given to `to` once the holder has acknowledged.
    Revoking {
        /// Who still holds it.
        session: SessionId,
        /// Under which grant.
        grant: Grant,
        /// Who gets it.
        to: SessionId,
    },
}

impl ShardState {
    /// The holder and its grant.
    pub fn holder(&self) -> Option<(SessionId, Grant)> {
        match *self {
            Self::Free => None,
            Self::Assigned { session, grant } | Self::Revoking { session, grant, .. } => {
                Some((session, grant))
            }
        }
    }
}

/// One change of the view.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// A session is new or its state changed.
    Session(SessionInfo),
    /// A session ended; everything that names it counts as free.
    Ended(SessionId),
    /// A type's row is new or changed.
    Type(TypeRow),
    /// A shard's row changed.
    Shard {
        /// The type.
        ty: GrainType,
        /// The shard.
        shard: ShardId,
        /// How it stands now.
        state: ShardState,
    },
}

/// Everything that one log entry changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WatchEvent {
    /// The entry.
    pub revision: Revision,
    /// In the order they happened.
    pub changes: Vec<Change>,
}

/// The whole view at one revision.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ViewSnapshot {
    /// As of this entry.
    pub revision: Revision,
    /// Every living session.
    pub sessions: Vec<SessionInfo>,
    /// Every type.
    pub types: Vec<TypeRow>,
    /// Every shard that is not `Free`.
    pub shards: Vec<(GrainType, ShardId, ShardState)>,
}

/// What a watch stream delivers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Watched {
    /// The next event; revisions only rise.
    Event(WatchEvent),
    /// Start over from here: a session that is missing has ended (R17).
    Resync(ViewSnapshot),
    /// Nothing changed up to this revision.
    Progress(Revision),
}

/// Opens a session. The same incarnation and attempt always give the same session; a higher attempt
/// ends the lower ones (R7).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OpenSession {
    /// Random per process start.
    pub incarnation: u128,
    /// Counts up with every session the process asks for.
    pub attempt: u32,
    /// Who asks.
    pub node: NodeInfo,
    /// Wished time to live; fixed for the session's life.
    pub ttl: Duration,
}

/// A snowflake worker id, leased by a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct WorkerLease {
    /// 0 to 1023.
    pub worker: u16,
    /// Ids may only be issued for wall-clock milliseconds *above* this: earlier ones may be taken.
    pub after_ms: u64,
}

/// The answer to [`OpenSession`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OpenedSession {
    /// Grants nothing until its first keepalive is renewed.
    pub session: SessionId,
    /// As fixed by the store.
    pub ttl: Duration,
    /// The worker id, if one was free.
    pub worker: Option<WorkerLease>,
}

/// A node's sign of life.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Keepalive {
    /// The session.
    pub session: SessionId,
    /// Rises with every new keepalive; a hedged repeat keeps its number (R5).
    pub number: u64,
    /// The number of the last keepalive whose answer the sender has received (R22); 0 if none.
    pub heard: u64,
    /// How far the node's watch is.
    pub revision: Revision,
    /// Activations on the node: load for placement.
    pub activations: u64,
    /// The node will issue no snowflake for a millisecond above this (0: none asked for; R33).
    pub reserve_ms: u64,
}

/// What the store made of a keepalive.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Verdict {
    /// An applied Tick renewed the session for this keepalive.
    Renewed,
    /// Not renewed; send the next one at once (R22).
    NotRenewed,
    /// The session has ended. Final.
    Dead,
}

/// The answer to a keepalive, made from the applied Tick (R6).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeepaliveAnswer {
    /// The session.
    pub session: SessionId,
    /// The keepalive answered.
    pub number: u64,
    /// Renewed or Dead.
    pub verdict: Verdict,
    /// The revision of its Tick.
    pub revision: Revision,
    /// Sessions ended since the node's revision; `None`: too many to say, resync the watch (R17).
    pub ended: Option<Vec<SessionId>>,
    /// Snowflake times up to here are reserved for the worker id (0: none).
    pub reserved_ms: u64,
    /// Cluster time of the Tick, in milliseconds: a node alarms when it advances more than 2 % off its own clock.
    pub cluster_ms: u64,
}
