//! How nodes ask the metadata members: batches of operations, a watch, the keeper's own light road. It
//! finds the leader by itself and repeats what may be repeated; what it cannot know it says.

mod batch;
mod keeper;
mod meta;
mod road;
mod state;

use std::sync::Arc;

use millet_core::{SessionId, world::Spawner};

pub use keeper::KeeperClient;
pub use meta::{Acquired, ClusterStatus, GroupStatus, Held, MemberRow, MetaClient, Watch};
pub use state::StateClient;

use crate::Dial;

/// What a client needs.
#[derive(Clone)]
pub struct ClientOptions {
    /// The cluster's id; members of another one refuse.
    pub cluster: String,
    /// Addresses of the metadata members, `host:port`; at least one.
    pub members: Vec<String>,
    /// Makes connections.
    pub dial: Dial,
    /// Runs the client's tasks; they end when the client is dropped.
    pub spawner: Arc<dyn Spawner>,
}

/// Why the metadata members did not do what was asked.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ClientError {
    /// No leader, no quorum, nobody reachable. The outcome of writes is not known; all may be repeated.
    #[error("{0}")]
    Unavailable(String),
    /// The session that asks is not alive.
    #[error("session {0} is not alive")]
    SessionNotAlive(SessionId),
    /// The request is wrong: another cluster, an unknown type, a mode that differs.
    #[error("{0}")]
    Refused(String),
}
