//! Types and their shard tables: cluster state, not code (R11).

use std::{collections::BTreeMap, sync::Arc};

use millet_core::{
    Grant, SessionId, ShardId, limits,
    model::{Ownership, ShardState, TypeDecl, TypeRow},
};
use serde::{Deserialize, Serialize};

/// A grain type's row and what is held under it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TypeEntry {
    row: TypeRow,
    shards: Arc<Vec<ShardState>>,
    /// Lease rows per living session, this generation.
    leases: BTreeMap<SessionId, u64>,
    /// Lease rows per living session, older generations.
    old_leases: BTreeMap<SessionId, u64>,
    /// Shards of older generations whose owner has not given them up.
    old_shards: Vec<(SessionId, Grant)>,
}

fn free_shards(ownership: Ownership) -> Arc<Vec<ShardState>> {
    match ownership {
        Ownership::Leased => Arc::default(),
        Ownership::Sharded { shards } => Arc::new(vec![ShardState::Free; shards as usize]),
    }
}

/// Whether a shard count is within its limits.
pub(super) fn is_valid(ownership: Ownership) -> bool {
    match ownership {
        Ownership::Leased => true,
        Ownership::Sharded { shards } => (1..=limits::SHARDS).contains(&shards),
    }
}

impl TypeEntry {
    pub(super) fn new(decl: &TypeDecl, generation: u32) -> Self {
        Self {
            row: TypeRow { ty: decl.ty.clone(), ownership: decl.ownership, keys: decl.keys, generation },
            shards: free_shards(decl.ownership),
            leases: BTreeMap::new(),
            old_leases: BTreeMap::new(),
            old_shards: Vec::new(),
        }
    }

    /// Name, mode, key kind, generation.
    pub fn row(&self) -> &TypeRow {
        &self.row
    }

    /// The shard table; empty for leased types. A row whose holder is dead counts as free.
    pub fn shards(&self) -> &[ShardState] {
        &self.shards
    }

    /// Whether leases of an older generation are still out: nothing is granted until they are gone (R11).
    pub fn is_blocked(&self) -> bool {
        !self.old_leases.is_empty() || !self.old_shards.is_empty()
    }

    /// Lease rows that living sessions hold.
    pub fn live_leases(&self) -> u64 {
        self.leases.values().chain(self.old_leases.values()).sum()
    }

    pub(super) fn is_sharded(&self) -> bool {
        match self.row.ownership {
            Ownership::Leased => false,
            Ownership::Sharded { .. } => true,
        }
    }

    pub(super) fn shard(&self, shard: ShardId) -> Option<ShardState> {
        self.shards.get(shard.0 as usize).copied()
    }

    /// Writes a row that exists.
    pub(super) fn put_shard(&mut self, shard: ShardId, state: ShardState) {
        if let Some(row) = Arc::make_mut(&mut self.shards).get_mut(shard.0 as usize) {
            *row = state;
        }
    }

    pub(super) fn count_lease(&mut self, session: SessionId) {
        *self.leases.entry(session).or_default() += 1;
    }

    /// One lease row of a living session is gone.
    pub(super) fn uncount_lease(&mut self, session: SessionId, generation: u32) {
        let counts = if generation == self.row.generation { &mut self.leases } else { &mut self.old_leases };
        if let Some(count) = counts.get_mut(&session) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&session);
            }
        }
    }

    /// A session has ended: what it held counts as free.
    pub(super) fn session_ended(&mut self, session: SessionId) {
        self.leases.remove(&session);
        self.old_leases.remove(&session);
        self.old_shards.retain(|(owner, _)| *owner != session);
    }

    /// The owner of a shard of an older generation gives it up.
    pub(super) fn give_up_old(&mut self, session: SessionId, grant: Grant) {
        self.old_shards.retain(|held| *held != (session, grant));
    }

    /// A new generation in which nobody holds anything: all sessions have ended.
    pub(super) fn recovered(&mut self, generation: u32) {
        self.change(self.row.ownership, generation, |_| false);
        self.old_leases.clear();
        self.old_shards.clear();
    }

    /// Starts a new generation; what living sessions hold becomes old.
    pub(super) fn change(
        &mut self,
        ownership: Ownership,
        generation: u32,
        is_living: impl Fn(SessionId) -> bool,
    ) {
        for (session, count) in std::mem::take(&mut self.leases) {
            *self.old_leases.entry(session).or_default() += count;
        }
        let held =
            self.shards.iter().filter_map(ShardState::holder).filter(|(session, _)| is_living(*session));
        self.old_shards.extend(held);
        self.shards = free_shards(ownership);
        self.row.ownership = ownership;
        self.row.generation = generation;
    }
}
