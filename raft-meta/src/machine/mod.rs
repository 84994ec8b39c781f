//! The `meta` group's state machine: sessions, cluster time, grain and shard leases, types, snowflake
//! workers, and the watch events that tell of their changes. Pure and deterministic: `apply` sees the
//! entry and nothing else.
//!
//! `command`, `reply`: what goes in and comes out. `apply` and its kin (`batch`, `decide`): the rules.
//! `lease`, `session`, `shard`, `worker`, `members`: rows. `recover`: what a cluster keeps when it does not
//! start from a quorum. `recent`: what watchers ask for. `snapshot`: bytes.
//! `group`: the wrapper that the Raft adapter drives.

mod apply;
mod batch;
mod command;
mod decide;
mod group;
mod key;
mod lease;
mod members;
mod recent;
mod recover;
mod reply;
mod session;
mod shard;
mod snapshot;
mod worker;

#[cfg(test)]
pub(crate) mod tests;

use std::{collections::BTreeMap, fmt, hash::Hash, sync::Arc};

use millet_core::{
    Grant, NodeId, Revision, SessionId, ShardId,
    model::{ShardState, ViewSnapshot, WatchEvent},
};
use serde::{Deserialize, Serialize};

pub use command::{CodecError, Command, Decision, FORMAT, Init, Op, Open, Renewed, ShardSet, Tick};
pub use group::{MetaGroup, Published};
pub use key::{LeaseKey, Secret};
pub use members::{EndedChange, MEMBERS_LEVEL, MemberChange, MemberStep, OUTCOMES_LEVEL};
pub use recent::{Owned, Transition};
pub use recover::Recovery;
pub use reply::{OpResult, Opened, Reply, TickAnswer, Ticked};
pub use session::Session;
pub use shard::TypeEntry;

use lease::LeaseTable;
use recent::Recent;
use session::Sessions;
use worker::Workers;

/// The highest feature level this build can apply. A member that meets a higher one stops (R24).
pub const FEATURE_LEVEL: u32 = 3;

/// Who holds a grain, as of the last applied entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LeaseHolder {
    /// A living session.
    pub session: SessionId,
    /// Its node.
    pub node: NodeId,
    /// Its grant.
    pub grant: Grant,
    /// The grant it replaced by a Move (R23).
    pub previous: Option<Grant>,
}

/// Everything replicated but the lease rows.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
struct Head {
    applied: u64,
    init: Option<Init>,
    /// The rising counter that types' generations are drawn from.
    generation: u32,
    feature: u32,
    time_ms: u64,
    sessions: Sessions,
    types: BTreeMap<u64, TypeEntry>,
    workers: Workers,
    sweep_after: Option<LeaseKey>,
}

/// What came after format 1: written behind the head where it is not empty, and absent before.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
struct More {
    roster: members::Roster,
    /// Nothing is granted before this cluster time (R16).
    quiet_until_ms: u64,
}

/// The replicated state.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct State {
    head: Head,
    more: More,
    /// Behind both where it is not empty, as `More` is behind the head.
    outcomes: members::Outcomes,
    leases: LeaseTable,
}

/// The state machine. Clones are cheap (rows are shared); equality and hash see the replicated state
/// only, not what a member remembers of the past.
#[derive(Clone, Default)]
pub struct Machine {
    state: State,
    recent: Recent,
}

/// Short: a machine may hold millions of rows.
impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine")
            .field("revision", &self.revision())
            .field("time_ms", &self.time_ms())
            .field("sessions", &self.state.head.sessions.len())
            .field("lease_rows", &self.lease_rows())
            .finish_non_exhaustive()
    }
}

impl PartialEq for Machine {
    fn eq(&self, other: &Self) -> bool {
        self.state == other.state
    }
}
impl Eq for Machine {}
impl Hash for Machine {
    fn hash<H: std::hash::Hasher>(&self, hasher: &mut H) {
        hasher.write_u64(self.state_hash());
    }
}

/// What the leader, the service and checkers read.
impl Machine {
    /// A machine to which nothing was applied.
    pub fn new() -> Self {
        Self::default()
    }

    /// The last applied entry.
    pub fn revision(&self) -> Revision {
        Revision(self.state.head.applied)
    }

    /// Cluster id, secret and first generation; `None` before `Init`.
    pub fn cluster(&self) -> Option<&Init> {
        self.state.head.init.as_ref()
    }

    /// Cluster time of the last applied Tick, milliseconds.
    pub fn time_ms(&self) -> u64 {
        self.state.head.time_ms
    }

    /// Whether nothing may be granted yet: one TTL of cluster time has to pass after a recovery (R16).
    pub fn is_quiet(&self) -> bool {
        self.state.is_quiet()
    }

    /// The latest wall clock that snowflakes were reserved up to; 0: none were.
    pub fn reserved_ms(&self) -> u64 {
        self.state.head.workers.high_ms()
    }

    /// The rising counter that types' generations are drawn from.
    pub fn generation(&self) -> u32 {
        self.state.head.generation
    }

    /// The feature level in force.
    pub fn feature_level(&self) -> u32 {
        self.state.head.feature
    }

    /// A living session.
    pub fn session(&self, id: SessionId) -> Option<&Session> {
        self.state.head.sessions.get(id)
    }

    /// Every living session, by id.
    pub fn sessions(&self) -> impl Iterator<Item = &Session> {
        self.state.head.sessions.iter()
    }

    /// Whether a session has ended: an id above the last applied entry is newer, not ended (R17).
    pub fn is_ended(&self, id: SessionId) -> bool {
        id.0 <= self.state.head.applied && !self.state.head.sessions.is_living(id)
    }

    /// The oldest living session: stores refuse older ones.
    pub fn oldest_session(&self) -> Option<SessionId> {
        self.state.head.sessions.oldest()
    }

    /// Whether the node's last sessions died young: it is not chosen for now (R27).
    pub fn must_wait(&self, node: NodeId) -> bool {
        self.state.head.sessions.must_wait(node, self.state.head.time_ms)
    }

    /// Every grain type, by `GrainType::id`.
    pub fn types(&self) -> impl Iterator<Item = (u64, &TypeEntry)> {
        self.state.head.types.iter().map(|(id, entry)| (*id, entry))
    }

    /// One grain type, by `GrainType::id`.
    pub fn type_entry(&self, ty: u64) -> Option<&TypeEntry> {
        self.state.head.types.get(&ty)
    }

    /// One shard's row.
    pub fn shard(&self, ty: u64, shard: ShardId) -> Option<ShardState> {
        self.type_entry(ty)?.shard(shard)
    }

    /// Whether what the session's build declares of a type is what the cluster's row says (R11).
    pub fn is_eligible(&self, session: &Session, ty: u64) -> bool {
        let row = self.type_entry(ty).map(|entry| (entry.row().ownership, entry.row().keys));
        row.is_some() && row == session.declared(ty)
    }

    /// Who holds a grain. Call it after a read-index wait for an answer to others (R24).
    pub fn holder(&self, key: LeaseKey) -> Option<LeaseHolder> {
        let row = self.state.leases.get(key)?;
        let session = self.session(row.session())?;
        let previous = self.state.leases.previous(key);
        Some(LeaseHolder { session: session.id, node: session.node.id, grant: row.grant(), previous })
    }

    /// Lease rows, those of dead sessions included.
    pub fn lease_rows(&self) -> u64 {
        self.state.leases.rows()
    }

    /// Lease rows whose session is dead: what sweeps are for.
    pub fn dead_rows(&self) -> u64 {
        let live: u64 = self.state.head.types.values().map(TypeEntry::live_leases).sum();
        self.state.leases.rows().saturating_sub(live)
    }

    /// The whole view, for a resync. Rows of dead holders are listed as free, by being left out.
    pub fn view(&self) -> ViewSnapshot {
        let shards = self.state.head.types.values().flat_map(|entry| {
            entry.shards().iter().zip(0..).filter_map(|(state, n)| {
                let (holder, _) = state.holder()?;
                self.session(holder)?;
                Some((entry.row().ty.clone(), ShardId(n), *state))
            })
        });
        ViewSnapshot {
            revision: self.revision(),
            sessions: self.sessions().map(Session::info).collect(),
            types: self.state.head.types.values().map(|entry| entry.row().clone()).collect(),
            shards: shards.collect(),
        }
    }

    /// Watch events after `from`, oldest first; `None`: too far back, send the view (R17).
    pub fn events_since(&self, from: Revision) -> Option<Vec<Arc<WatchEvent>>> {
        self.recent.events_since(from)
    }

    /// Sessions that ended after `from`; `None`: too far back, the node must resync (R17).
    pub fn ended_since(&self, from: Revision) -> Option<Vec<SessionId>> {
        self.ended_between(from, self.revision())
    }

    /// As [`Machine::ended_since`], for an answer that speaks as of `upto`: an end beyond it is not said
    /// to have been known then.
    pub fn ended_between(&self, from: Revision, upto: Revision) -> Option<Vec<SessionId>> {
        self.recent.ended_between(from, upto)
    }

    /// What this member remembers of who held a grain or shard, oldest first, complete since the
    /// revision returned with it.
    pub fn history(&self, owned: Owned) -> (Revision, Vec<Transition>) {
        self.recent.history(owned)
    }
}
