//! A machine's clocks: simulated time, seen at a rate and from an offset of its own.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use millet_core::{BootTime, Clock};
use parking_lot::Mutex;

/// Simulated time as the loop between two steps knows it.
static NOW_NS: AtomicU64 = AtomicU64::new(0);

/// Tells what time it is, once a step.
pub fn set_now(now: Duration) {
    NOW_NS.store(ns(now), Ordering::Relaxed);
}

/// Simulated nanoseconds since the start: within a host to the event, outside to the step.
pub fn sim_ns() -> u64 {
    match turmoil::in_simulation().then(turmoil::sim_elapsed).flatten() {
        Some(elapsed) => ns(elapsed),
        None => NOW_NS.load(Ordering::Relaxed),
    }
}

fn ns(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

/// Clocks of one machine. Clones are the same clocks.
#[derive(Clone)]
pub struct SimClock(Arc<Mutex<State>>, usize);

struct State {
    /// When the rate changed last: simulated and this machine's time.
    since_ns: u64,
    boot_ns: u64,
    /// Parts per million of simulated time.
    rate_ppm: u64,
    /// Wall clock minus boot clock.
    wall_offset_ms: i64,
    /// While its machine is stopped: the simulated end of that.
    stalled_ns: u64,
    /// The last answer: a boot clock never goes back.
    last_ns: u64,
}

/// A round number of November 2026.
const WALL_MS: i64 = 1_793_500_000_000;

impl Default for State {
    fn default() -> Self {
        Self {
            since_ns: 0,
            boot_ns: 0,
            rate_ppm: 1_000_000,
            wall_offset_ms: WALL_MS,
            stalled_ns: 0,
            last_ns: 0,
        }
    }
}

impl State {
    fn now(&mut self) -> u64 {
        let passed = u128::from(sim_ns().max(self.stalled_ns).saturating_sub(self.since_ns));
        let passed = u64::try_from(passed * u128::from(self.rate_ppm) / 1_000_000).unwrap_or(u64::MAX);
        self.last_ns = self.last_ns.max(self.boot_ns.saturating_add(passed));
        self.last_ns
    }
}

impl SimClock {
    /// The clocks of the machine of that number.
    pub fn of(machine: usize) -> Self {
        Self(Arc::new(Mutex::new(State::default())), machine)
    }

    /// Its machine is stopped until then, or runs again (0).
    pub fn set_stalled(&self, until_ns: u64) {
        self.0.lock().stalled_ns = until_ns;
    }

    /// The boot clock stands at `uptime` now, and the wall clock is `wrong_ms` ahead; call it once, before
    /// anybody looks.
    pub fn set(&self, uptime: Duration, wrong_ms: i64) {
        let s = &mut *self.0.lock();
        s.boot_ns = ns(uptime);
        s.wall_offset_ms = WALL_MS + wrong_ms - i64::try_from(uptime.as_millis()).unwrap_or(0);
    }

    /// How fast it runs from now on, in parts per million.
    pub fn set_rate_ppm(&self, rate_ppm: u64) {
        let s = &mut *self.0.lock();
        s.boot_ns = s.now();
        s.since_ns = sim_ns().max(s.stalled_ns);
        s.rate_ppm = rate_ppm;
    }

    /// The wall clock jumps by so much.
    pub fn jump_wall(&self, by_ms: i64) {
        self.0.lock().wall_offset_ms += by_ms;
    }
}

impl Clock for SimClock {
    fn boottime(&self) -> BootTime {
        if self.1 != usize::MAX {
            super::stall::runs(self.1);
        }
        BootTime(self.0.lock().now())
    }
    fn monotonic(&self) -> Duration {
        Duration::from_nanos(self.0.lock().now())
    }
    fn wall_ms(&self) -> u64 {
        let s = &mut *self.0.lock();
        let boot_ms = i64::try_from(s.now() / 1_000_000).unwrap_or(i64::MAX);
        u64::try_from(boot_ms.saturating_add(s.wall_offset_ms)).unwrap_or(0)
    }
}
