//! Every kind of fault: its name, how often it comes, whom it may not meet, what it needs. And the order
//! they come in, from a seed.

use std::collections::{BTreeMap, VecDeque};

use millet_core::world::Entropy;
use millet_testkit::SeededEntropy;

use crate::{cluster::Equipment, host::Need};

/// A kind of fault.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// kill -9 of a worker.
    KillWorker,
    /// kill -9 of a worker and of the metadata leader.
    KillWorkerAndLeader,
    /// SIGSTOP of a worker for longer than its session lives, then SIGCONT.
    PauseWorker,
    /// A worker is cut off from everybody.
    IsolateWorker,
    /// Bytes from one node stop, those to it do not.
    OneWayCut,
    /// A worker's packets are dropped by a filter.
    PacketDrop,
    /// A worker's packets are answered with RST by a filter.
    PacketReset,
    /// kill -9 of the metadata leader.
    KillLeader,
    /// The metadata leader is cut off from everybody.
    IsolateLeader,
    /// SIGSTOP of the metadata leader, then SIGCONT.
    PauseLeader,
    /// Two members cannot hear each other, and every worker hears two of three.
    Ring,
    /// A member's syncs fail.
    SyncError,
    /// A member's disk is full.
    DiskFull,
    /// A member loses its disk and is replaced by a fresh one.
    ReplaceMember,
    /// A worker's and a member's clocks run at other rates, one fast, one slow.
    ClockRate,
    /// SIGTERM and restart of every node, one after the other.
    Rolling,
    /// kill -9 of every node at once, and restart.
    KillAll,
    /// The power of every member's disk is cut, and every process with it.
    PowerCut,
    /// Every connection ends with RST.
    ResetLinks,
    /// One node's links are late, narrow and lossy.
    SlowLink,
    /// A wall clock jumps by an hour.
    ClockJump,
}

/// What a fault must have for itself: faults that share none of these may overlap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ground {
    /// The metadata members.
    pub members: bool,
    /// The workers.
    pub workers: bool,
    /// Links and wall clocks.
    pub mild: bool,
}

const MEMBERS: Ground = Ground { members: true, workers: false, mild: false };
const WORKERS: Ground = Ground { members: false, workers: true, mild: false };
const BOTH: Ground = Ground { members: true, workers: true, mild: false };
const ALONE: Ground = Ground { members: true, workers: true, mild: true };
const MILD: Ground = Ground { members: false, workers: false, mild: true };

/// Which series of faults a kind belongs to; the series run beside each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Series {
    /// Faults of members and of everything.
    Members,
    /// Faults of workers.
    Workers,
    /// Mild ones.
    Mild,
}

use Series::{Members, Mild, Workers};

/// Kind, name, weight, ground, series. Weights: how often real clusters see the like.
const TABLE: [(Kind, &str, u64, Ground, Series); 21] = [
    // Alone, so that what is measured is this crash.
    (Kind::KillWorker, "kill_worker", 15, ALONE, Workers),
    (Kind::PauseWorker, "pause_worker", 15, WORKERS, Workers),
    (Kind::IsolateWorker, "isolate_worker", 10, WORKERS, Workers),
    (Kind::OneWayCut, "one_way_cut", 10, WORKERS, Workers),
    (Kind::PacketDrop, "packet_drop", 5, WORKERS, Workers),
    (Kind::PacketReset, "packet_reset", 5, WORKERS, Workers),
    (Kind::KillLeader, "kill_leader", 10, MEMBERS, Members),
    (Kind::KillWorkerAndLeader, "kill_worker_and_leader", 5, ALONE, Members),
    (Kind::IsolateLeader, "isolate_leader", 10, MEMBERS, Members),
    (Kind::PauseLeader, "pause_leader", 5, MEMBERS, Members),
    (Kind::Ring, "ring", 5, BOTH, Members),
    (Kind::SyncError, "sync_error", 3, MEMBERS, Members),
    (Kind::DiskFull, "disk_full", 3, MEMBERS, Members),
    (Kind::ReplaceMember, "replace_member", 3, MEMBERS, Members),
    (Kind::ClockRate, "clock_rate", 3, BOTH, Members),
    (Kind::Rolling, "rolling", 2, BOTH, Members),
    (Kind::KillAll, "kill_all", 1, BOTH, Members),
    (Kind::PowerCut, "power_cut", 3, BOTH, Members),
    (Kind::ResetLinks, "reset_links", 5, MILD, Mild),
    (Kind::SlowLink, "slow_link", 5, MILD, Mild),
    (Kind::ClockJump, "clock_jump", 3, MILD, Mild),
];

impl Kind {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        TABLE.iter().map(|row| row.0)
    }

    fn row(self) -> &'static (Self, &'static str, u64, Ground, Series) {
        TABLE.iter().find(|row| row.0 == self).expect("every kind is in the table")
    }

    /// For reports and `--only`.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// Finds a kind by its name.
    pub fn named(name: &str) -> Option<Self> {
        TABLE.iter().find(|row| row.1 == name).map(|row| row.0)
    }

    /// What it must have for itself.
    pub fn ground(self) -> Ground {
        self.row().3
    }

    /// Which series it belongs to.
    pub fn series(self) -> Series {
        self.row().4
    }

    /// What it needs of the machine, or what is missing.
    pub fn need(self, e: &Equipment) -> Need<()> {
        let of = |need: &Need<std::path::PathBuf>| need.clone().map(drop);
        match self {
            Self::KillWorker
            | Self::KillWorkerAndLeader
            | Self::PauseWorker
            | Self::IsolateWorker
            | Self::OneWayCut
            | Self::KillLeader
            | Self::IsolateLeader
            | Self::PauseLeader
            | Self::Ring
            | Self::Rolling
            | Self::KillAll
            | Self::ReplaceMember
            | Self::ResetLinks
            | Self::SlowLink => Ok(()),
            Self::PacketDrop | Self::PacketReset => e.netns.clone(),
            Self::SyncError => of(&e.shim),
            Self::DiskFull => e.images.clone().or_else(|_| of(&e.shim)),
            Self::PowerCut => e.images.clone(),
            Self::ClockRate | Self::ClockJump => of(&e.clocks),
        }
    }
}

/// How often a kind has its turn until it has taken effect once.
const TRIES: u32 = 4;

/// The faults of one series, without end: every kind once, in an order from the seed, then by weight.
pub struct Order {
    kinds: Vec<Kind>,
    first: VecDeque<Kind>,
    in_vain: BTreeMap<Kind, u32>,
    entropy: SeededEntropy,
}

impl Order {
    /// Of these kinds, of which those of the series are taken.
    pub fn new(seed: u64, series: Series, kinds: &[Kind]) -> Self {
        let entropy = SeededEntropy::new(seed ^ (series as u64 + 1) << 32);
        let kinds: Vec<_> = kinds.iter().copied().filter(|k| k.series() == series).collect();
        let mut first = kinds.clone();
        for i in (1..first.len()).rev() {
            first.swap(i, usize::try_from(entropy.below(i as u64 + 1)).expect("an index"));
        }
        Self { kinds, first: first.into(), in_vain: BTreeMap::new(), entropy }
    }

    /// Whether every kind has had its turn.
    pub fn is_complete(&self) -> bool {
        self.first.is_empty()
    }

    /// A fault took no effect: another one had got in its way. If its kind has not had one yet, it comes
    /// again, a few times at most.
    pub fn in_vain(&mut self, kind: Kind) {
        let tries = self.in_vain.entry(kind).or_default();
        *tries += 1;
        if *tries < TRIES {
            self.first.push_back(kind);
        }
    }

    /// A fault took effect: its kind need not come again.
    pub fn effective(&mut self, kind: Kind) {
        self.in_vain.insert(kind, TRIES);
    }

    /// The next fault, and what everything about it is drawn from.
    pub fn next(&mut self) -> Option<(Kind, SeededEntropy)> {
        let kind = match self.first.pop_front() {
            Some(kind) => kind,
            None => self.weighted()?,
        };
        Some((kind, SeededEntropy::new(self.entropy.next_u64())))
    }

    fn weighted(&self) -> Option<Kind> {
        let sum: u64 = self.kinds.iter().map(|k| k.row().2).sum();
        let mut at = self.entropy.below(sum.max(1));
        self.kinds.iter().copied().find(|k| {
            let here = at < k.row().2;
            at = at.saturating_sub(k.row().2);
            here
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_one_row_and_one_name() {
        let names: std::collections::BTreeSet<_> = Kind::all().map(Kind::name).collect();
        assert_eq!(names.len(), TABLE.len());
        assert!(Kind::all().all(|k| Kind::named(k.name()) == Some(k)));
    }

    #[test]
    fn a_series_brings_every_kind_once_and_then_by_weight_the_same_for_the_same_seed() {
        let kinds: Vec<_> = Kind::all().collect();
        let draw = |seed| {
            let mut order = Order::new(seed, Series::Workers, &kinds);
            (0..2000).filter_map(|_| order.next().map(|(k, _)| k)).collect::<Vec<_>>()
        };
        let drawn = draw(7);
        assert_eq!(drawn, draw(7));
        assert_ne!(drawn, draw(8));
        let mut counts = BTreeMap::<Kind, u64>::new();
        drawn[..6].iter().for_each(|k| *counts.entry(*k).or_default() += 1);
        assert!(counts.len() == 6 && counts.values().all(|n| *n == 1), "{counts:?}");
        drawn.iter().for_each(|k| *counts.entry(*k).or_default() += 1);
        assert!(counts[&Kind::KillWorker] > 2 * counts[&Kind::PacketDrop], "{counts:?}");
    }

    #[test]
    fn a_kind_that_took_no_effect_comes_again_until_it_does() {
        let mut order = Order::new(1, Series::Mild, &[Kind::ClockJump]);
        let mut turn = |effective| {
            let (kind, _) = order.next().expect("a kind");
            if effective {
                order.effective(kind)
            } else {
                order.in_vain(kind)
            }
            order.is_complete()
        };
        assert_eq!([turn(false), turn(false), turn(true), turn(false)], [false, false, true, true]);
        let mut order = Order::new(1, Series::Mild, &[Kind::ClockJump]);
        for _ in 0..TRIES {
            assert!(!order.is_complete());
            let (kind, _) = order.next().expect("a kind");
            order.in_vain(kind);
        }
        assert!(order.is_complete(), "not for ever");
    }

    #[test]
    fn a_series_without_kinds_brings_none() {
        assert!(Order::new(1, Series::Mild, &[Kind::KillAll]).next().is_none());
    }
}
