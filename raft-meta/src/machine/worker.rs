//! Snowflake worker ids 0..1023, leased by sessions. Each keeps the highest time ever reserved, so that
//! an id handed on never repeats a number (R33).

use std::collections::BTreeMap;

use millet_core::{SessionId, limits, model::WorkerLease};
use serde::{Deserialize, Serialize};

use super::command::millis;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
struct Worker {
    session: Option<SessionId>,
    /// No id may have been issued above this millisecond.
    high_ms: u64,
}

/// Rows exist for ids that were ever leased; an id without one is free with nothing reserved.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Workers(BTreeMap<u16, Worker>);

impl Workers {
    /// Leases the free id with the lowest high-water mark, so that one spoilt by a wrong clock comes last.
    pub(super) fn lease(&mut self, session: SessionId) -> Option<WorkerLease> {
        let mark = |id: u16| self.0.get(&id).copied().unwrap_or_default();
        let free = (0..limits::WORKERS).filter(|id| mark(*id).session.is_none());
        let worker = free.min_by_key(|id| (mark(*id).high_ms, *id))?;
        let row = self.0.entry(worker).or_default();
        row.session = Some(session);
        Some(WorkerLease { worker, after_ms: row.high_ms })
    }

    /// What `session` was told when it leased `worker`, as far as still true.
    pub(super) fn lease_of(&self, worker: u16, session: SessionId) -> Option<WorkerLease> {
        let row = self.0.get(&worker)?;
        (row.session == Some(session)).then_some(WorkerLease { worker, after_ms: row.high_ms })
    }

    /// Reserves times up to `wish_ms`, unless that is too far above the leader's wall clock; returns the
    /// mark in force.
    pub(super) fn reserve(&mut self, worker: u16, session: SessionId, wish_ms: u64, wall_ms: u64) -> u64 {
        let Some(row) = self.0.get_mut(&worker).filter(|row| row.session == Some(session)) else { return 0 };
        if wish_ms <= wall_ms.saturating_add(millis(limits::RESERVE_AHEAD)) {
            row.high_ms = row.high_ms.max(wish_ms);
        }
        row.high_ms
    }

    /// Frees every worker, and lets none issue anything up to this millisecond: whatever a lost part of the
    /// old cluster has issued lies below it (R16).
    pub(super) fn raise(&mut self, floor_ms: u64) {
        for id in 0..limits::WORKERS {
            let row = self.0.entry(id).or_default();
            *row = Worker { session: None, high_ms: row.high_ms.max(floor_ms) };
        }
    }

    /// The highest time that any id was reserved up to.
    pub(super) fn high_ms(&self) -> u64 {
        self.0.values().map(|row| row.high_ms).max().unwrap_or(0)
    }

    pub(super) fn free(&mut self, worker: u16, session: SessionId) {
        if let Some(row) = self.0.get_mut(&worker).filter(|row| row.session == Some(session)) {
            row.session = None;
        }
    }
}
