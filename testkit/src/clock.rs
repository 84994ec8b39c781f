//! A clock that moves only when told, with a rate of its own, for tests of leases and deadlines.

use std::{sync::Arc, time::Duration};

use millet_core::{BootTime, Clock};
use parking_lot::Mutex;

/// A hand-driven clock. Clones show the same time.
#[derive(Clone, Debug)]
pub struct TestClock(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    boot_ns: u64,
    monotonic_ns: u64,
    wall_ns: u64,
    rate: f64,
}

impl TestClock {
    /// Starts an hour after boot, in November 2026, at rate 1.
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(State {
            boot_ns: 3_600 * 1_000_000_000,
            monotonic_ns: 3_600 * 1_000_000_000,
            wall_ns: 1_793_500_000 * 1_000_000_000,
            rate: 1.0,
        })))
    }

    /// Lets `d` of real time pass: all three clocks advance by `d` times the rate.
    pub fn advance(&self, d: Duration) {
        let mut s = self.0.lock();
        let ns = nanos(d.mul_f64(s.rate));
        s.boot_ns += ns;
        s.monotonic_ns += ns;
        s.wall_ns += ns;
    }

    /// The machine sleeps for `d`: the monotonic clock stands still, the others go on.
    pub fn suspend(&self, d: Duration) {
        let mut s = self.0.lock();
        s.boot_ns += nanos(d);
        s.wall_ns += nanos(d);
    }

    /// How fast this machine's clocks run from now on; 1.1 is the fastest that Linux allows (R9).
    pub fn set_rate(&self, rate: f64) {
        self.0.lock().rate = rate;
    }

    /// Puts the boot clock at `at`.
    ///
    /// # Panics
    /// If that is in the past: boot clocks never go back.
    pub fn set_boottime(&self, at: BootTime) {
        let mut s = self.0.lock();
        assert!(at.0 >= s.boot_ns, "a boot clock never goes back");
        s.boot_ns = at.0;
    }

    /// Sets the wall clock, which may step either way.
    pub fn set_wall_ms(&self, ms: u64) {
        self.0.lock().wall_ns = ms * 1_000_000;
    }
}

impl Default for TestClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for TestClock {
    fn boottime(&self) -> BootTime {
        BootTime(self.0.lock().boot_ns)
    }
    fn monotonic(&self) -> Duration {
        Duration::from_nanos(self.0.lock().monotonic_ns)
    }
    fn wall_ms(&self) -> u64 {
        self.0.lock().wall_ns / 1_000_000
    }
}

fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).expect("tests wait less than 584 years")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fast_clock_gains_and_a_suspend_is_counted_by_the_boot_clock_only() {
        let clock = TestClock::new();
        let (boot, mono) = (clock.boottime(), clock.monotonic());
        clock.set_rate(1.1);
        clock.advance(Duration::from_secs(10));
        assert_eq!(clock.boottime().since(boot), Duration::from_secs(11));
        clock.suspend(Duration::from_secs(5));
        assert_eq!(clock.boottime().since(boot), Duration::from_secs(16));
        assert_eq!(clock.monotonic() - mono, Duration::from_secs(11));
    }
}
