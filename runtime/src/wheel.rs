//! A hierarchical timer wheel: six levels of 64 slots, O(1) insert and cancel.
//!
//! Pure: it counts ticks and knows no clock. `timers` drives it. (Varghese and Lauck, 1987; the level
//! arithmetic follows tokio's.)

const LEVELS: usize = 6;
const SLOTS: u64 = 64;
/// The farthest tick ahead: 64^6 − 1, about 21 years at 10 ms.
const HORIZON: u64 = (1 << (6 * LEVELS)) - 1;
const NIL: u32 = u32::MAX;

/// Names an entry until it fires or is cancelled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TimerId {
    index: u32,
    /// Tells entries apart that used the same place.
    turn: u32,
}

struct Entry<T> {
    at: u64,
    item: Option<T>,
    turn: u32,
    slot: u16,
    prev: u32,
    next: u32,
}

pub(crate) struct Wheel<T> {
    now: u64,
    entries: Vec<Entry<T>>,
    free: Vec<u32>,
    heads: Box<[u32]>,
    occupied: [u64; LEVELS],
}

impl<T> Wheel<T> {
    pub(crate) fn new(now: u64) -> Self {
        Self {
            now,
            entries: Vec::new(),
            free: Vec::new(),
            heads: vec![NIL; LEVELS * SLOTS as usize].into(),
            occupied: [0; LEVELS],
        }
    }

    /// Arranges for `item` to come out of `advance` at tick `at`; the next tick if that has passed.
    pub(crate) fn insert(&mut self, at: u64, item: T) -> TimerId {
        let at = at.clamp(self.now + 1, self.now + HORIZON);
        let index = match self.free.pop() {
            Some(i) => i,
            None => {
                self.entries.push(Entry { at: 0, item: None, turn: 0, slot: 0, prev: NIL, next: NIL });
                u32::try_from(self.entries.len() - 1).expect("fewer than 2^32 timers")
            }
        };
        let e = &mut self.entries[index as usize];
        e.at = at;
        e.item = Some(item);
        let turn = e.turn;
        self.link(index);
        TimerId { index, turn }
    }

    /// Takes an entry out before it fires.
    pub(crate) fn cancel(&mut self, id: TimerId) -> Option<T> {
        let e = self.entries.get(id.index as usize)?;
        if e.turn != id.turn || e.item.is_none() {
            return None;
        }
        self.unlink(id.index);
        self.release(id.index)
    }

    /// Moves time to `to` and returns what is due, earliest first.
    pub(crate) fn advance(&mut self, to: u64) -> Vec<T> {
        let mut due = Vec::new();
        while let Some((level, slot, at)) = self.next_slot() {
            if at > to {
                break;
            }
            self.now = at;
            let head = level * SLOTS as usize + slot;
            let mut at_index = std::mem::replace(&mut self.heads[head], NIL);
            self.occupied[level] &= !(1 << slot);
            while at_index != NIL {
                let next = self.entries[at_index as usize].next;
                if self.entries[at_index as usize].at <= self.now {
                    due.extend(self.release(at_index));
                } else {
                    self.link(at_index);
                }
                at_index = next;
            }
        }
        self.now = self.now.max(to);
        due
    }

    /// The tick at which `advance` has something to do.
    pub(crate) fn next_tick(&self) -> Option<u64> {
        self.next_slot().map(|(_, _, at)| at)
    }

    /// Entries waiting.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// The first occupied slot after now: lower levels come first.
    fn next_slot(&self) -> Option<(usize, usize, u64)> {
        (0..LEVELS).find_map(|level| {
            let occupied = self.occupied[level];
            if occupied == 0 {
                return None;
            }
            let shift = 6 * level;
            let now_slot = (self.now >> shift) & (SLOTS - 1);
            let ahead =
                u64::from(occupied.rotate_right(u32::try_from(now_slot).expect("below 64")).trailing_zeros());
            let slot = (now_slot + ahead) & (SLOTS - 1);
            let range = SLOTS << shift;
            let mut at = (self.now & !(range - 1)) + (slot << shift);
            if at <= self.now {
                at += range;
            }
            Some((level, usize::try_from(slot).expect("below 64"), at))
        })
    }

    fn link(&mut self, index: u32) {
        let at = self.entries[index as usize].at;
        // The level is that of the highest digit (base 64) in which `at` differs from now.
        let differs = (self.now ^ at) | (SLOTS - 1);
        let level = ((63 - differs.leading_zeros() as usize) / 6).min(LEVELS - 1);
        let slot = ((at >> (6 * level)) & (SLOTS - 1)) as usize;
        let head = level * SLOTS as usize + slot;
        let first = std::mem::replace(&mut self.heads[head], index);
        if first != NIL {
            self.entries[first as usize].prev = index;
        }
        let e = &mut self.entries[index as usize];
        (e.prev, e.next) = (NIL, first);
        e.slot = u16::try_from(head).expect("384 slots");
        self.occupied[level] |= 1 << slot;
    }

    fn unlink(&mut self, index: u32) {
        let (prev, next, head) = {
            let e = &self.entries[index as usize];
            (e.prev, e.next, usize::from(e.slot))
        };
        if next != NIL {
            self.entries[next as usize].prev = prev;
        }
        if prev == NIL {
            self.heads[head] = next;
            if next == NIL {
                self.occupied[head / SLOTS as usize] &= !(1 << (head % SLOTS as usize));
            }
        } else {
            self.entries[prev as usize].next = next;
        }
    }

    fn release(&mut self, index: u32) -> Option<T> {
        let e = &mut self.entries[index as usize];
        e.turn = e.turn.wrapping_add(1);
        self.free.push(index);
        e.item.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Every entry comes out exactly once, in the advance that reaches its tick, unless cancelled.
        #[test]
        fn fires_once_and_on_time(
            ats in prop::collection::vec(1u64..400_000, 1..80),
            steps in prop::collection::vec(1u64..20_000, 1..60),
            cancelled in prop::collection::vec(any::<bool>(), 80),
        ) {
            let mut w = Wheel::new(17);
            let ids: Vec<_> = ats.iter().enumerate().map(|(i, at)| w.insert(17 + at, i)).collect();
            let mut fired = vec![None; ats.len()];
            for (i, id) in ids.iter().enumerate() {
                if cancelled[i] {
                    prop_assert_eq!(w.cancel(*id), Some(i));
                    prop_assert_eq!(w.cancel(*id), None);
                }
            }
            let mut now = 17;
            for step in steps.iter().copied().chain([500_000]) {
                let before = now;
                now += step;
                for i in w.advance(now) {
                    prop_assert!(fired[i].replace(now).is_none());
                    prop_assert!(17 + ats[i] > before && 17 + ats[i] <= now);
                }
                prop_assert!(w.next_tick().is_none_or(|t| t > now));
            }
            for (i, f) in fired.iter().enumerate() {
                prop_assert_eq!(f.is_some(), !cancelled[i]);
            }
            prop_assert_eq!(w.len(), 0);
        }
    }
}
