//! The activations of one grain type on this node: a sharded hash map of pointers.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use hashbrown::{HashTable, hash_table::Entry};
use millet_core::Key;
use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::{Grain, activation::Activation};

/// Parts with a lock each; a sweep looks at a few at a time.
pub(crate) const PARTS: usize = 256;

/// The halves of the product with the golden ratio, one over the other: every bit of the number counts.
fn folded(n: u64) -> u64 {
    let (low, high) = n.carrying_mul(0x9E37_79B9_7F4A_7C15, 0);
    low ^ high
}

type Part<G> = Mutex<HashTable<Arc<Activation<G>>>>;

pub(crate) struct Catalog<G: Grain> {
    seed: u64,
    closed: AtomicBool,
    parts: Box<[Part<G>]>,
}

impl<G: Grain> Catalog<G> {
    /// `seed` is random: whoever chooses keys cannot make them collide.
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, closed: AtomicBool::new(false), parts: (0..PARTS).map(|_| Mutex::default()).collect() }
    }

    fn hash(&self, key: &Key) -> u64 {
        match key {
            Key::Int(n) => folded(n ^ self.seed),
            Key::Text(text) => xxh3_64_with_seed(text.as_bytes(), self.seed),
        }
    }

    /// Neither the bits that the table probes with nor those it tags with choose the part.
    fn part(&self, hash: u64) -> &Part<G> {
        &self.parts[(hash >> 40) as usize % PARTS]
    }

    pub(crate) fn find(&self, key: &Key) -> Option<Arc<Activation<G>>> {
        let hash = self.hash(key);
        self.part(hash).lock().find(hash, |a| a.key == *key).cloned()
    }

    /// The activation of this key, made by `make` if there is none: there is never a second (R12). `None`:
    /// none is made any more.
    pub(crate) fn find_or(
        &self,
        key: &Key,
        make: impl FnOnce() -> Activation<G>,
    ) -> Option<Arc<Activation<G>>> {
        let hash = self.hash(key);
        let mut part = self.part(hash).lock();
        match part.entry(hash, |a| a.key == *key, |a| self.hash(&a.key)) {
            Entry::Occupied(e) => Some(e.get().clone()),
            Entry::Vacant(_) if self.closed.load(Ordering::Acquire) => None,
            Entry::Vacant(e) => {
                let made = Arc::new(make());
                e.insert(made.clone());
                Some(made)
            }
        }
    }

    /// Removes this very activation, not a later one of the same key.
    pub(crate) fn remove(&self, act: &Arc<Activation<G>>) {
        let hash = self.hash(&act.key);
        let removed = match self.part(hash).lock().find_entry(hash, |a| Arc::ptr_eq(a, act)) {
            Ok(e) => Some(e.remove().0),
            Err(_) => None,
        };
        drop(removed);
    }

    /// Removes an activation, or puts its successor into its place, in one step: nothing new gets ahead of
    /// what the successor takes over. `successor` hears whether the activation is here, and may take its
    /// lock: the only place where one lock is held under another, always in this order.
    pub(crate) fn succeed(
        &self,
        act: &Arc<Activation<G>>,
        successor: impl FnOnce(bool) -> Option<Activation<G>>,
    ) -> Option<Arc<Activation<G>>> {
        let hash = self.hash(&act.key);
        let mut part = self.part(hash).lock();
        let entry = part.find_entry(hash, |a| Arc::ptr_eq(a, act)).ok();
        let next = successor(entry.is_some()).map(Arc::new);
        let removed = match (entry, &next) {
            (Some(mut e), Some(next)) => Some(std::mem::replace(e.get_mut(), next.clone())),
            (Some(e), None) => Some(e.remove().0),
            (None, _) => None,
        };
        drop(part);
        drop(removed);
        next
    }

    pub(crate) fn len(&self) -> usize {
        self.parts.iter().map(|p| p.lock().len()).sum()
    }

    /// Those of one part that `wanted` accepts, at most `limit`.
    pub(crate) fn pick(
        &self,
        part: usize,
        limit: usize,
        wanted: impl Fn(&Activation<G>) -> bool,
    ) -> Vec<Arc<Activation<G>>> {
        self.parts[part % PARTS].lock().iter().filter(|a| wanted(a)).take(limit).cloned().collect()
    }

    /// Lets go of everything, for good: references outlive their runtime, and a second activation would run
    /// beside the turns that are still under way.
    pub(crate) fn clear(&self) {
        self.closed.store(true, Ordering::Release);
        for part in &self.parts {
            let all = std::mem::take(&mut *part.lock());
            drop(all);
        }
    }
}
