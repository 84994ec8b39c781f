//! Counters of one runtime. Read with [`crate::Runtime::stats`]; exported by the node.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::stripe::{Apart, STRIPES, stripe};

#[derive(Default)]
pub(crate) struct Counters {
    turns: [Apart<AtomicU64>; STRIPES],
    pub(crate) fenced_outputs: Counter,
    pub(crate) expired: Counter,
    pub(crate) overloaded: Counter,
    pub(crate) panics: Counter,
    pub(crate) activated: Counter,
    pub(crate) activations_failed: Counter,
    pub(crate) saves: Counter,
    pub(crate) saves_failed: Counter,
    pub(crate) dirty_dropped: Counter,
    pub(crate) tells_lost: Counter,
    pub(crate) spawns_refused: Counter,
}

impl Counters {
    pub(crate) fn turn(&self) {
        self.turns[stripe()].0.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn read(&self, activations: u64, quarantined: u64) -> RuntimeStats {
        RuntimeStats {
            activations,
            quarantined,
            turns: self.turns.iter().map(|s| s.0.load(Ordering::Relaxed)).sum(),
            fenced_outputs: self.fenced_outputs.get(),
            expired: self.expired.get(),
            overloaded: self.overloaded.get(),
            panics: self.panics.get(),
            activated: self.activated.get(),
            activations_failed: self.activations_failed.get(),
            saves: self.saves.get(),
            saves_failed: self.saves_failed.get(),
            dirty_dropped: self.dirty_dropped.get(),
            tells_lost: self.tells_lost.get(),
            spawns_refused: self.spawns_refused.get(),
        }
    }
}

#[derive(Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }
    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a runtime has done since it started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct RuntimeStats {
    /// Activations alive now.
    pub activations: u64,
    /// Grains in quarantine now.
    pub quarantined: u64,
    /// Turns started.
    pub turns: u64,
    /// Outputs (replies, calls, saves) that did not leave because their activation's lease had ended.
    pub fenced_outputs: u64,
    /// Calls whose deadline passed before their turn started.
    pub expired: u64,
    /// Calls refused by a full mailbox.
    pub overloaded: u64,
    /// Turns that panicked.
    pub panics: u64,
    /// Activations that succeeded.
    pub activated: u64,
    /// Activations that failed.
    pub activations_failed: u64,
    /// Saves the stores have answered.
    pub saves: u64,
    /// Saves that failed or whose outcome is unknown.
    pub saves_failed: u64,
    /// Changed states that were dropped unsaved because their lease had ended (R28).
    pub dirty_dropped: u64,
    /// Accepted tells that were lost with their activation (R29).
    pub tells_lost: u64,
    /// Spawned work refused because too much of one activation was under way.
    pub spawns_refused: u64,
}
