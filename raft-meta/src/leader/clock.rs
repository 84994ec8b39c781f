//! Cluster time as one leadership keeps it (R21). It may lag real time, never lead it: slower is safe.

use std::time::Duration;

use millet_core::{
    BootTime,
    control::{Rule, off},
};

/// What the leader may do now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turn {
    /// The first entry of this leadership has not been applied: no Ticks.
    NotLeading,
    /// After a gap: take keepalives in until then, and propose nothing before.
    Drain {
        /// When to ask again.
        until: BootTime,
    },
    /// Close the set and stamp it.
    Propose,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Running {
    /// Cluster time at the last stamp, and our clock then.
    cluster: Duration,
    stamped: BootTime,
    /// When the driver last asked: more than two intervals ago means that it stood still.
    seen: BootTime,
    settled: BootTime,
}

/// The leader's clock: cluster time of the last applied Tick when its leadership began, plus its own
/// boot clock since, of which a gap between two Ticks counts as at most two intervals.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct LeaderClock {
    interval: Duration,
    running: Option<Running>,
}

impl LeaderClock {
    /// A clock that does not run yet. `interval`: between two Ticks.
    pub fn new(interval: Duration) -> Self {
        Self { interval, running: None }
    }

    /// To be called once the first entry proposed by this process in this leadership has been applied,
    /// with the machine's `time_ms` read after that and the boot clock read after *that*. Keepalives are
    /// taken in for one interval before the first Tick.
    pub fn start(&mut self, applied_ms: u64, now: BootTime) {
        let cluster = Duration::from_millis(applied_ms);
        self.running = Some(Running { cluster, stamped: now, seen: now, settled: now.after(self.interval) });
    }

    /// Leadership is over. The next one starts from what is applied then.
    pub fn stop(&mut self) {
        self.running = None;
    }

    /// Whether Ticks may be proposed at all.
    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// What to do at `now`. To be asked at least every two intervals; asking later counts as a gap, after
    /// which keepalives that wait in buffers are taken in before time moves.
    pub fn turn(&mut self, now: BootTime) -> Turn {
        let Some(running) = &mut self.running else { return Turn::NotLeading };
        if now.since(running.seen) > self.interval * 2 && !off(Rule::R21) {
            running.settled = now.after(self.interval);
        }
        running.seen = running.seen.max(now);
        if now < running.settled { Turn::Drain { until: running.settled } } else { Turn::Propose }
    }

    /// The clock as last read by [`LeaderClock::turn`]: what a stamp must not use (R6).
    pub(super) fn asked(&self) -> BootTime {
        self.running.map_or(BootTime(0), |running| running.seen)
    }

    /// A Tick has been applied, and our clock was read after that: never be behind what is committed.
    pub fn applied(&mut self, time_ms: u64, now: BootTime) {
        let committed = Duration::from_millis(time_ms);
        if let Some(running) = self.running.as_mut().filter(|running| committed > running.cluster) {
            running.cluster = committed;
            running.stamped = now;
        }
    }

    /// Stamps a Tick: cluster time, milliseconds. Only `ClosedSet::stamp` calls it.
    pub(super) fn stamp(&mut self, now: BootTime) -> Option<u64> {
        if self.turn(now) != Turn::Propose {
            return None;
        }
        let running = self.running.as_mut()?;
        let limit = if off(Rule::R21) { Duration::MAX } else { self.interval * 2 };
        running.cluster += now.since(running.stamped).min(limit);
        running.stamped = running.stamped.max(now);
        Some(u64::try_from(running.cluster.as_millis()).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(100);
    fn at(ms: u64) -> BootTime {
        BootTime(ms * 1_000_000)
    }

    /// No Tick before the first entry of this leadership is applied; then cluster time goes on from what
    /// is applied, not from an earlier reading of the clock.
    #[test]
    fn r21_the_base_is_read_after_the_first_own_entry_is_applied() {
        let mut clock = LeaderClock::new(TICK);
        assert_eq!(clock.turn(at(1_000)), Turn::NotLeading);
        assert_eq!(clock.stamp(at(1_000)), None);
        clock.start(7_000, at(5_000));
        assert_eq!(clock.turn(at(5_000)), Turn::Drain { until: at(5_100) });
        assert_eq!(clock.turn(at(5_100)), Turn::Propose);
        assert_eq!(clock.stamp(at(5_100)), Some(7_100));
        clock.stop();
        assert_eq!(clock.stamp(at(5_200)), None);
    }

    /// A leader that stood still for 3 s moves time by two intervals and takes keepalives in first.
    #[test]
    fn r21_a_gap_counts_as_two_intervals_and_is_drained_first() {
        let mut clock = LeaderClock::new(TICK);
        clock.start(0, at(0));
        assert_eq!(clock.turn(at(100)), Turn::Propose);
        assert_eq!(clock.stamp(at(100)), Some(100));
        assert_eq!(clock.turn(at(3_100)), Turn::Drain { until: at(3_200) });
        assert_eq!(clock.stamp(at(3_150)), None);
        assert_eq!(clock.stamp(at(3_200)), Some(300));
        assert_eq!(clock.stamp(at(3_300)), Some(400));
    }

    /// A stall between closing the set and reading the clock is a gap too.
    #[test]
    fn r21_a_stall_before_the_stamp_refuses_the_stamp() {
        let mut clock = LeaderClock::new(TICK);
        clock.start(0, at(0));
        assert_eq!(clock.turn(at(100)), Turn::Propose);
        assert_eq!(clock.stamp(at(2_100)), None);
    }

    /// Over any schedule cluster time advances no more than the leader's own clock.
    #[test]
    fn r21_cluster_time_never_leads_the_leaders_clock() {
        let (mut clock, mut now, mut seed) = (LeaderClock::new(TICK), 0u64, 1u64);
        clock.start(0, at(0));
        for _ in 0..10_000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            now += (seed >> 33) % 400;
            if let Some(stamp) = clock.stamp(at(now)) {
                assert!(stamp <= now, "cluster {stamp} ms at {now} ms");
                clock.applied(stamp, at(now));
            }
        }
    }
}
