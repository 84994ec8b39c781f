//! Where a copy comes from: a backup file, or the data directory of a member that does not run. Both are
//! read twice: once through, to know that they are whole and what they hold, once to be written.

use std::{
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use millet_core::{
    limits,
    world::{Disk, DiskFile, Threads},
};
use millet_proto::{
    backup::Reader,
    wire::{BackupHeader, BackupSection},
};

use super::Survey;
use crate::{
    engine::{self, EngineKind},
    group::GroupMachine,
    identity::Identity,
    log::{Wal, WalOptions},
    machine::{Machine, MetaGroup},
    member::{META, STATE},
    raft::{SnapshotFile, SnapshotFiles, replay},
    state::{StateGroup, StateSurvey, survey},
};

/// Bytes read at once.
const CHUNK: usize = 256 * 1024;
/// Memory the scratch engine may use for its cache.
const CACHE_BYTES: u64 = 64 * 1024 * 1024;

/// A file, from its beginning.
struct FileReader {
    file: Box<dyn DiskFile>,
    at: u64,
    len: u64,
}

impl Read for FileReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let n = into.len().min(usize::try_from(self.len - self.at).unwrap_or(usize::MAX));
        self.file.read_at(self.at, &mut into[..n])?;
        self.at += n as u64;
        Ok(n)
    }
}

type Backup = Reader<io::BufReader<FileReader>>;

fn open(disk: &dyn Disk, path: &Path) -> io::Result<Backup> {
    let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
    let file = disk.open(path).map_err(named)?;
    let len = file.len().map_err(named)?;
    let file = io::BufReader::with_capacity(CHUNK, FileReader { file, at: 0, len });
    Reader::new(file).map_err(|e| named(e.into()))
}

/// Counts what is read through it, so that nothing may be left over.
pub struct Counted<'a>(pub &'a mut dyn Read, pub u64);
impl Read for Counted<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let n = self.0.read(into)?;
        self.1 += n as u64;
        Ok(n)
    }
}

fn section(backup: &mut Backup, group: u32) -> io::Result<BackupSection> {
    match backup.next_section()? {
        Some(section) if section.group == group => Ok(section),
        other => {
            let found = other.map_or("its end".into(), |s| format!("group {} ({})", s.group, s.name));
            let why = format!("{found} stands where group {group} was expected; upgrade this build");
            Err(io::Error::new(io::ErrorKind::InvalidData, why))
        }
    }
}

fn nothing_left(backup: &mut Backup) -> io::Result<()> {
    match backup.read(&mut [0])? {
        0 => Ok(()),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "a group's part is longer than its content")),
    }
}

/// Reads a backup through, every byte, and says what it holds. A file that is damaged or not whole is
/// refused with the place.
pub fn verify(disk: &dyn Disk, path: &Path) -> io::Result<Survey> {
    let named = |e: io::Error| match e.to_string() {
        text if text.contains(&*path.to_string_lossy()) => e,
        text => io::Error::new(e.kind(), format!("{}: {text}", path.display())),
    };
    let read = || {
        let mut backup = open(disk, path)?;
        let header = backup.header().clone();
        let state_index = section(&mut backup, STATE.0)?.index;
        let state = survey(&mut backup)?;
        nothing_left(&mut backup)?;
        let meta_index = section(&mut backup, META.0)?.index;
        let meta = Machine::read_from(&mut backup)?;
        nothing_left(&mut backup)?;
        if let Some(more) = backup.next_section()? {
            let why =
                format!("it holds group {} ({}), which this build does not know", more.group, more.name);
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        Ok(Survey { header, bytes: backup.offset(), meta_index, meta, state_index, state })
    };
    read().map_err(named)
}

/// A copy that can be read twice.
pub(super) trait Source {
    /// Reads it through.
    fn survey(&mut self) -> io::Result<Survey>;
    /// The `state` group's content.
    fn state(&mut self) -> io::Result<Box<dyn Read + Send>>;
}

/// A backup file.
pub(super) struct File {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) path: PathBuf,
}

impl Source for File {
    fn survey(&mut self) -> io::Result<Survey> {
        verify(&*self.disk, &self.path)
    }

    fn state(&mut self) -> io::Result<Box<dyn Read + Send>> {
        let mut backup = open(&*self.disk, &self.path)?;
        section(&mut backup, STATE.0)?;
        Ok(Box::new(backup))
    }
}

/// The data directory of a member that does not run; its lock is held by the caller.
pub(super) struct Directory {
    machine: Machine,
    /// Whose it was.
    identity: Identity,
    state: SnapshotFile,
    state_index: u64,
}

impl Directory {
    /// Reads snapshots and log of `old`. `scratch`: a folder where the state is put together on the way; its
    /// files are the caller's to remove. Of `old` nothing is changed, but for a torn tail of its log, as at
    /// any start; a file that is gone in the end lies there.
    pub(super) fn open(
        disk: &Arc<dyn Disk>,
        threads: &dyn Threads,
        incarnation: u64,
        old: &Path,
        identity: &Identity,
        scratch: &Path,
    ) -> io::Result<Self> {
        let wal = Wal::open(Arc::clone(disk), threads, &old.join("log"), WalOptions::new(incarnation));
        let wal = wal.map_err(io::Error::other)?;
        let snapshots = |group| SnapshotFiles::open(Arc::clone(disk), old.join("snapshots"), group);
        let mut meta = MetaGroup::new(|_| ());
        replay(&wal, META, &snapshots(META)?, &mut meta)?;
        let machine = meta.machine().read().clone();
        // redb, whatever the members use: all its files lie on World's disk, where they can be removed.
        let engine = engine::open(EngineKind::Redb, Arc::clone(disk), scratch, CACHE_BYTES)?;
        let mut state = StateGroup::open(Arc::clone(&engine))?;
        let files = snapshots(STATE)?;
        replay(&wal, STATE, &files, &mut state)?;
        let state_index = state.applied().index;
        let state = files.draft(state.snapshot()?)?;
        engine.close()?;
        Ok(Self { machine, identity: identity.clone(), state, state_index })
    }
}

impl Source for Directory {
    fn survey(&mut self) -> io::Result<Survey> {
        let state: StateSurvey = survey(&mut self.state.content()?)?;
        // Its clock has shown at least these times: it was first used then, and no leader let ids be reserved
        // further ahead.
        let ahead = u64::try_from(limits::RESERVE_AHEAD.as_millis()).unwrap_or(u64::MAX);
        let reserved_ms = self.machine.reserved_ms().saturating_sub(ahead);
        let header = BackupHeader {
            member: self.identity.membership.as_ref().map_or(0, |place| place.member),
            taken_ms: reserved_ms.max(self.identity.created_ms),
            ..BackupHeader::default()
        };
        Ok(Survey {
            header,
            bytes: self.state.len(),
            meta_index: self.machine.revision().0,
            meta: self.machine.clone(),
            state_index: self.state_index,
            state,
        })
    }

    fn state(&mut self) -> io::Result<Box<dyn Read + Send>> {
        self.state.content()
    }
}
