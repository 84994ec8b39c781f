//! What a member was asked and what it answered, kept outside it: by a test in the same process, or read
//! from the lines that a child prints.

use std::collections::BTreeMap;

use bytes::Bytes;
use millet_core::store::{Stored, Version};

use crate::log_crash::payload;

/// Sizes of values: all that engines treat differently (R19), up to the largest state.
pub const SIZES: [usize; 8] = [1, 128, 8 << 10, 16 << 10, 60 << 10, 140 << 10, 1 << 20, 4 << 20];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// A save of grain, version, bytes is under way …
    Try(u64, u64, usize),
    /// … and was answered.
    Saved(u64, u64),
    /// A lease of a grain was granted at this index.
    Granted(u64, u64),
}

impl Event {
    pub fn line(self) -> String {
        match self {
            Self::Try(grain, version, bytes) => format!("told try {grain} {version} {bytes}"),
            Self::Saved(grain, version) => format!("told saved {grain} {version}"),
            Self::Granted(grain, index) => format!("told granted {grain} {index}"),
        }
    }

    /// Reads [`Event::line`]; whatever else is printed is `None`.
    pub fn of(line: &str) -> Option<Self> {
        let mut words = line.strip_prefix("told ")?.split(' ');
        let kind = words.next()?;
        let numbers: Vec<u64> = words.map(str::parse).collect::<Result<_, _>>().ok()?;
        Some(match (kind, &numbers[..]) {
            ("try", [grain, version, bytes]) => Self::Try(*grain, *version, *bytes as usize),
            ("saved", [grain, version]) => Self::Saved(*grain, *version),
            ("granted", [grain, index]) => Self::Granted(*grain, *index),
            _ => return None,
        })
    }
}

/// One grain's state as told.
#[derive(Clone, Copy, Default, Debug)]
pub struct Row {
    /// The version last answered, and its bytes.
    pub saved: (u64, usize),
    /// A version under way.
    pub tried: Option<(u64, usize)>,
}

#[derive(Clone, Default, Debug)]
pub struct Book {
    pub rows: BTreeMap<u64, Row>,
    /// Grain to grant, of the latest life.
    pub granted: BTreeMap<u64, u64>,
    pub highest_grant: u64,
    pub answered: u64,
}

impl Book {
    pub fn note(&mut self, event: Event) {
        match event {
            Event::Try(grain, version, bytes) => {
                self.rows.entry(grain).or_default().tried = Some((version, bytes));
            }
            Event::Saved(grain, version) => {
                let row = self.rows.entry(grain).or_default();
                let (tried, bytes) = row.tried.take().expect("asked before it was answered");
                assert_eq!(tried, version, "grain {grain}: another version was answered");
                row.saved = (version, bytes);
                self.answered += 1;
            }
            Event::Granted(grain, index) => {
                assert!(
                    index > self.highest_grant,
                    "grant {index} after {}: an epoch went back",
                    self.highest_grant
                );
                self.granted.insert(grain, index);
                self.highest_grant = index;
                self.answered += 1;
            }
        }
    }

    /// Compares what a grain has with what was told: the last version answered, or the one under way.
    pub fn check(&mut self, grain: u64, stored: &Stored) -> Result<(), String> {
        let row = self.rows.entry(grain).or_default();
        let at = [Some(row.saved), row.tried]
            .into_iter()
            .flatten()
            .find(|(version, _)| Version(*version) == stored.version);
        let Some((version, bytes)) = at else {
            return Err(format!("grain {grain} is at {:?}, told was {row:?}", stored.version));
        };
        let expected = (version > 0).then(|| value(grain, version, bytes));
        if stored.value != expected {
            return Err(format!("grain {grain} at version {version} has another value"));
        }
        *row = Row { saved: (version, bytes), tried: None };
        Ok(())
    }
}

/// The value that version of a grain has.
pub fn value(grain: u64, version: u64, bytes: usize) -> Bytes {
    payload(grain * 1_000_003 + version, bytes)
}
