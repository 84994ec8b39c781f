//! The machine's clocks and random bits, through rustix's safe wrappers.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use millet_core::{BootTime, clock::Clock, world::Entropy};
use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};

/// The clock that counts suspend: CLOCK_BOOTTIME on Linux; macOS counts it in CLOCK_MONOTONIC.
#[cfg(any(target_os = "linux", target_os = "android"))]
const BOOT: ClockId = ClockId::Boottime;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const BOOT: ClockId = ClockId::Monotonic;

/// The clocks of this machine.
#[derive(Clone, Copy, Debug)]
pub struct OsClock {
    start: Instant,
}

impl OsClock {
    /// Monotonic time counts from here.
    pub fn new() -> Self {
        Self { start: Instant::now() }
    }
}

impl Default for OsClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for OsClock {
    fn boottime(&self) -> BootTime {
        let t = clock_gettime(BOOT);
        let seconds = u64::try_from(t.tv_sec).unwrap_or(0);
        BootTime(seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(t.tv_nsec).unwrap_or(0)))
    }
    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }
    fn wall_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}

/// Random bits from the kernel, fetched 256 bytes at a time.
#[derive(Debug)]
pub struct OsEntropy {
    pool: Mutex<(usize, [u8; POOL])>,
}
const POOL: usize = 256;

impl Default for OsEntropy {
    fn default() -> Self {
        Self { pool: Mutex::new((POOL, [0; POOL])) }
    }
}

impl Entropy for OsEntropy {
    fn next_u64(&self) -> u64 {
        let mut pool = self.pool.lock();
        let (used, bytes) = &mut *pool;
        if *used + 8 > POOL {
            fill(bytes);
            *used = 0;
        }
        let mut out = [0; 8];
        out.copy_from_slice(&bytes[*used..*used + 8]);
        bytes[*used..*used + 8].fill(0);
        *used += 8;
        u64::from_le_bytes(out)
    }
}

fn fill(bytes: &mut [u8; POOL]) {
    let mut done = 0;
    while done < POOL {
        match rustix::rand::getrandom(&mut bytes[done..], rustix::rand::GetRandomFlags::empty()) {
            Ok(n) => done += n,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => panic!("the kernel gives no random bytes: {e}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_clock_counts_and_never_goes_back() {
        let clock = OsClock::new();
        let mut last = clock.boottime();
        for _ in 0..1_000 {
            let now = clock.boottime();
            assert!(now >= last);
            last = now;
        }
        assert!(last.0 > 0);
    }

    #[test]
    fn random_numbers_do_not_repeat_over_a_refill() {
        let e = OsEntropy::default();
        let mut seen: Vec<u64> = (0..200).map(|_| e.next_u64()).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 200);
    }
}
