//! Grain lease rows: key → session and grant, ordered, at most 70 bytes each.
//!
//! Rows live in up to 1024 pages shared by reference with snapshots: a clone is cheap, the first write
//! to a page after it copies that page (a few thousand rows at 10 M).

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use millet_core::{Grant, SessionId};

use super::LeaseKey;

/// One lease. Packed: 20 bytes, not 24.
#[repr(Rust, packed(4))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct LeaseRow {
    session: SessionId,
    index: u64,
    generation: u32,
}

impl LeaseRow {
    pub(super) fn new(session: SessionId, grant: Grant) -> Self {
        Self { session, index: grant.index, generation: grant.generation }
    }
    pub(super) fn session(self) -> SessionId {
        self.session
    }
    pub(super) fn grant(self) -> Grant {
        Grant { generation: self.generation, index: self.index }
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Page {
    rows: BTreeMap<LeaseKey, LeaseRow>,
    /// The grant that a Move replaced, for rows whose present grant came by one (R23).
    previous: BTreeMap<LeaseKey, Grant>,
}

/// All lease rows.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct LeaseTable {
    pages: BTreeMap<u16, Arc<Page>>,
    rows: u64,
}

impl LeaseTable {
    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    pub(super) fn get(&self, key: LeaseKey) -> Option<LeaseRow> {
        self.pages.get(&key.page())?.rows.get(&key).copied()
    }

    pub(super) fn previous(&self, key: LeaseKey) -> Option<Grant> {
        self.pages.get(&key.page())?.previous.get(&key).copied()
    }

    /// Writes a row, in place of whatever was there.
    pub(super) fn put(&mut self, key: LeaseKey, row: LeaseRow, previous: Option<Grant>) {
        let page = Arc::make_mut(self.pages.entry(key.page()).or_default());
        if page.rows.insert(key, row).is_none() {
            self.rows += 1;
        }
        match previous {
            Some(grant) => page.previous.insert(key, grant),
            None => page.previous.remove(&key),
        };
    }

    pub(super) fn remove(&mut self, key: LeaseKey) {
        if self.get(key).is_none() {
            return;
        }
        let Some(shared) = self.pages.get_mut(&key.page()) else { return };
        let page = Arc::make_mut(shared);
        page.rows.remove(&key);
        page.previous.remove(&key);
        self.rows -= 1;
        // No empty page: equal rows make equal tables.
        if page.rows.is_empty() {
            self.pages.remove(&key.page());
        }
    }

    /// Every row in key order, with the grant it replaced by a Move.
    pub(super) fn iter(&self) -> impl Iterator<Item = (LeaseKey, LeaseRow, Option<Grant>)> + '_ {
        self.pages
            .values()
            .flat_map(|page| page.rows.iter().map(|(key, row)| (*key, *row, page.previous.get(key).copied())))
    }

    /// Looks at up to `limit` rows above `after` and returns those that `dead` picks, with the key to go
    /// on from (`None`: the end was reached).
    pub(super) fn scan(
        &self,
        after: Option<LeaseKey>,
        limit: usize,
        dead: impl Fn(SessionId) -> bool,
    ) -> (Vec<LeaseKey>, Option<LeaseKey>) {
        let (mut found, mut seen, mut last) = (Vec::new(), 0, None);
        let from = after.map_or(0, LeaseKey::page);
        let lower = after.map_or(Bound::Unbounded, Bound::Excluded);
        for (_, page) in self.pages.range(from..) {
            for (key, row) in page.rows.range((lower, Bound::Unbounded)) {
                if seen == limit {
                    return (found, last);
                }
                if dead(row.session()) {
                    found.push(*key);
                }
                seen += 1;
                last = Some(*key);
            }
        }
        (found, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u64) -> LeaseKey {
        LeaseKey(u128::from(n).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835).to_be_bytes())
    }
    fn row(session: u64) -> LeaseRow {
        LeaseRow::new(SessionId(session), Grant { generation: 1, index: session + 10 })
    }

    /// A snapshot taken by clone does not see later writes.
    #[test]
    fn a_clone_is_a_picture() {
        let mut table = LeaseTable::default();
        (0..2000).for_each(|n| table.put(key(n), row(1), None));
        let picture = table.clone();
        (0..2000).for_each(|n| table.remove(key(n)));
        assert_eq!((table.rows(), picture.rows(), picture.iter().count()), (0, 2000, 2000));
        assert!(picture.iter().map(|(k, ..)| k).is_sorted());
    }

    /// Scans of any size see every row exactly once.
    #[test]
    fn a_scan_in_steps_sees_every_row_once() {
        let mut table = LeaseTable::default();
        (0..500).for_each(|n| table.put(key(n), row(n % 3), None));
        let (mut dead, mut after) = (0, None);
        loop {
            let (found, next) = table.scan(after, 7, |s| s == SessionId(1));
            dead += found.len();
            match next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        assert_eq!(dead, (0..500).filter(|n| n % 3 == 1).count());
    }
}
