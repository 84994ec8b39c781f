//! Segment files: their names, and how a new one comes to be. A segment appears under its name only when
//! its header and first batch are durable, so that an unreadable header is always damage.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{Receiver, sync_channel},
    },
};

use millet_core::world::{Disk, DiskFile, Threads};

use super::{LogError, record::Header};

/// Files being made; what is left of them at open is removed.
const TEMPORARY: &str = ".tmp";

/// The file of segment `sequence`.
pub(super) fn path(dir: &Path, sequence: u64) -> PathBuf {
    dir.join(format!("wal-{sequence:016x}.log"))
}

fn parse(name: &str) -> Option<u64> {
    u64::from_str_radix(name.strip_prefix("wal-")?.strip_suffix(".log")?, 16).ok()
}

/// The segments in `dir`, oldest first. Removes what was left half made.
pub(super) fn list(disk: &dyn Disk, dir: &Path) -> Result<Vec<u64>, LogError> {
    let mut found = Vec::new();
    for name in disk.list(dir).map_err(LogError::io(dir))? {
        if name.ends_with(TEMPORARY) {
            // The thread of a log that was closed a moment ago may remove its file at the same time.
            let removed = disk.remove(&dir.join(&name));
            removed
                .or_else(|e| if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(e) })
                .map_err(LogError::io(dir.join(&name)))?;
        } else if let Some(sequence) = parse(&name) {
            found.push(sequence);
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Whether there is any segment in `dir`, or even that folder.
pub(crate) fn has_segments(disk: &dyn Disk, dir: &Path) -> io::Result<bool> {
    match disk.list(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        names => Ok(names?.iter().any(|name| parse(name).is_some())),
    }
}

/// An open segment.
pub(super) struct Segment {
    pub sequence: u64,
    pub incarnation: u64,
    pub path: PathBuf,
    pub file: Arc<dyn DiskFile>,
    /// Entries in it that are still part of the log.
    pub live: u64,
}

impl Segment {
    pub fn new(header: &Header, path: PathBuf, file: Box<dyn DiskFile>) -> Self {
        Self { sequence: header.sequence, incarnation: header.incarnation, path, file: file.into(), live: 0 }
    }
}

/// A failure that stops the log: which file, and what the disk said.
pub(super) type Fatal = (PathBuf, io::Error);

/// An empty file under its temporary name.
type Blank = (PathBuf, Box<dyn DiskFile>);

/// Makes empty files of the usual size ahead of need, since filling one with zeros takes longer than
/// many commits.
pub(super) struct Maker {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    ahead: Option<Receiver<io::Result<Blank>>>,
    size: u64,
    incarnation: u64,
    made: u64,
}

impl Maker {
    /// `ahead`: with a thread of its own, which ends when the maker is dropped.
    pub fn new(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        size: u64,
        incarnation: u64,
        ahead: Option<&dyn Threads>,
    ) -> io::Result<Self> {
        let ahead = match ahead {
            None => None,
            Some(threads) => {
                // No room: the next file is made, and waits to be taken.
                let (give, take) = sync_channel(0);
                let (disk, dir) = (disk.clone(), dir.clone());
                let body = move || {
                    for n in 0u64.. {
                        let path = dir.join(format!("ahead-{incarnation:x}-{n}{TEMPORARY}"));
                        let made = blank(&*disk, &path, size).map(|file| (path.clone(), file));
                        let failed = made.is_err();
                        let unwanted = give.send(made).is_err();
                        if unwanted {
                            // The log is closing; a leftover would be removed at the next open.
                            drop(disk.remove(&path));
                        }
                        if unwanted || failed {
                            return;
                        }
                    }
                };
                threads.spawn("wal-prepare", Box::new(body))?;
                Some(take)
            }
        };
        Ok(Self { disk, dir, ahead, size, incarnation, made: 0 })
    }

    /// A new segment of at least `size` bytes that starts with `first`, already encoded for `header`.
    /// It is durable under its name when this returns, in the place of an earlier one of its sequence number.
    pub fn make(&mut self, header: Header, first: &[u8], size: u64) -> Result<(Segment, u64), Fatal> {
        let ((temporary, file), size) = self.blank(size)?;
        let path = path(&self.dir, header.sequence);
        let fill = || {
            let mut start = header.encode().to_vec();
            start.extend_from_slice(first);
            file.write_at(0, &start)?;
            file.sync_data()?;
            self.disk.rename(&temporary, &path)?;
            self.disk.sync_dir(&self.dir)
        };
        fill().map_err(|e| (path.clone(), e))?;
        Ok((Segment::new(&header, path, file), size))
    }

    fn blank(&mut self, size: u64) -> Result<(Blank, u64), Fatal> {
        if size <= self.size
            && let Some(ahead) = &self.ahead
        {
            let made = ahead
                .recv()
                .unwrap_or_else(|_| Err(io::Error::other("the thread that prepares segments has ended")));
            let (path, file) = made.map_err(|e| (self.dir.clone(), e))?;
            return Ok(((path, file), self.size));
        }
        self.made += 1;
        let path = self.dir.join(format!("new-{:x}-{}{TEMPORARY}", self.incarnation, self.made));
        let file = blank(&*self.disk, &path, size).map_err(|e| (path.clone(), e))?;
        Ok(((path, file), size))
    }
}

fn blank(disk: &dyn Disk, path: &Path, size: u64) -> io::Result<Box<dyn DiskFile>> {
    let file = disk.create(path, size)?;
    file.sync_data()?;
    Ok(file)
}
