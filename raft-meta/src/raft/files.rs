//! Snapshot files of one group: checksummed, written under another name, synced, renamed, folder
//! synced. The Raft log is purged only up to the file that is current (R19).

use std::{
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use millet_core::world::{Disk, DiskFile};
use parking_lot::Mutex;
use xxhash_rust::xxh3::Xxh3;

use crate::{
    group::{Applied, SnapshotSource},
    log::GroupId,
};

/// First bytes of every snapshot file; the last one is the format's version.
const MAGIC: &[u8; 8] = b"MLTSNAP\x01";
/// Magic, index, lengths of log id and membership.
const HEAD: usize = 8 + 8 + 4 + 4;
/// Length of everything before the foot, checksum of the same.
const FOOT: u64 = 16;
/// Bytes read or written at once.
const CHUNK: usize = 256 * 1024;
/// Log id and membership are small; more is damage.
const MARK_BYTES: usize = 1024 * 1024;

/// The snapshot files of one group in one folder.
pub(crate) struct SnapshotFiles {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    group: GroupId,
    current: Mutex<Option<SnapshotFile>>,
    /// Names of files being written, so that two never collide.
    next: AtomicU64,
    /// Tells this folder's files from others'.
    home: Arc<()>,
}

/// A complete snapshot file.
#[derive(Clone)]
pub(crate) struct SnapshotFile {
    inner: Arc<Open>,
}

struct Open {
    /// Set while the file has its first name: removed with the last handle, unless it was made current.
    unkept: Option<Arc<dyn Disk>>,
    home: Arc<()>,
    file: Box<dyn DiskFile>,
    path: PathBuf,
    applied: Applied,
    content: u64,
    len: u64,
    /// Of everything before the foot, as it was checked.
    checksum: u64,
}

impl std::fmt::Debug for SnapshotFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "snapshot of {} bytes at index {}", self.inner.len, self.inner.applied.index)
    }
}

impl SnapshotFiles {
    /// Opens the folder: the newest whole snapshot is current, what was left unfinished is removed. A
    /// damaged newest snapshot is an error: its part of the log may be gone.
    pub(crate) fn open(disk: Arc<dyn Disk>, dir: PathBuf, group: GroupId) -> io::Result<Self> {
        disk.create_dir(&dir)?;
        let home = Arc::new(());
        let (prefix, mut found) = (format!("snapshot-{}-", group.0), Vec::new());
        for name in disk.list(&dir)? {
            if name.starts_with(&format!("writing-{}-", group.0)) {
                disk.remove(&dir.join(&name))?;
            } else if let Some(index) = name.strip_prefix(&prefix).and_then(|n| n.parse::<u64>().ok()) {
                found.push(index);
            }
        }
        found.sort_unstable();
        let newest = found.pop();
        let path = |index: u64| dir.join(format!("{prefix}{index:020}"));
        let current = newest.map(|index| open(&*disk, &path(index), &home)).transpose()?;
        for older in found {
            disk.remove(&path(older))?; // the process ended before it could
        }
        Ok(Self { disk, dir, group, current: Mutex::new(current), next: AtomicU64::new(0), home })
    }

    /// The current snapshot.
    pub(crate) fn current(&self) -> io::Result<Option<SnapshotFile>> {
        Ok(self.current.lock().clone())
    }

    /// Writes a machine's picture and makes it current, unless a newer one is.
    pub(crate) fn write(&self, source: Box<dyn SnapshotSource>) -> io::Result<SnapshotFile> {
        let file = self.draft(source)?;
        self.keep(file)
    }

    /// Writes a machine's picture to a file that goes with its last handle.
    pub(crate) fn draft(&self, mut source: Box<dyn SnapshotSource>) -> io::Result<SnapshotFile> {
        let applied = source.applied();
        let mut out = self.incoming()?;
        out.write_all(&head(&applied))?;
        source.write_to(&mut out)?;
        let foot = foot(out.len, out.hash.digest());
        out.write_all(&foot)?;
        out.finish()
    }

    /// A new file for a snapshot that comes from another member, foot included.
    pub(crate) fn incoming(&self) -> io::Result<Incoming> {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join(format!("writing-{}-{n}", self.group.0));
        let file = self.disk.create(&path, 0).map_err(named(&path))?;
        Ok(Incoming {
            disk: Arc::clone(&self.disk),
            home: Arc::clone(&self.home),
            file: Some(file),
            path,
            buffer: BytesMut::with_capacity(CHUNK),
            len: 0,
            written: 0,
            hash: Xxh3::new(),
        })
    }

    /// Makes a file current and removes the others. A file older than the current one is kept out.
    pub(crate) fn keep(&self, file: SnapshotFile) -> io::Result<SnapshotFile> {
        let file = if Arc::ptr_eq(&file.inner.home, &self.home) { file } else { self.copy(&file)? };
        let mut current = self.current.lock();
        if let Some(have) =
            current.as_ref().filter(|have| have.inner.applied.index >= file.inner.applied.index)
        {
            return Ok(have.clone()); // the other file goes with its last handle
        }
        let path = self.dir.join(format!("snapshot-{}-{:020}", self.group.0, file.inner.applied.index));
        self.disk.rename(&file.inner.path, &path).map_err(named(&path))?;
        self.disk.sync_dir(&self.dir).map_err(named(&path))?;
        let kept = open(&*self.disk, &path, &self.home)?;
        if let Some(old) = current.replace(kept.clone()) {
            self.disk.remove(&old.inner.path).map_err(named(&old.inner.path))?;
        }
        Ok(kept)
    }
}

impl SnapshotFiles {
    /// A copy in this folder of a file from another one.
    fn copy(&self, file: &SnapshotFile) -> io::Result<SnapshotFile> {
        let (mut out, mut at) = (self.incoming()?, 0);
        while at < file.len() {
            let piece = file.piece(at, CHUNK)?;
            out.write_all(&piece)?;
            at += piece.len() as u64;
        }
        out.finish()
    }
}

fn head(applied: &Applied) -> Bytes {
    let mut b = BytesMut::with_capacity(HEAD + applied.log_id.len() + applied.membership.len());
    b.put_slice(MAGIC);
    b.put_u64_le(applied.index);
    b.put_u32_le(u32::try_from(applied.log_id.len()).unwrap_or(u32::MAX));
    b.put_u32_le(u32::try_from(applied.membership.len()).unwrap_or(u32::MAX));
    b.put_slice(&applied.log_id);
    b.put_slice(&applied.membership);
    b.freeze()
}

fn foot(len: u64, hash: u64) -> Bytes {
    let mut b = BytesMut::with_capacity(16);
    b.put_u64_le(len);
    b.put_u64_le(hash);
    b.freeze()
}

/// An error of the disk with the file it is about: the member stops with it.
fn named(path: &Path) -> impl FnOnce(io::Error) -> io::Error {
    move |e| io::Error::new(e.kind(), format!("{}: {e}", path.display()))
}

fn damaged(path: &Path, why: &str) -> io::Error {
    let text = format!(
        "snapshot {} is damaged ({why}): replace this member, it is not safe to go on without it",
        path.display()
    );
    io::Error::new(io::ErrorKind::InvalidData, text)
}

impl Drop for Open {
    fn drop(&mut self) {
        let removed = self.unkept.take().map_or(Ok(()), |disk| disk.remove(&self.path));
        if let Err(e) = removed.or_else(|e| if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(e) })
        {
            tracing::warn!(path = %self.path.display(), error = %e, "a snapshot that was not wanted stays until the next start");
        }
    }
}

/// Opens a snapshot file and checks all of it.
fn open(disk: &dyn Disk, path: &Path, home: &Arc<()>) -> io::Result<SnapshotFile> {
    open_as(disk, path, home, None)
}

fn open_as(
    disk: &dyn Disk,
    path: &Path,
    home: &Arc<()>,
    unkept: Option<Arc<dyn Disk>>,
) -> io::Result<SnapshotFile> {
    let file = disk.open(path)?;
    let len = file.len()?;
    let body = len
        .checked_sub(FOOT)
        .filter(|body| *body >= HEAD as u64)
        .ok_or_else(|| damaged(path, "too short"))?;
    let mut end = [0; FOOT as usize];
    file.read_at(body, &mut end)?;
    let mut end = &end[..];
    if end.get_u64_le() != body {
        return Err(damaged(path, "length"));
    }
    let (mut hash, mut at, mut chunk) = (Xxh3::new(), 0, vec![0; CHUNK]);
    while at < body {
        let n = usize::try_from((body - at).min(CHUNK as u64)).unwrap_or(CHUNK);
        file.read_at(at, &mut chunk[..n])?;
        hash.update(&chunk[..n]);
        at += n as u64;
    }
    let checksum = end.get_u64_le();
    if hash.digest() != checksum {
        return Err(damaged(path, "checksum"));
    }
    let (applied, content) = read_head(&*file, path, body)?;
    Ok(SnapshotFile {
        inner: Arc::new(Open {
            unkept,
            home: Arc::clone(home),
            file,
            path: path.to_owned(),
            applied,
            content,
            len,
            checksum,
        }),
    })
}

fn read_head(file: &dyn DiskFile, path: &Path, body: u64) -> io::Result<(Applied, u64)> {
    let mut head = [0; HEAD];
    file.read_at(0, &mut head)?;
    let mut head = &head[..];
    if &head.copy_to_bytes(8)[..] != MAGIC {
        return Err(damaged(path, "not a snapshot, or of another version"));
    }
    let index = head.get_u64_le();
    let (id, members) = (head.get_u32_le() as usize, head.get_u32_le() as usize);
    let content = (HEAD + id + members) as u64;
    if id > MARK_BYTES || members > MARK_BYTES || content > body {
        return Err(damaged(path, "header"));
    }
    let mut marks = vec![0; id + members];
    file.read_at(HEAD as u64, &mut marks)?;
    let mut log_id = Bytes::from(marks);
    let membership = log_id.split_off(id);
    Ok((Applied { index, log_id, membership }, content))
}

impl SnapshotFile {
    /// As of which entry.
    pub(crate) fn applied(&self) -> &Applied {
        &self.inner.applied
    }

    /// Bytes in the file.
    pub(crate) fn len(&self) -> u64 {
        self.inner.len
    }

    /// A piece of the file, for another member; empty at its end.
    pub(crate) fn piece(&self, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
        let n = usize::try_from(self.inner.len.saturating_sub(offset)).unwrap_or(usize::MAX).min(bytes);
        let mut piece = vec![0; n];
        self.inner.file.read_at(offset, &mut piece)?;
        Ok(piece)
    }

    /// What the machine wrote. Its file is checked again while it is read: whoever has not read to the end
    /// must not believe any of it.
    pub(crate) fn content(&self) -> io::Result<Box<dyn Read + Send>> {
        let (mut hash, at) = (Xxh3::new(), self.inner.content);
        hash.update(&self.piece(0, usize::try_from(at).unwrap_or(usize::MAX))?);
        Ok(Box::new(io::BufReader::with_capacity(CHUNK, Content { file: self.clone(), at, hash })))
    }
}

struct Content {
    file: SnapshotFile,
    at: u64,
    /// Of everything before `at`.
    hash: Xxh3,
}

impl Read for Content {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let Open { file, path, len, checksum, .. } = &*self.file.inner;
        let left = (len - FOOT).saturating_sub(self.at);
        let n = into.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        file.read_at(self.at, &mut into[..n])?;
        self.hash.update(&into[..n]);
        self.at += n as u64;
        // The last piece is not given away unchecked.
        if n as u64 == left && self.hash.digest() != *checksum {
            return Err(damaged(path, "it has changed since it was checked"));
        }
        Ok(n)
    }
}

/// A snapshot file being written. Dropped unfinished, it is removed.
pub(crate) struct Incoming {
    disk: Arc<dyn Disk>,
    home: Arc<()>,
    file: Option<Box<dyn DiskFile>>,
    path: PathBuf,
    buffer: BytesMut,
    len: u64,
    written: u64,
    hash: Xxh3,
}

impl Incoming {
    fn flush_buffer(&mut self) -> io::Result<()> {
        if let Some(file) = &self.file {
            file.write_at(self.written, &self.buffer).map_err(named(&self.path))?;
        }
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Syncs, and checks that it is whole.
    pub(crate) fn finish(mut self) -> io::Result<SnapshotFile> {
        self.flush_buffer()?;
        if let Some(file) = &self.file {
            file.sync_data().map_err(named(&self.path))?;
        }
        let file = open_as(&*self.disk, &self.path, &self.home, Some(Arc::clone(&self.disk)))?;
        self.file = None;
        Ok(file)
    }
}

impl Write for Incoming {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hash.update(bytes);
        self.len += bytes.len() as u64;
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= CHUNK {
            self.flush_buffer()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.flush_buffer()
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if self.file.take().is_some()
            && let Err(e) = self.disk.remove(&self.path)
        {
            tracing::warn!(path = %self.path.display(), error = %e, "an unfinished snapshot stays until the next start");
        }
    }
}

#[cfg(test)]
mod tests;
