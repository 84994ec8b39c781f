//! The machine's clocks and random bits.

use std::time::Duration;

use millet_core::{BootTime, clock::Clock, world::Entropy};
use parking_lot::Mutex;

use super::os;

/// The clocks of this machine.
#[derive(Clone, Copy, Default, Debug)]
pub struct OsClock;

impl Clock for OsClock {
    fn boottime(&self) -> BootTime {
        BootTime(os::boottime_ns())
    }
    fn monotonic(&self) -> Duration {
        Duration::from_nanos(os::monotonic_ns())
    }
    fn wall_ms(&self) -> u64 {
        os::wall_ns() / 1_000_000
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
        let clock = OsClock;
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
