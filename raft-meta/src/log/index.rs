//! The log in memory: where each entry lies on disk, and the latest entries themselves. No I/O.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    ops::Range,
};

use bytes::Bytes;

use super::{GroupId, LogEntry, LogState};

/// Largest entry: a full batch of state writes of [`millet_core::limits::STATE_BYTES`] fits several times.
pub(super) const PAYLOAD_BYTES: usize = 64 * 1024 * 1024;

/// Where an entry's record lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    /// The segment's sequence number.
    pub segment: u64,
    /// Where the record starts in it.
    pub offset: u64,
    /// Bytes of the payload.
    pub len: u32,
}

/// One kept entry.
pub(super) struct Slot {
    /// Tells this entry from another one that had its index before a truncation.
    pub id: u64,
    /// `None` until the entry is durable; it then stays in memory.
    pub place: Option<Place>,
    /// `None` once evicted; then `place` is known.
    pub payload: Option<Bytes>,
}

/// One group's log.
#[derive(Default)]
pub(super) struct Group {
    /// Index of the first slot, if there is one.
    first: u64,
    slots: VecDeque<Slot>,
    pub purged: Option<(u64, Bytes)>,
    pub vote: Option<Bytes>,
    pub committed: Option<Bytes>,
}

/// Entries per segment that an operation makes obsolete once it is durable.
pub(super) type Freed = BTreeMap<u64, u64>;

/// All groups, and the cache of entries in memory, which is bounded by bytes over all of them.
pub(super) struct Index {
    pub groups: BTreeMap<GroupId, Group>,
    /// Order of eviction; may name entries that are gone.
    recent: VecDeque<(GroupId, u64, u64)>,
    cached_bytes: usize,
    cache_limit: usize,
    next_id: u64,
}

/// A read, answered from memory where it can be.
pub(super) enum Found {
    Here(LogEntry),
    OnDisk(u64, Place),
}

impl Index {
    pub fn new(cache_limit: usize) -> Self {
        Self { groups: BTreeMap::new(), recent: VecDeque::new(), cached_bytes: 0, cache_limit, next_id: 0 }
    }

    /// A group as recovered from disk. `entries` have no gaps.
    pub fn restore(&mut self, id: GroupId, group: Group, entries: impl IntoIterator<Item = (u64, Place)>) {
        let mut group = group;
        for (index, place) in entries {
            if group.slots.is_empty() {
                group.first = index;
            }
            group.slots.push_back(Slot { id: self.next_id, place: Some(place), payload: None });
            self.next_id += 1;
        }
        self.groups.insert(id, group);
    }

    /// Adds entries; an error, and no change, if they do not follow the last one. Returns their slot ids.
    pub fn append(&mut self, id: GroupId, entries: &[LogEntry]) -> io::Result<Vec<u64>> {
        let group = self.groups.entry(id).or_default();
        let mut next = group.last_index().map(|last| last + 1);
        let floor = group.purged.as_ref().map_or(0, |(at, _)| at + 1);
        for e in entries {
            if e.index < floor {
                let why = format!("group {}: entry {} is below the log's first place {floor}", id.0, e.index);
                return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
            }
            if e.payload.len() > PAYLOAD_BYTES {
                let why = format!(
                    "group {}: entry {} has {} bytes, over the limit of {PAYLOAD_BYTES}",
                    id.0,
                    e.index,
                    e.payload.len()
                );
                return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
            }
            if next.is_some_and(|n| n != e.index) {
                let why = format!(
                    "group {}: entry {} does not follow the log's last entry {}",
                    id.0,
                    e.index,
                    next.unwrap_or_default() - 1
                );
                return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
            }
            next = Some(e.index + 1);
        }
        let mut ids = Vec::with_capacity(entries.len());
        for e in entries {
            if group.slots.is_empty() {
                group.first = e.index;
            }
            group.slots.push_back(Slot { id: self.next_id, place: None, payload: Some(e.payload.clone()) });
            self.cached_bytes += e.payload.len();
            self.recent.push_back((id, e.index, self.next_id));
            ids.push(self.next_id);
            self.next_id += 1;
        }
        Ok(ids)
    }

    /// Removes every entry above `last_kept` (0: all).
    pub fn truncate(&mut self, id: GroupId, last_kept: u64) -> Freed {
        let group = self.groups.entry(id).or_default();
        let keep = if last_kept == 0 { 0 } else { (last_kept + 1).saturating_sub(group.first) };
        let keep = usize::try_from(keep).unwrap_or(usize::MAX).min(group.slots.len());
        let gone = group.slots.split_off(keep);
        self.free(gone)
    }

    /// Forgets every entry up to `upto`.
    pub fn purge(&mut self, id: GroupId, upto: u64, mark: Bytes) -> Freed {
        let group = self.groups.entry(id).or_default();
        if group.purged.as_ref().is_none_or(|(at, _)| *at <= upto) {
            group.purged = Some((upto, mark));
        }
        let gone = upto.saturating_add(1).saturating_sub(group.first);
        let gone = usize::try_from(gone).unwrap_or(usize::MAX).min(group.slots.len());
        let kept = group.slots.split_off(gone);
        let gone = std::mem::replace(&mut group.slots, kept);
        group.first += gone.len() as u64;
        self.free(gone)
    }

    fn free(&mut self, gone: VecDeque<Slot>) -> Freed {
        let mut freed = Freed::new();
        for slot in gone {
            self.cached_bytes -= slot.payload.map_or(0, |p| p.len());
            if let Some(place) = slot.place {
                *freed.entry(place.segment).or_default() += 1;
            }
        }
        freed
    }

    /// Records that an entry is durable at `place`. `Ok(old)`: it is still that entry, which was at `old`;
    /// `Err(())`: it has been removed since.
    pub fn placed(
        &mut self,
        id: GroupId,
        index: u64,
        slot_id: u64,
        place: Place,
    ) -> Result<Option<Place>, ()> {
        let slot =
            self.groups.get_mut(&id).and_then(|g| g.slot_mut(index)).filter(|s| s.id == slot_id).ok_or(())?;
        Ok(slot.place.replace(place))
    }

    /// Drops the oldest entries from memory that are on disk, down to the limit.
    pub fn evict(&mut self) {
        let mut looks = self.recent.len();
        while self.cached_bytes > self.cache_limit && looks > 0 {
            looks -= 1;
            let Some((id, index, slot_id)) = self.recent.pop_front() else { return };
            let Some(slot) =
                self.groups.get_mut(&id).and_then(|g| g.slot_mut(index)).filter(|s| s.id == slot_id)
            else {
                continue;
            };
            if slot.place.is_none() {
                self.recent.push_back((id, index, slot_id));
            } else if let Some(payload) = slot.payload.take() {
                self.cached_bytes -= payload.len();
            }
        }
        // Names of entries that are gone must not pile up where the cache never fills.
        if self.recent.len() > 65_536
            && self.recent.len() > 4 * self.groups.values().map(|g| g.slots.len()).sum::<usize>()
        {
            let groups = &self.groups;
            self.recent.retain(|(id, index, slot_id)| {
                groups.get(id).and_then(|g| g.slot(*index)).is_some_and(|s| s.id == *slot_id)
            });
        }
    }

    /// The entries of a range, as far as they exist.
    pub fn find(&self, id: GroupId, range: Range<u64>) -> Vec<Found> {
        let Some(group) = self.groups.get(&id) else { return Vec::new() };
        let from = range.start.max(group.first);
        let to = range.end.min(group.first + group.slots.len() as u64);
        (from..to).filter_map(|index| group.found(index)).collect()
    }

    /// Every entry that lies in `segment`: group, index, slot id and place.
    pub fn in_segment(&self, segment: u64) -> Vec<(GroupId, u64, u64, Place)> {
        let mut found = Vec::new();
        for (id, group) in &self.groups {
            for (n, slot) in group.slots.iter().enumerate() {
                if let Some(place) = slot.place.filter(|p| p.segment == segment) {
                    found.push((*id, group.first + n as u64, slot.id, place));
                }
            }
        }
        found
    }

    /// Bytes of entries in memory.
    #[cfg(test)]
    pub fn cached_bytes(&self) -> usize {
        self.cached_bytes
    }
}

impl Group {
    pub fn last_index(&self) -> Option<u64> {
        (!self.slots.is_empty()).then(|| self.first + self.slots.len() as u64 - 1)
    }

    fn slot(&self, index: u64) -> Option<&Slot> {
        self.slots.get(usize::try_from(index.checked_sub(self.first)?).ok()?)
    }

    fn slot_mut(&mut self, index: u64) -> Option<&mut Slot> {
        self.slots.get_mut(usize::try_from(index.checked_sub(self.first)?).ok()?)
    }

    fn found(&self, index: u64) -> Option<Found> {
        let slot = self.slot(index)?;
        Some(match (&slot.payload, slot.place) {
            (Some(payload), _) => Found::Here(LogEntry { index, payload: payload.clone() }),
            (None, Some(place)) => Found::OnDisk(index, place),
            (None, None) => return None, // cannot be: only entries on disk are evicted
        })
    }

    /// As [`LogState`], without the last entry's payload, which may be on disk.
    pub fn state(&self) -> (LogState, Option<Found>) {
        let state = LogState {
            purged: self.purged.clone(),
            last: None,
            vote: self.vote.clone(),
            committed: self.committed.clone(),
        };
        (state, self.last_index().and_then(|last| self.found(last)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const G: GroupId = GroupId(0);

    fn entries(range: Range<u64>) -> Vec<LogEntry> {
        range.map(|index| LogEntry { index, payload: Bytes::from(vec![1; 100]) }).collect()
    }

    #[test]
    fn the_cache_is_bounded_but_keeps_what_is_not_on_disk_yet() {
        let mut index = Index::new(1000);
        let ids = index.append(G, &entries(1..101)).unwrap();
        index.evict();
        assert_eq!(index.cached_bytes(), 10_000, "nothing is durable yet");
        for (n, id) in ids.into_iter().enumerate() {
            let place = Place { segment: 1, offset: n as u64 * 144, len: 100 };
            assert_eq!(index.placed(G, n as u64 + 1, id, place), Ok(None));
        }
        index.evict();
        assert_eq!(index.cached_bytes(), 1000);
        let found = index.find(G, 90..93);
        assert!(matches!(found[..], [Found::OnDisk(90, _), Found::Here(_), Found::Here(_)]));
        assert_eq!(index.purge(G, 100, Bytes::new()), Freed::from([(1, 100)]));
        assert_eq!(index.cached_bytes(), 0);
    }

    /// An entry written late must not take the place of the one that replaced it.
    #[test]
    fn a_place_counts_only_for_the_entry_it_was_written_for() {
        let mut index = Index::new(1000);
        let old = index.append(G, &entries(1..2)).unwrap()[0];
        index.truncate(G, 0);
        let new = index.append(G, &entries(1..2)).unwrap()[0];
        let place = Place { segment: 1, offset: 64, len: 100 };
        assert_eq!(index.placed(G, 1, old, place), Err(()));
        assert_eq!(index.placed(G, 1, new, place), Ok(None));
    }
}
