//! The leader's decisions about shards, checked once more where it counts: against the row as it is
//! when the entry is applied (R8).

use millet_core::model::ShardState;

use super::{Decision, ShardSet, State, apply::Entry};

impl State {
    /// Applies a decision if the row is still the one it was made on; false if not.
    pub(super) fn decide(&mut self, entry: &mut Entry, d: &Decision) -> bool {
        let Some(kind) = self.head.types.get(&d.ty).filter(|_| !self.is_quiet()) else { return false };
        if kind.row().generation != d.generation || kind.shard(d.shard) != Some(d.expect) {
            return false;
        }
        let owner = d.expect.holder().filter(|(session, _)| self.head.sessions.is_living(*session));
        match (d.set, owner) {
            // Never an owner over one that lives and has not given the grant up.
            (ShardSet::Assign { .. }, Some(_)) => false,
            (ShardSet::Assign { to }, None) => {
                self.may_receive(to, d.ty) && self.assign_shard(entry, d.ty, d.shard, to)
            }
            (ShardSet::Revoke { to }, Some((session, grant))) => {
                let fits = to != session && self.may_receive(to, d.ty);
                if fits {
                    self.put_shard(entry, d.ty, d.shard, ShardState::Revoking { session, grant, to });
                }
                fits
            }
            (ShardSet::Cancel, Some((session, grant))) => match d.expect {
                ShardState::Revoking { .. } => {
                    self.put_shard(entry, d.ty, d.shard, ShardState::Assigned { session, grant });
                    true
                }
                ShardState::Assigned { .. } | ShardState::Free => false,
            },
            (ShardSet::Revoke { .. } | ShardSet::Cancel, None) => false,
        }
    }
}
