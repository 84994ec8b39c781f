//! Our own Raft log: preallocated segments, one `fdatasync` per group commit over all groups, a writer
//! thread that drains its queue. What a caller sees; the writing is in `writer`.
//!
//! Driver contract: the index in memory is ahead of the disk, `Done` tells when the disk has caught up.
//! After a failed write or sync nothing is written any more and every operation fails.

use std::{
    collections::BTreeMap,
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use millet_core::world::{Disk, DiskFile, Threads};

use super::{
    Done, GroupId, LogEntry, LogError, LogState, LogStore, TornTail,
    index::{Found, Place},
    queue::{Op, Shared},
    record, recover,
    segment::{Maker, Segment},
    writer::Writer,
};

/// Told once, from the writer thread, when the log has stopped: the file, and what the disk said.
pub type OnFatal = Arc<dyn Fn(&Path, &io::Error) + Send + Sync>;

/// How a log is kept. Sizes are in bytes.
#[derive(Clone)]
pub struct WalOptions {
    /// A random number drawn for this opening: records of other lives of the same disk blocks do not
    /// pass for this one's.
    pub incarnation: u64,
    /// The first segment after an open: small, so that a member starts at once. 1 MiB.
    pub first_segment_bytes: u64,
    /// The others; larger batches get larger segments. 16 MiB.
    pub segment_bytes: u64,
    /// Entries kept in memory over all groups; older ones are read from disk. 64 MiB.
    pub cache_bytes: usize,
    /// Not yet written; callers wait while there is more. 64 MiB.
    pub queue_bytes: usize,
    /// Most that one sync commits (a single larger operation still goes as one). 8 MiB: about 10 ms of disk.
    pub batch_bytes: usize,
    /// Whether a thread prepares segments ahead of need.
    pub prepare_ahead: bool,
    /// Told when the log has stopped; the member then stops too.
    pub on_fatal: Option<OnFatal>,
}

impl WalOptions {
    /// The defaults. `incarnation` is a fresh random number.
    pub fn new(incarnation: u64) -> Self {
        Self {
            incarnation,
            first_segment_bytes: 1 << 20,
            segment_bytes: 16 << 20,
            cache_bytes: 64 << 20,
            queue_bytes: 64 << 20,
            batch_bytes: 8 << 20,
            prepare_ahead: true,
            on_fatal: None,
        }
    }
}

/// The log of one member: all its groups in one sequence of segments.
pub struct Wal {
    shared: Arc<Shared>,
    torn: Option<TornTail>,
}

impl Wal {
    /// Opens the log in `dir`, creating it if there is none. Takes the folder's lock, reads everything
    /// back, cuts a torn tail (logged, see [`Wal::torn_tail`]), refuses anything else that is damaged (R20).
    pub fn open(
        disk: Arc<dyn Disk>,
        threads: &dyn Threads,
        dir: &Path,
        options: WalOptions,
    ) -> Result<Self, LogError> {
        disk.create_dir(dir).map_err(LogError::io(dir))?;
        let lock_path = dir.join("lock");
        let lock = disk.lock(&lock_path).map_err(|e| match e.kind() {
            io::ErrorKind::WouldBlock => LogError::Locked { path: lock_path.clone(), source: e },
            _ => LogError::Io { path: lock_path.clone(), source: e },
        })?;
        let found = recover::recover(&*disk, dir, options.cache_bytes)?;
        if let Some(torn) = &found.torn {
            tracing::warn!(file = %torn.file.display(), offset = torn.offset, bytes = torn.bytes, "cut the torn tail of the log: it was never acknowledged");
        }
        let torn = found.torn.clone();
        let shared =
            Arc::new(Shared::new(found.index, found.segments, options.queue_bytes, options.on_fatal.clone()));
        let ahead = options.prepare_ahead.then_some(threads);
        let maker =
            Maker::new(disk.clone(), dir.to_owned(), options.segment_bytes, options.incarnation, ahead)
                .map_err(LogError::io(dir))?;
        let mut writer = Writer::new(disk, dir.to_owned(), shared.clone(), maker, options, lock);
        writer
            .start(found.next_sequence, found.next_batch)
            .map_err(|(path, source)| LogError::Io { path, source })?;
        threads.drive("wal-writer", Box::pin(writer.run())).map_err(LogError::io(dir))?;
        Ok(Self { shared, torn })
    }

    /// The torn tail that was cut at open, if there was one.
    pub fn torn_tail(&self) -> Option<&TornTail> {
        self.torn.as_ref()
    }

    /// The file and the error that stopped the log, once it has stopped.
    pub fn failure(&self) -> Option<(PathBuf, String)> {
        self.shared.failure()
    }

    /// Segment files there are now.
    pub fn segment_count(&self) -> usize {
        self.shared.with(|m| m.segments.len())
    }

    fn fetch(&self, located: Located) -> io::Result<LogEntry> {
        match located {
            Located::Here(entry) => Ok(entry),
            Located::In { file, path, incarnation, index, place } => {
                let payload = read_record(&*file, &path, incarnation, index, place)
                    .inspect_err(|e| self.shared.fail(&path, e))?;
                Ok(LogEntry { index, payload })
            }
        }
    }
}

/// An entry, or the open file it is in: the writer may remove the segment's name before it is read.
enum Located {
    Here(LogEntry),
    In { file: Arc<dyn DiskFile>, path: PathBuf, incarnation: u64, index: u64, place: Place },
}

impl Located {
    /// Under the lock under which the entry was found.
    fn of(found: Found, segments: &BTreeMap<u64, Segment>) -> Self {
        match found {
            Found::Here(entry) => Self::Here(entry),
            Found::OnDisk(index, place) => {
                let s = segments.get(&place.segment).expect("a segment stays while the index names it");
                let (file, path, incarnation) = (s.file.clone(), s.path.clone(), s.incarnation);
                Self::In { file, path, incarnation, index, place }
            }
        }
    }
}

/// Reads and checks one entry's record.
pub(super) fn read_record(
    file: &dyn DiskFile,
    path: &Path,
    incarnation: u64,
    index: u64,
    place: Place,
) -> io::Result<Bytes> {
    let mut bytes = vec![0; record::RECORD_HEADER + place.len as usize];
    file.read_at(place.offset, &mut bytes)?;
    let good = record::decode(&bytes, incarnation).is_some_and(|r| r.index == index);
    if !good {
        let why =
            format!("{} is damaged at byte {}: entry {index} is unreadable", path.display(), place.offset);
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    Ok(Bytes::from(bytes).slice(record::RECORD_HEADER..))
}

impl LogStore for Wal {
    fn state(&self, group: GroupId) -> LogState {
        let found = self.shared.with(|m| {
            let (state, last) = m.index.groups.get(&group)?.state();
            Some((state, last.map(|found| Located::of(found, &m.segments))))
        });
        let Some((mut state, last)) = found else { return LogState::default() };
        // A failed read stops the log: whoever acts on a state without its last entry gets no further.
        state.last = last.and_then(|located| self.fetch(located).ok());
        state
    }

    fn append(&self, group: GroupId, entries: Vec<LogEntry>, done: Done) {
        self.shared.push(done, |index| {
            let ids = index.append(group, &entries)?;
            Ok(Op::Append { group, entries, ids })
        });
    }

    fn truncate_after(&self, group: GroupId, last_kept: u64, done: Done) {
        self.shared.push(done, |index| {
            Ok(Op::Truncate { group, last_kept, freed: index.truncate(group, last_kept) })
        });
    }

    fn purge(&self, group: GroupId, upto: u64, mark: Bytes, done: Done) {
        self.shared.push(done, |index| {
            let freed = index.purge(group, upto, mark.clone());
            Ok(Op::Purge { group, upto, mark, freed })
        });
    }

    fn save_vote(&self, group: GroupId, vote: Bytes, done: Done) {
        self.shared.push(done, |index| {
            index.groups.entry(group).or_default().vote = Some(vote.clone());
            Ok(Op::Vote { group, vote })
        });
    }

    fn save_committed(&self, group: GroupId, committed: Bytes, done: Done) {
        self.shared.push(done, |index| {
            index.groups.entry(group).or_default().committed = Some(committed.clone());
            Ok(Op::Committed { group, committed })
        });
    }

    fn read(&self, group: GroupId, range: Range<u64>) -> io::Result<Vec<LogEntry>> {
        self.shared.check()?;
        let located: Vec<_> = self.shared.with(|m| {
            m.index.find(group, range).into_iter().map(|found| Located::of(found, &m.segments)).collect()
        });
        located.into_iter().map(|l| self.fetch(l)).collect()
    }
}

impl Drop for Wal {
    /// Writes what is queued, then lets go of the folder's lock. Waits for the disk at most 10 s.
    fn drop(&mut self) {
        self.shared.close(Duration::from_secs(10));
    }
}
