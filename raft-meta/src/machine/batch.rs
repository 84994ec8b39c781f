//! What nodes ask for in batches: grain leases, shard acks, drain, close. Every safety condition is
//! checked here, not in the proposer (R24).

use millet_core::{
    Grant, SessionId, ShardId,
    control::{Rule, off},
    model::{Change, SessionState, ShardState},
};

use super::{LeaseKey, Op, OpResult, Owned, Session, State, apply::Entry, lease::LeaseRow};

impl State {
    pub(super) fn op(&mut self, entry: &mut Entry, op: Op) -> OpResult {
        match op {
            Op::Acquire { key, ty, session } => self.acquire(entry, key, ty, session),
            Op::Release { key, ty, session, grant } => {
                if self.holds(key, session, grant) {
                    self.free_lease(entry, key, ty, session, grant);
                }
                OpResult::Done
            }
            Op::Move { key, ty, session, grant, to } => self.move_lease(entry, key, ty, (session, grant), to),
            Op::AckShard { ty, shard, session, grant, given_up } => {
                self.ack_shard(entry, ty, shard, (session, grant), given_up)
            }
            Op::Drain { session } => self.drain(entry, session),
            Op::Close { session } => {
                self.end_session(entry, session);
                OpResult::Done
            }
        }
    }

    pub(super) fn authority(&self, session: SessionId) -> Option<&Session> {
        self.head.sessions.get(session).filter(|s| s.has_authority())
    }

    /// Whether a session may be given something new of a type.
    pub(super) fn may_receive(&self, session: SessionId, ty: u64) -> bool {
        let row = self.head.types.get(&ty).filter(|entry| !entry.is_blocked());
        let chosen = self.head.sessions.get(session).filter(|s| s.may_be_chosen());
        match (row, chosen) {
            (Some(entry), Some(s)) => s.declared(ty) == Some((entry.row().ownership, entry.row().keys)),
            (None, _) | (_, None) => false,
        }
    }

    fn holds(&self, key: LeaseKey, session: SessionId, grant: Grant) -> bool {
        self.leases.get(key).is_some_and(|row| row.session() == session && row.grant() == grant)
    }

    /// A draining session may still acquire what it asks for itself: a call that has reached it is
    /// served rather than failed. It is only not *chosen* for anything.
    fn acquire(&mut self, entry: &mut Entry, key: LeaseKey, ty: u64, session: SessionId) -> OpResult {
        let Some(asking) = self.authority(session) else { return OpResult::NotAlive { session } };
        let row = self.leases.get(key);
        if let Some(row) = row
            && let Some(holder) = self.head.sessions.get(row.session())
        {
            return if holder.id == session {
                OpResult::Granted { grant: row.grant(), previous: self.leases.previous(key) }
            } else {
                OpResult::Held { session: holder.id, node: holder.node.id, grant: row.grant() }
            };
        }
        let Some(kind) = self.head.types.get(&ty) else {
            return OpResult::Refused { why: "no such grain type in this cluster".into() };
        };
        let name = &kind.row().ty;
        if kind.is_sharded() {
            return OpResult::Refused {
                why: format!("{name} is sharded: its grains have no leases of their own"),
            };
        }
        if asking.declared(ty) != Some((kind.row().ownership, kind.row().keys)) {
            let why =
                format!("session {session} does not declare {name} as the cluster does; it is not eligible");
            return OpResult::Refused { why };
        }
        if entry.has_granted(key) || kind.is_blocked() || self.is_quiet() {
            return OpResult::Retry;
        }
        let from = row.map(|row| (row.session(), row.grant()));
        let grant = self.grant_lease(entry, key, ty, session, None);
        entry.record(Owned::Grain(key), from, Some((session, grant)));
        OpResult::Granted { grant, previous: None }
    }

    /// Writes the row. The caller has checked that nobody living holds it.
    fn grant_lease(
        &mut self,
        entry: &mut Entry,
        key: LeaseKey,
        ty: u64,
        to: SessionId,
        previous: Option<Grant>,
    ) -> Grant {
        let kind = self.head.types.get_mut(&ty).expect("the caller has looked the type up");
        let grant = entry.grant(key, kind.row().generation);
        kind.count_lease(to);
        self.leases.put(key, LeaseRow::new(to, grant), previous);
        grant
    }

    fn free_lease(&mut self, entry: &mut Entry, key: LeaseKey, ty: u64, session: SessionId, grant: Grant) {
        self.uncount(ty, session, grant);
        self.leases.remove(key);
        entry.record(Owned::Grain(key), Some((session, grant)), None);
    }

    fn uncount(&mut self, ty: u64, session: SessionId, grant: Grant) {
        if self.head.sessions.is_living(session)
            && let Some(kind) = self.head.types.get_mut(&ty)
        {
            kind.uncount_lease(session, grant.generation);
        }
    }

    /// Sending a Move gives the grant up (R1): where it cannot be granted to `to`, the grain is free.
    fn move_lease(
        &mut self,
        entry: &mut Entry,
        key: LeaseKey,
        ty: u64,
        from: (SessionId, Grant),
        to: SessionId,
    ) -> OpResult {
        let (session, grant) = from;
        if !self.holds(key, session, grant) {
            return self.moved_before(key, grant, to);
        }
        if self.authority(session).is_none() {
            return OpResult::NotAlive { session };
        }
        if session == to || !self.may_receive(to, ty) {
            self.free_lease(entry, key, ty, session, grant);
            return OpResult::NotAlive { session: to };
        }
        if entry.has_granted(key) {
            self.free_lease(entry, key, ty, session, grant);
            return OpResult::Retry;
        }
        self.uncount(ty, session, grant);
        let new = self.grant_lease(entry, key, ty, to, Some(grant));
        entry.record(Owned::Grain(key), Some(from), Some((to, new)));
        OpResult::Granted { grant: new, previous: Some(grant) }
    }

    /// A Move that finds another row: a repeat, or one that came too late.
    fn moved_before(&self, key: LeaseKey, grant: Grant, to: SessionId) -> OpResult {
        let Some(row) = self.leases.get(key) else { return OpResult::Done };
        let Some(holder) = self.head.sessions.get(row.session()) else { return OpResult::Done };
        let previous = self.leases.previous(key);
        if holder.id == to && previous == Some(grant) {
            OpResult::Granted { grant: row.grant(), previous }
        } else {
            OpResult::Held { session: holder.id, node: holder.node.id, grant: row.grant() }
        }
    }

    /// An ack names the grant it gives up and counts in any state of a row that still has it (R8).
    fn ack_shard(
        &mut self,
        entry: &mut Entry,
        ty: u64,
        shard: ShardId,
        from: (SessionId, Grant),
        given_up: bool,
    ) -> OpResult {
        let Some(kind) = self.head.types.get_mut(&ty) else { return OpResult::Done };
        if given_up {
            kind.give_up_old(from.0, from.1);
        }
        let named = |row: &ShardState| {
            row.holder() == Some(from) || off(Rule::R8) && row.holder().is_some_and(|(s, _)| s == from.0)
        };
        let Some(row) = kind.shard(shard).filter(named) else { return OpResult::Done };
        match (row, given_up) {
            (ShardState::Assigned { .. }, false) | (ShardState::Free, _) => {}
            (ShardState::Revoking { .. }, false) => {
                let (session, grant) = from;
                self.put_shard(entry, ty, shard, ShardState::Assigned { session, grant });
            }
            (ShardState::Assigned { .. }, true) => {
                self.put_shard(entry, ty, shard, ShardState::Free);
            }
            (ShardState::Revoking { to, .. }, true) => {
                self.put_shard(entry, ty, shard, ShardState::Free);
                if self.may_receive(to, ty) {
                    self.assign_shard(entry, ty, shard, to);
                }
            }
        }
        OpResult::Done
    }

    /// Gives a shard that nobody living holds to a session that may receive it; false if it was granted
    /// in this entry already (R24).
    pub(super) fn assign_shard(&mut self, entry: &mut Entry, ty: u64, shard: ShardId, to: SessionId) -> bool {
        let Some(kind) = self.head.types.get(&ty) else { return false };
        let Some(grant) = entry.grant_shard(ty, shard, kind.row().generation) else { return false };
        self.put_shard(entry, ty, shard, ShardState::Assigned { session: to, grant });
        true
    }

    /// Writes a shard's row and tells watchers. A revoke that is overtaken by its own end in one entry
    /// leaves two changes; both are true.
    pub(super) fn put_shard(&mut self, entry: &mut Entry, ty: u64, shard: ShardId, state: ShardState) {
        let Some(kind) = self.head.types.get_mut(&ty) else { return };
        let before = kind.shard(shard).and_then(|row| row.holder());
        kind.put_shard(shard, state);
        entry.change(Change::Shard { ty: kind.row().ty.clone(), shard, state });
        if before != state.holder() {
            entry.record(Owned::Shard(ty, shard), before, state.holder());
        }
    }

    fn drain(&mut self, entry: &mut Entry, session: SessionId) -> OpResult {
        match self.head.sessions.get_mut(session) {
            Some(s) if s.has_authority() => {
                if s.state != SessionState::Draining {
                    s.state = SessionState::Draining;
                    entry.change(Change::Session(s.info()));
                }
                OpResult::Done
            }
            Some(_) | None => OpResult::NotAlive { session },
        }
    }
}
