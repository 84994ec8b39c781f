//! Copies of what every call touches, so that threads do not pass one cache line to and fro: each thread
//! keeps to one copy.

use std::{
    cell::Cell,
    sync::atomic::{AtomicUsize, Ordering},
};

/// How many copies. With more threads than this, some share one.
pub(crate) const STRIPES: usize = 16;

static THREADS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static MINE: Cell<usize> = const { Cell::new(STRIPES) };
}

/// The copy of this thread, below [`STRIPES`].
pub(crate) fn stripe() -> usize {
    let mine = MINE.get();
    if mine < STRIPES {
        return mine;
    }
    let drawn = THREADS.fetch_add(1, Ordering::Relaxed) % STRIPES;
    MINE.set(drawn);
    drawn
}

/// Alone on its cache line (and the one that is fetched beside it).
#[derive(Default)]
#[repr(align(128))]
pub(crate) struct Apart<T>(pub(crate) T);
