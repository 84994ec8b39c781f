//! The log's format on disk: segment header and records. Encoding and checking only; no I/O.
//!
//! A segment is a 64-byte header and records, each padded to 8 bytes; the rest is zeros. Records of one
//! sync form a batch; batches are numbered without gaps over all segments. Every record's checksum
//! (xxh3-64) covers its batch number and is seeded with the segment's incarnation, so that neither an
//! older life of the same blocks nor a lost batch can pass for the log (R20).

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::GroupId;

/// First bytes of every segment.
const MAGIC: &[u8; 8] = b"MILLETWL";
/// Version of this format.
pub(super) const VERSION: u32 = 1;
/// Bytes of a segment's header.
pub(super) const SEGMENT_HEADER: usize = 64;
/// Bytes of a record before its payload.
pub(super) const RECORD_HEADER: usize = 40;

/// What a record does to its group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// Appends entry `index`.
    Entry = 1,
    /// Entry `index` once more, so that an old segment can go.
    Moved = 2,
    /// Removes what is above `index` (0: all).
    Truncate = 3,
    /// Forgets up to `index`; the payload is the mark.
    Purge = 4,
    /// The vote.
    Vote = 5,
    /// The committed position.
    Committed = 6,
}

impl Kind {
    fn of(n: u8) -> Option<Self> {
        Some(match n {
            1 => Self::Entry,
            2 => Self::Moved,
            3 => Self::Truncate,
            4 => Self::Purge,
            5 => Self::Vote,
            6 => Self::Committed,
            _ => return None,
        })
    }
}

/// A record as found in a segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Record<'a> {
    pub batch: u64,
    /// Place within the batch, from 0.
    pub ord: u32,
    /// Whether the batch ends here.
    pub last: bool,
    pub kind: Kind,
    pub group: GroupId,
    pub index: u64,
    pub payload: &'a [u8],
}

/// Bytes a record with `payload` bytes takes in the segment.
pub(super) fn size(payload: usize) -> usize {
    (RECORD_HEADER + payload).next_multiple_of(8)
}

/// Appends a record to `to`.
pub(super) fn encode(to: &mut Vec<u8>, incarnation: u64, r: &Record<'_>) {
    let start = to.len();
    let len = u32::try_from(r.payload.len()).expect("payloads are checked against the limit when appended");
    to.extend_from_slice(&[0; 8]);
    to.extend_from_slice(&len.to_le_bytes());
    to.extend_from_slice(&r.ord.to_le_bytes());
    to.extend_from_slice(&r.batch.to_le_bytes());
    to.extend_from_slice(&r.index.to_le_bytes());
    to.extend_from_slice(&r.group.0.to_le_bytes());
    to.extend_from_slice(&[r.kind as u8, u8::from(r.last), 0, 0]);
    to.extend_from_slice(r.payload);
    let sum = xxh3_64_with_seed(&to[start + 8..], incarnation);
    to[start..start + 8].copy_from_slice(&sum.to_le_bytes());
    to.resize(start + size(r.payload.len()), 0);
}

/// Reads the record at the start of `from`; `None` if there is no valid one of this incarnation.
pub(super) fn decode(from: &[u8], incarnation: u64) -> Option<Record<'_>> {
    let head = from.get(..RECORD_HEADER)?;
    let len = u32_at(head, 8) as usize;
    let kind = Kind::of(head[36])?;
    let whole = from.get(..RECORD_HEADER.checked_add(len)?)?;
    if xxh3_64_with_seed(&whole[8..], incarnation) != u64_at(head, 0) {
        return None;
    }
    Some(Record {
        batch: u64_at(head, 16),
        ord: u32_at(head, 12),
        last: head[37] != 0,
        kind,
        group: GroupId(u32_at(head, 32)),
        index: u64_at(head, 24),
        payload: &whole[RECORD_HEADER..],
    })
}

/// Looks at every possible start in `from` (a multiple of 8) for a valid record of a batch above `batch`.
pub(super) fn find_later(from: &[u8], incarnation: u64, batch: u64) -> Option<usize> {
    (0..from.len().saturating_sub(RECORD_HEADER - 1)).step_by(8).find(|&at| {
        // The number is looked at first: a checksum over every false start would take minutes.
        let found = u64_at(&from[at..], 16);
        found > batch && found - batch < 1 << 32 && decode(&from[at..], incarnation).is_some()
    })
}

/// A segment's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Header {
    pub sequence: u64,
    pub incarnation: u64,
    pub first_batch: u64,
}

/// Why a header cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum BadHeader {
    Damaged,
    Version(u32),
}

impl Header {
    pub fn encode(self) -> [u8; SEGMENT_HEADER] {
        let mut h = [0; SEGMENT_HEADER];
        h[..8].copy_from_slice(MAGIC);
        h[8..12].copy_from_slice(&VERSION.to_le_bytes());
        h[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        h[24..32].copy_from_slice(&self.incarnation.to_le_bytes());
        h[32..40].copy_from_slice(&self.first_batch.to_le_bytes());
        let sum = xxh3_64(&h[..40]);
        h[40..48].copy_from_slice(&sum.to_le_bytes());
        h
    }

    pub fn decode(from: &[u8]) -> Result<Self, BadHeader> {
        let h = from.get(..SEGMENT_HEADER).ok_or(BadHeader::Damaged)?;
        if &h[..8] != MAGIC || xxh3_64(&h[..40]) != u64_at(h, 40) {
            return Err(BadHeader::Damaged);
        }
        match u32_at(h, 8) {
            VERSION => {
                Ok(Self { sequence: u64_at(h, 16), incarnation: u64_at(h, 24), first_batch: u64_at(h, 32) })
            }
            other => Err(BadHeader::Version(other)),
        }
    }
}

fn u64_at(b: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(b[at..at + 8].try_into().expect("eight bytes"))
}

fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(b[at..at + 4].try_into().expect("four bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record<'static> {
        Record {
            batch: 7,
            ord: 1,
            last: true,
            kind: Kind::Entry,
            group: GroupId(1),
            index: 42,
            payload: b"hello",
        }
    }

    /// The format is fixed: a member must read what an earlier release wrote.
    #[test]
    fn golden_bytes() {
        let mut to = Vec::new();
        encode(&mut to, 0xABCD, &record());
        let hex: String = to.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, GOLDEN_RECORD);
        let header = Header { sequence: 3, incarnation: 0xABCD, first_batch: 7 }.encode();
        let hex: String = header.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, GOLDEN_HEADER);
    }
    const GOLDEN_RECORD: &str =
        "8b6e42eadcbeb7a1050000000100000007000000000000002a00000000000000010000000101000068656c6c6f000000";
    const GOLDEN_HEADER: &str = "4d494c4c4554574c01000000000000000300000000000000cdab000000000000070000000000000076190060bc13362a00000000000000000000000000000000";

    #[test]
    fn r20_the_checksum_covers_batch_number_and_incarnation() {
        let mut to = Vec::new();
        encode(&mut to, 0xABCD, &record());
        assert_eq!(decode(&to, 0xABCD), Some(record()));
        assert_eq!(decode(&to, 0xABCE), None, "another incarnation");
        to[16] ^= 1;
        assert_eq!(decode(&to, 0xABCD), None, "another batch number");
    }

    #[test]
    fn every_flipped_bit_of_a_record_is_seen() {
        let mut to = Vec::new();
        encode(&mut to, 5, &record());
        for bit in 0..(RECORD_HEADER + 5) * 8 {
            let mut bad = to.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&bad, 5), None, "bit {bit}");
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { cases: 20_000, ..Default::default() })]

        /// Lengths that lie and kinds that do not exist: no record, and no read beyond the end.
        #[test]
        fn any_bytes_are_a_record_or_none(mut bytes: Vec<u8>, len: u32, kind in 0..5u8, incarnation: u64) {
            if bytes.len() >= RECORD_HEADER {
                bytes[8..12].copy_from_slice(&(len >> (len % 32)).to_le_bytes());
                bytes[36] = kind;
            }
            proptest::prop_assert_eq!(decode(&bytes, incarnation), None, "the checksum cannot fit");
            let _ = find_later(&bytes, incarnation, 0);
            let _ = Header::decode(&bytes);
        }

        #[test]
        fn every_record_comes_back(payload: Vec<u8>, batch: u64, ord: u32, index: u64, group: u32, last: bool, incarnation: u64) {
            let record = Record { batch, ord, last, kind: Kind::Entry, group: GroupId(group), index, payload: &payload };
            let mut bytes = Vec::new();
            encode(&mut bytes, incarnation, &record);
            proptest::prop_assert_eq!(bytes.len(), size(payload.len()));
            proptest::prop_assert_eq!(decode(&bytes, incarnation), Some(record));
        }
    }
}
