//! Reading the log back at start: every segment in order, every batch checked, a torn tail cut, anything
//! else that does not fit refused (R20).

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use millet_core::world::{Disk, DiskFile};

use super::{
    GroupId, LogError,
    index::{Group, Index, Place},
    record::{self, BadHeader, Header, Kind, RECORD_HEADER, Record, SEGMENT_HEADER},
    segment::{self, Segment},
};

/// The end of the log that was being written when the power went: cut off, since nobody was told that
/// it is durable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TornTail {
    /// The segment.
    pub file: PathBuf,
    /// Where it was cut.
    pub offset: u64,
    /// Bytes from there to the last one that was not zero.
    pub bytes: u64,
}

/// No log counts this far: what says it does is damage, and what counts on from it would overflow.
const FAR: u64 = 1 << 62;

/// What was found at open.
pub(super) struct Recovered {
    pub index: Index,
    /// Old segments, oldest first.
    pub segments: Vec<Segment>,
    pub next_sequence: u64,
    pub next_batch: u64,
    pub torn: Option<TornTail>,
}

/// Reads all segments of `dir`.
pub(super) fn recover(disk: &dyn Disk, dir: &Path, cache_limit: usize) -> Result<Recovered, LogError> {
    let names = segment::list(disk, dir)?;
    let mut replay = Replay::default();
    let mut segments = Vec::with_capacity(names.len());
    let newest = names.last().copied();
    let (mut next_sequence, mut next_batch) = (1, 1);
    for (n, sequence) in names.iter().copied().enumerate() {
        let path = segment::path(dir, sequence);
        if sequence >= FAR {
            let why = format!("no log has a segment {sequence}");
            return Err(LogError::Damaged { file: path, offset: 0, why });
        }
        if n > 0 && sequence != next_sequence {
            let why = format!("segment {next_sequence}, before it, is missing");
            return Err(LogError::Damaged { file: path, offset: 0, why });
        }
        let bytes = disk.read(&path).map_err(LogError::io(&path))?;
        let read = replay.segment(&path, sequence, &bytes, newest == Some(sequence))?;
        if newest == Some(sequence) && !read.has_content {
            // Nothing but what the next segment begins with: that one takes its place, so that restarts
            // alone leave no files behind.
            (next_sequence, next_batch) = (sequence, read.header.first_batch);
            continue;
        }
        let file = disk.open(&path).map_err(LogError::io(&path))?;
        if newest == Some(sequence) {
            make_durable(&*file, &bytes, &read).map_err(LogError::io(&path))?;
        }
        segments.push(Segment::new(&read.header, path, file));
        (next_sequence, next_batch) = (sequence + 1, replay.batch.unwrap_or(1));
    }
    let torn = replay.torn.take();
    let index = replay.index(dir, &mut segments, cache_limit)?;
    Ok(Recovered { index, segments, next_sequence, next_batch, torn })
}

/// The last batch was read from memory, maybe: the process may have ended before its sync, or because of a
/// sync that failed, after which a further one finds nothing to do. Written once more, it is on disk before
/// anybody builds on it. The same bytes in the same place: a tear does no harm. Earlier batches were synced
/// before it was written. What follows is cut off.
fn make_durable(file: &dyn DiskFile, bytes: &[u8], read: &Read) -> io::Result<()> {
    let end = usize::try_from(read.end).unwrap_or(bytes.len()).min(bytes.len());
    if read.last < end {
        file.write_at(read.last as u64, &bytes[read.last..end])?;
    }
    if bytes.len() > end {
        file.set_len(read.end)?;
    }
    file.sync_data()
}

/// One segment, read.
struct Read {
    header: Header,
    /// Where its last good batch starts.
    last: usize,
    /// Where its good part ends.
    end: u64,
    /// Whether it holds more than votes, positions and marks.
    has_content: bool,
}

#[derive(Default)]
struct Replay {
    groups: BTreeMap<GroupId, ReplayGroup>,
    /// The batch expected next; `None` before the first segment.
    batch: Option<u64>,
    torn: Option<TornTail>,
}

#[derive(Default)]
struct ReplayGroup {
    entries: BTreeMap<u64, Place>,
    group: Group,
}

impl Replay {
    /// Applies one segment.
    fn segment(&mut self, path: &Path, sequence: u64, bytes: &[u8], newest: bool) -> Result<Read, LogError> {
        let damaged = |offset: usize, why: String| LogError::Damaged {
            file: path.to_owned(),
            offset: offset as u64,
            why,
        };
        let header = match Header::decode(bytes) {
            Ok(h) if h.sequence == sequence => h,
            Ok(_) => return Err(damaged(0, "the header is another segment's".into())),
            Err(BadHeader::Damaged) => return Err(damaged(0, "the header is unreadable".into())),
            Err(BadHeader::Version(found)) => {
                return Err(LogError::Version { file: path.to_owned(), found, known: record::VERSION });
            }
        };
        if header.first_batch >= FAR {
            return Err(damaged(0, format!("no log has a batch {}", header.first_batch)));
        }
        let mut batch = self.batch.unwrap_or(header.first_batch);
        if batch != header.first_batch {
            return Err(damaged(
                0,
                format!(
                    "it starts with batch {}, but batch {batch} is due: the end of the segment before is lost",
                    header.first_batch
                ),
            ));
        }
        let (mut at, mut last, mut has_content) = (SEGMENT_HEADER, SEGMENT_HEADER, false);
        let bad = loop {
            match read_batch(bytes, at, header.incarnation, batch) {
                Ok((records, end)) => {
                    for (offset, r) in &records {
                        if r.index >= FAR {
                            let why = format!("group {} has an entry {}: no log has", r.group.0, r.index);
                            return Err(damaged(*offset, why));
                        }
                        self.apply(sequence, *offset as u64, r);
                        has_content |= matches!(r.kind, Kind::Entry | Kind::Moved | Kind::Truncate);
                    }
                    (last, at, batch) = (at, end, batch + 1);
                }
                Err(bad) => break bad,
            }
        };
        self.batch = Some(batch);
        let rest = &bytes[at.min(bytes.len())..];
        let read = Read { header, last, end: at as u64, has_content };
        let Some(used) = rest.iter().rposition(|b| *b != 0) else { return Ok(read) };
        if !newest {
            return Err(damaged(bad, format!("batch {batch} is unreadable, and later segments follow")));
        }
        if let Some(later) = record::find_later(rest, header.incarnation, batch) {
            return Err(damaged(
                bad,
                format!("batch {batch} is unreadable, but a later one follows at byte {}", at + later),
            ));
        }
        self.torn = Some(TornTail { file: path.to_owned(), offset: at as u64, bytes: used as u64 + 1 });
        Ok(read)
    }

    fn apply(&mut self, segment: u64, offset: u64, r: &Record<'_>) {
        let g = self.groups.entry(r.group).or_default();
        let payload = || Bytes::copy_from_slice(r.payload);
        match r.kind {
            Kind::Entry | Kind::Moved => {
                let len = u32::try_from(r.payload.len()).expect("a record's length has 32 bits");
                if g.group.purged.as_ref().is_none_or(|(at, _)| r.index > *at) {
                    g.entries.insert(r.index, Place { segment, offset, len });
                }
            }
            Kind::Truncate if r.index == 0 => g.entries.clear(),
            Kind::Truncate => drop(g.entries.split_off(&r.index.saturating_add(1))),
            Kind::Purge => {
                if g.group.purged.as_ref().is_none_or(|(at, _)| *at <= r.index) {
                    g.group.purged = Some((r.index, payload()));
                }
                g.entries = g.entries.split_off(&r.index.saturating_add(1));
            }
            Kind::Vote => g.group.vote = Some(payload()),
            Kind::Committed => g.group.committed = Some(payload()),
        }
    }

    /// Checks that no entry is missing, counts what each segment holds, and builds the index.
    fn index(self, dir: &Path, segments: &mut [Segment], cache_limit: usize) -> Result<Index, LogError> {
        let mut index = Index::new(cache_limit);
        for (id, ReplayGroup { entries, group }) in self.groups {
            let mut next = None;
            for (at, place) in &entries {
                if let Some(gap) = next.filter(|n| n != at) {
                    let why = format!("group {} lacks entries {gap} to {}", id.0, at - 1);
                    return Err(LogError::Damaged { file: dir.to_owned(), offset: 0, why });
                }
                next = Some(at + 1);
                if let Some(s) = segments.iter_mut().find(|s| s.sequence == place.segment) {
                    s.live += 1;
                }
            }
            index.restore(id, group, entries);
        }
        Ok(index)
    }
}

/// Reads batch `number` from `at`: its records with their places, and where it ends. `Err`: where the
/// first bad record starts.
fn read_batch(
    bytes: &[u8],
    at: usize,
    incarnation: u64,
    number: u64,
) -> Result<(Vec<(usize, Record<'_>)>, usize), usize> {
    let mut records = Vec::new();
    let mut next = at;
    loop {
        let from = bytes.get(next..).filter(|b| b.len() >= RECORD_HEADER).ok_or(next)?;
        let r = record::decode(from, incarnation)
            .filter(|r| r.batch == number && r.ord as usize == records.len())
            .ok_or(next)?;
        let (start, last) = (next, r.last);
        next += record::size(r.payload.len());
        records.push((start, r));
        if last {
            return Ok((records, next));
        }
    }
}

#[cfg(test)]
mod tests {
    use millet_testkit::SimDisk;

    use super::*;

    /// Opens a log of one segment: its sequence number, its first batch, and one record in it.
    fn open(sequence: u64, batch: u64, kind: Kind, index: u64) -> Result<Recovered, LogError> {
        let (disk, dir) = (SimDisk::new(), Path::new("/log"));
        let header = Header { sequence, incarnation: 5, first_batch: batch };
        let mut bytes = header.encode().to_vec();
        let record = Record { batch, ord: 0, last: true, kind, group: GroupId(0), index, payload: b"x" };
        record::encode(&mut bytes, 5, &record);
        disk.create_dir(dir).expect("an empty disk");
        let file = disk.create(&segment::path(dir, sequence), bytes.len() as u64).expect("a new file");
        file.write_at(0, &bytes).expect("room");
        recover(&disk, dir, 0)
    }

    /// Found by the fuzz target `log`: what counts on from the last number there is overflowed.
    #[test]
    fn r20_numbers_that_no_log_reaches_are_damage() {
        let far = FAR - 1;
        for kind in [Kind::Entry, Kind::Moved, Kind::Truncate, Kind::Purge] {
            assert!(open(far, far, kind, far).is_ok(), "{kind:?}");
            for (sequence, batch, index) in [(u64::MAX, 1, 1), (1, u64::MAX, 1), (1, 1, u64::MAX)] {
                let error = open(sequence, batch, kind, index).err().expect("refused").to_string();
                assert!(error.contains("/log/wal-") && error.contains(&u64::MAX.to_string()), "{error}");
            }
        }
    }
}
