//! One metadata member: its data directory, its log, its two Raft groups, its leader's duties. A member
//! with an empty directory belongs to no cluster and serves `Bootstrap` only, until `init` is run once.

mod carry;
mod change;
mod drive;
mod farewell;
mod init;
mod quorum;
mod running;
mod shared;
mod steps;

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use millet_core::{
    Clock, NodeId, Revision,
    world::{Disk, Entropy, Threads},
};

pub(crate) use change::{Begun, Wish};
pub(crate) use drive::KeepaliveIn;
#[cfg(test)]
pub(crate) use running::meta_group;
pub(crate) use running::{GROUPS, META, Running, STATE, Tide, group_name};
pub(crate) use shared::Shared;
pub(crate) use steps::{Step, look_to_wire};

use crate::{
    Dial,
    client::ClusterStatus,
    engine::EngineKind,
    identity::{IdentityError, Membership},
    service::Services,
};

/// What a member needs from the world, and how it is kept.
#[derive(Clone)]
pub struct MemberOptions {
    /// Its data directory. Created if it is not there; locked while the member runs.
    pub dir: PathBuf,
    /// Where members and nodes reach it, `host:port`. Must be what other members call it.
    pub addr: String,
    /// The cluster's id or name: refuse a directory of any other, and name it so at `init`.
    pub cluster: Option<String>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
    /// Files.
    pub disk: Arc<dyn Disk>,
    /// Threads of its own: Raft, log writer, leader, apply.
    pub threads: Arc<dyn Threads>,
    /// Connections to other members.
    pub dial: Dial,
    /// The engine below the `state` group.
    pub engine: EngineKind,
    /// Entries between two snapshots of a group: bounds the log and the time of a restart.
    pub snapshot_every: u64,
    /// Bytes of a segment of the log.
    pub log_segment_bytes: u64,
    /// Cluster-wide times.
    pub timing: Timing,
    /// The first generation of grants at `init`: above the largest in any store that is configured (R16).
    pub generation: u32,
}

/// Times that every member keeps alike. The defaults are those of docs/config.md; whoever sets others has
/// checked that a failover fits into a session's validity (R4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timing {
    /// Between two Ticks.
    pub tick: Duration,
    /// Between two heartbeats of a leader.
    pub heartbeat: Duration,
    /// Shortest random election timeout.
    pub election_min: Duration,
    /// Longest random election timeout.
    pub election_max: Duration,
    /// A leader that hears no quorum for this long steps down. At least leader lease + longest election:
    /// else a leader without quorum, heard by a bridge node, keeps everybody from electing (openraft #2080).
    pub quorum_probe: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            tick: Duration::from_millis(100),
            heartbeat: Duration::from_millis(100),
            election_min: Duration::from_millis(300),
            election_max: Duration::from_millis(600),
            quorum_probe: Duration::from_millis(1_300),
        }
    }
}

impl MemberOptions {
    /// Entries between two snapshots unless said otherwise: about 15 minutes of Ticks, or a few seconds
    /// of full load.
    pub const SNAPSHOT_EVERY: u64 = 10_000;
    /// Bytes of a segment of the log unless said otherwise.
    pub const LOG_SEGMENT_BYTES: u64 = 16 << 20;
}

/// Why a member does not start, or `init` was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MemberError {
    /// The data directory cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The log, a snapshot or a group cannot be opened.
    #[error("metadata member in {dir}: {source}")]
    Storage {
        /// The data directory.
        dir: PathBuf,
        /// What failed.
        source: io::Error,
    },
    /// `init` or an adoption is refused, and what to do.
    #[error("{0}")]
    Refused(String),
    /// Another member did not answer, or no leader was elected in time: repeat.
    #[error("{0}")]
    Unavailable(String),
}

/// Where a member stands. Members at the same revision have the same hash.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Standing {
    /// Whether it leads the `meta` group.
    pub leads: bool,
    /// The last command it has applied.
    pub revision: Revision,
    /// A hash of all that is replicated in the `meta` group.
    pub state_hash: u64,
    /// Leases of sessions that have ended, until they are swept.
    pub dead_rows: u64,
}

/// One metadata member. Dropping it without [`Member::stop`] leaves its threads to end with the process.
pub struct Member {
    shared: Arc<Shared>,
}

impl Member {
    /// Opens the data directory. A member of a cluster recovers its groups and takes part again, with no
    /// further flags; a fresh one waits to be adopted or for [`Member::init`].
    ///
    /// [`Member::services`] must be served, or nobody reaches it.
    ///
    /// Cancel safety: none; a dropped start may leave the directory locked until the process ends.
    pub async fn start(options: MemberOptions) -> Result<Self, MemberError> {
        let shared = Arc::new(Shared::open(options)?);
        if let Some(place) = shared.membership() {
            shared.run(&place).await?;
        }
        Ok(Self { shared })
    }

    /// The node's id, drawn when the directory was first used.
    pub fn node(&self) -> NodeId {
        self.shared.node()
    }

    /// Its place in a cluster, once it has one: cluster id, member id, founders.
    pub fn membership(&self) -> Option<Membership> {
        self.shared.membership()
    }

    /// Waits until it belongs to a cluster and runs: at once after a restart, else when `init` was run
    /// here or elsewhere.
    ///
    /// Cancel safety: safe.
    pub async fn joined(&self) -> Membership {
        self.shared.joined().await
    }

    /// Makes a cluster of the members at these addresses, this one among them, all of them fresh: draws
    /// the cluster's id and secret, gives out member ids, elects a leader. Run once; the same list again
    /// is harmless and finishes what was interrupted. `init(&[own])` makes a cluster of one.
    ///
    /// Cancel safety: safe to repeat.
    pub async fn init(&self, members: &[String]) -> Result<Membership, MemberError> {
        self.shared.init(members).await
    }

    /// The tonic services to serve.
    pub fn services(&self) -> Services {
        Services { shared: Arc::clone(&self.shared) }
    }

    /// How the cluster stands, as this member knows.
    pub fn status(&self) -> Option<ClusterStatus> {
        self.shared.running().map(|r| r.status())
    }

    /// Lease rows as applied here, and whether this member leads the `meta` group.
    pub fn leases(&self) -> Option<(u64, bool)> {
        self.shared.running().map(|r| (r.machine.read().lease_rows(), r.leadership().established))
    }

    /// Where this member stands, for comparing members with each other. Reads the whole applied state.
    pub fn standing(&self) -> Option<Standing> {
        self.shared.running().map(|r| {
            let machine = r.machine.read();
            Standing {
                leads: r.leadership().established,
                revision: machine.revision(),
                state_hash: machine.state_hash(),
                dead_rows: machine.dead_rows(),
            }
        })
    }

    /// Waits until both groups have a leader and the cluster is made, at most `limit`.
    ///
    /// Cancel safety: safe.
    pub async fn ready(&self, limit: Duration) -> Result<(), MemberError> {
        let ready = async {
            self.shared.joined().await;
            match self.shared.running() {
                Some(running) => running.ready().await,
                None => std::future::pending().await,
            }
        };
        let late = |_| {
            MemberError::Unavailable(format!(
                "no metadata leader within {} s: are most members up, and was init run?",
                limit.as_secs()
            ))
        };
        tokio::time::timeout(limit, ready).await.map_err(late)
    }

    /// Waits for the member to fail for good: a disk that fails, a log that cannot be applied. The
    /// process must end then; it never carries on.
    ///
    /// Cancel safety: safe.
    pub async fn failed(&self) -> String {
        self.shared.failed().await
    }

    /// Hands leadership over, stops the groups, releases the data directory. It is stopped also where this
    /// is an error: its disk failed, before or during the last writes, and must be looked at.
    ///
    /// Cancel safety: none; repeat it.
    pub async fn stop(&self) -> Result<(), MemberError> {
        self.shared.stop(true).await
    }

    /// Stops as a crash would, without a word to the others: for tests and simulators.
    ///
    /// Cancel safety: none; repeat it.
    pub async fn abandon(&self) {
        // Whoever lets it crash does not ask how its disk is.
        let _ = self.shared.stop(false).await;
    }
}
