//! What happened, as one number: two runs of a seed are the same run exactly if it is equal.

use std::{
    hash::Hasher as _,
    sync::atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;

/// FNV-1a over everything noted. One per process, as there is one seed per process.
static HASH: Mutex<Fnv> = Mutex::new(Fnv(0xcbf2_9ce4_8422_2325));
static NOTES: AtomicU64 = AtomicU64::new(0);

struct Fnv(u64);

impl std::hash::Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        // Eight bytes a step: the trace is long, and nobody attacks it.
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 = (self.0 ^ u64::from_le_bytes(word)).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
        }
    }
    fn finish(&self) -> u64 {
        self.0
    }
}

/// Adds an event: when, on which host, what.
pub fn note(at_ns: u64, host: usize, what: &[u8]) {
    let mut hash = HASH.lock();
    hash.write_u64(at_ns);
    hash.write_usize(host);
    hash.write(what);
    NOTES.fetch_add(1, Ordering::Relaxed);
}

/// The hash so far, and of how many events.
pub fn hash() -> (u64, u64) {
    (HASH.lock().finish(), NOTES.load(Ordering::Relaxed))
}

/// Simulated time in log lines.
pub struct SimTime;

impl tracing_subscriber::fmt::time::FormatTime for SimTime {
    fn format_time(&self, to: &mut tracing_subscriber::fmt::format::Writer<'_>) -> std::fmt::Result {
        let (ns, host) = (crate::world::sim_ns(), crate::world::running());
        write!(to, "{:>9.3} #{host}", std::time::Duration::from_nanos(ns).as_secs_f64())
    }
}
