//! Cluster-wide unique ids in Twitter's layout: 41 bits of milliseconds, 10 of worker, 12 of sequence.
//!
//! The worker is leased with the session, and an id is issued only while that session is valid and its
//! millisecond is reserved in the store (R33): no duplicate under clock steps, restarts or lost leases.
//! The `ferroid` crate was looked at: its generators read time inside, where the reservation can not be
//! checked with the same read, and refuse when a clock steps back; forty lines of our own do both.

use std::{sync::Arc, time::Duration};

use millet_core::{
    BootTime, SessionLease,
    control::{Rule, off},
    model::WorkerLease,
};
use parking_lot::Mutex;

/// Milliseconds count from 2025-01-01T00:00:00Z; 41 bits last until 2094.
pub const SNOWFLAKE_EPOCH_MS: u64 = 1_735_689_600_000;
/// Reservations are asked for this far ahead (R33).
pub const RESERVE_AHEAD: Duration = Duration::from_secs(10);
const WORKERS: u16 = 1024;
const SEQUENCE: u16 = 4096;
const MILLIS: u64 = 1 << 41;

/// Why no id was issued. All pass; retry with back-off.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NoId {
    /// No session, a frozen one, or an ended one.
    #[error("no snowflake: the node has no valid session; retry when it has")]
    NoSession,
    /// All 1,024 workers are leased, or the store gave none.
    #[error("no snowflake: no worker id is leased to this node's session")]
    NoWorker,
    /// The next millisecond is not reserved yet: the first renewal is due, or the wall clock is far off.
    #[error("no snowflake: millisecond {wanted} is not reserved yet (up to {reserved} is)")]
    NotReserved {
        /// Milliseconds since 1970.
        wanted: u64,
        /// Milliseconds since 1970.
        reserved: u64,
    },
    /// Before 2025 or after 2094.
    #[error("no snowflake: the wall clock says {wall_ms} ms since 1970; set it")]
    BadClock {
        /// The wall clock.
        wall_ms: u64,
    },
}

/// The node's id generator. Cheap; one lock of a few instructions.
#[derive(Debug, Default)]
pub struct Snowflakes(Mutex<Option<Issuer>>);

#[derive(Debug)]
struct Issuer {
    session: Arc<SessionLease>,
    sequence: Sequence,
}

/// The pure part: what was issued last, and what may be.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Sequence {
    worker: Option<u16>,
    /// The millisecond of the last id; nothing at or below it starts anew.
    last_ms: u64,
    /// Ids issued in it.
    used: u16,
    reserved_ms: u64,
}

impl Snowflakes {
    /// A new session begins: ids of the one before stop.
    pub fn session_ready(&self, session: Arc<SessionLease>, worker: Option<WorkerLease>) {
        *self.0.lock() = Some(Issuer { session, sequence: Sequence::new(worker) });
    }

    /// Milliseconds up to `reserved_ms` are reserved for the session's worker.
    pub fn reserved(&self, session: millet_core::SessionId, reserved_ms: u64) {
        if let Some(issuer) = self.0.lock().as_mut().filter(|i| i.session.id() == session) {
            issuer.sequence.reserved_ms = issuer.sequence.reserved_ms.max(reserved_ms);
        }
    }

    /// What the next keepalive should reserve; 0 without a worker.
    pub fn wanted_ms(&self, wall_ms: u64) -> u64 {
        self.0.lock().as_ref().map_or(0, |i| i.sequence.wanted(wall_ms))
    }

    /// The next id. `now` is a fresh read of the boot clock, `wall_ms` one of the wall clock.
    pub fn next(&self, now: BootTime, wall_ms: u64) -> Result<u64, NoId> {
        let mut guard = self.0.lock();
        let issuer = guard.as_mut().filter(|i| i.session.valid_at(now)).ok_or(NoId::NoSession)?;
        issuer.sequence.next(wall_ms)
    }
}

impl Sequence {
    fn new(lease: Option<WorkerLease>) -> Self {
        if off(Rule::SnowflakeSession) {
            return Self { worker: Some(1), last_ms: 0, used: SEQUENCE, reserved_ms: u64::MAX };
        }
        Self {
            worker: lease.map(|l| l.worker).filter(|w| *w < WORKERS),
            last_ms: lease.map_or(0, |l| l.after_ms),
            used: SEQUENCE,
            reserved_ms: 0,
        }
    }

    fn wanted(&self, wall_ms: u64) -> u64 {
        if self.worker.is_none() {
            return 0;
        }
        let ahead = u64::try_from(RESERVE_AHEAD.as_millis()).unwrap_or(u64::MAX);
        wall_ms.max(self.last_ms).saturating_add(ahead)
    }

    /// A clock that steps back, or 4,096 ids in one millisecond, go on in the next free millisecond,
    /// as far as that is reserved.
    fn next(&mut self, wall_ms: u64) -> Result<u64, NoId> {
        let worker = self.worker.ok_or(NoId::NoWorker)?;
        let (ms, used) = match wall_ms.max(self.last_ms) {
            ms if ms > self.last_ms => (ms, 0),
            ms if self.used < SEQUENCE => (ms, self.used),
            ms => (ms.saturating_add(1), 0),
        };
        if ms > self.reserved_ms {
            return Err(NoId::NotReserved { wanted: ms, reserved: self.reserved_ms });
        }
        let since =
            ms.checked_sub(SNOWFLAKE_EPOCH_MS).filter(|s| *s < MILLIS).ok_or(NoId::BadClock { wall_ms })?;
        (self.last_ms, self.used) = (ms, used + 1);
        Ok(since << 22 | u64::from(worker) << 12 | u64::from(used))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use millet_core::SessionId;
    use proptest::prelude::*;

    use super::*;

    const WALL: u64 = SNOWFLAKE_EPOCH_MS + 1_000_000;

    fn ready(after_ms: u64) -> (Snowflakes, Arc<SessionLease>) {
        let session = Arc::new(SessionLease::opened(SessionId(7), Duration::from_secs(4)));
        session.renewed(BootTime(0));
        let ids = Snowflakes::default();
        ids.session_ready(session.clone(), Some(WorkerLease { worker: 5, after_ms }));
        (ids, session)
    }

    /// Nothing is issued before a reservation is committed, nor beyond it.
    #[test]
    fn r33_no_id_beyond_the_reserved_millisecond() {
        let (ids, _session) = ready(0);
        let t = BootTime(1);
        assert_eq!(ids.next(t, WALL), Err(NoId::NotReserved { wanted: WALL, reserved: 0 }));
        assert_eq!(ids.wanted_ms(WALL), WALL + 10_000);
        ids.reserved(SessionId(7), WALL + 1);
        let id = ids.next(t, WALL).expect("reserved");
        assert_eq!((id >> 22, (id >> 12) & 1023, id & 4095), (1_000_000, 5, 0));
        for _ in 1..2 * 4096 {
            ids.next(t, WALL).expect("this millisecond and the next are reserved");
        }
        assert!(matches!(ids.next(t, WALL), Err(NoId::NotReserved { .. })));
        ids.reserved(SessionId(6), WALL + 50);
        assert!(ids.next(t, WALL).is_err(), "another session's reservation does not count");
    }

    /// Ids stop with the session, and start above what an earlier holder of the worker may have used.
    #[test]
    fn r33_ids_stop_with_the_session_and_start_above_the_high_water_mark() {
        let (ids, session) = ready(WALL + 300);
        ids.reserved(SessionId(7), WALL + 5_000);
        let id = ids.next(BootTime(1), WALL).expect("reserved");
        assert_eq!(id >> 22, 1_000_301);
        assert_eq!(ids.next(session.valid_until(), WALL), Err(NoId::NoSession), "frozen");
        session.end();
        assert_eq!(ids.next(BootTime(2), WALL), Err(NoId::NoSession), "dead");
    }

    proptest! {
        /// Whatever the wall clock does, and over any change of holder, no id is issued twice.
        #[test]
        fn r33_no_duplicate_under_clock_steps_and_lost_leases(
            steps in prop::collection::vec((0u64..3_000, 1u16..3_000, any::<bool>()), 1..40),
        ) {
            let mut seen = HashSet::new();
            // What the store does: the mark only rises, and a new holder starts above it.
            let mut mark = 0;
            let mut sequence = Sequence::new(Some(WorkerLease { worker: 1, after_ms: mark }));
            for (wall, count, lost) in steps {
                let wall = WALL + wall;
                if lost {
                    sequence = Sequence::new(Some(WorkerLease { worker: 1, after_ms: mark }));
                }
                mark = mark.max(sequence.wanted(wall));
                sequence.reserved_ms = mark;
                for _ in 0..count {
                    if let Ok(id) = sequence.next(wall) {
                        prop_assert!(seen.insert(id), "{id} twice");
                    }
                }
            }
            prop_assert!(!seen.is_empty());
        }
    }
}
