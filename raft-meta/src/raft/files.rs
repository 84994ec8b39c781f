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
    if hash.digest() != end.get_u64_le() {
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

    /// What the machine wrote.
    pub(crate) fn content(&self) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(io::BufReader::with_capacity(
            CHUNK,
            Content { file: self.clone(), at: self.inner.content },
        )))
    }
}

struct Content {
    file: SnapshotFile,
    at: u64,
}

impl Read for Content {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = (self.file.inner.len - FOOT).saturating_sub(self.at);
        let n = into.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        self.file.inner.file.read_at(self.at, &mut into[..n])?;
        self.at += n as u64;
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
mod tests {
    use millet_testkit::{Cut, SimDisk};

    use super::*;

    const GROUP: GroupId = GroupId(1);

    fn files(disk: &SimDisk) -> io::Result<SnapshotFiles> {
        SnapshotFiles::open(Arc::new(disk.clone()), PathBuf::from("/snapshots"), GROUP)
    }

    /// A picture of `len` bytes as of `index`.
    struct Picture(u64, usize);

    impl Picture {
        fn content(&self) -> Vec<u8> {
            (0..self.1).map(|n| ((n as u64 * self.0) >> 3) as u8).collect()
        }
    }

    impl SnapshotSource for Picture {
        fn applied(&self) -> Applied {
            let (log_id, membership) =
                (Bytes::from(format!("id {}", self.0)), Bytes::from_static(b"members"));
            Applied { index: self.0, log_id, membership }
        }
        fn write_to(&mut self, to: &mut dyn Write) -> io::Result<()> {
            self.content().chunks(100_000).try_for_each(|part| to.write_all(part))
        }
    }

    fn content(file: &SnapshotFile) -> Vec<u8> {
        let mut content = Vec::new();
        file.content().unwrap().read_to_end(&mut content).unwrap();
        content
    }

    #[test]
    fn a_snapshot_is_read_back_as_written_and_an_older_one_is_kept_out() {
        let disk = SimDisk::new();
        let kept = files(&disk).unwrap();
        for (index, len) in [(5, 0), (7, 700_000)] {
            kept.write(Box::new(Picture(index, len))).unwrap();
            let again = files(&disk).unwrap().current().unwrap().unwrap();
            assert_eq!(again.applied(), &Picture(index, len).applied());
            assert!(content(&again) == Picture(index, len).content());
        }
        assert_eq!(kept.write(Box::new(Picture(6, 10))).unwrap().applied().index, 7);
        assert_eq!(disk.paths().len(), 1, "{:?}", disk.paths());
    }

    /// R19: the log is purged up to the current file, so a power cut at any moment leaves the one before
    /// or the new one, whole.
    #[test]
    fn r19_a_power_cut_at_any_moment_leaves_the_old_or_the_new_snapshot_whole() {
        let mut seen = [0, 0];
        for seed in 0..60u64 {
            let disk = SimDisk::new();
            files(&disk).unwrap().write(Box::new(Picture(5, 300_000))).unwrap();
            disk.power_off_after(seed % 15);
            let told = files(&disk).and_then(|f| f.write(Box::new(Picture(9, 600_000))));
            disk.power_cut(if seed % 2 == 0 { Cut::DropUnsynced } else { Cut::KeepSome(seed) });
            let current = files(&disk).unwrap().current().unwrap().expect("the first was durable");
            let (index, len) = if current.applied().index == 9 { (9, 600_000) } else { (5, 300_000) };
            seen[usize::from(index == 9)] += 1;
            assert!(index == 9 || told.is_err(), "seed {seed}: a snapshot that was reported is lost");
            assert_eq!(current.applied(), &Picture(index, len).applied());
            assert!(content(&current) == Picture(index, len).content(), "seed {seed}");
            assert_eq!(disk.paths().len(), 1, "nothing is left behind: {:?}", disk.paths());
        }
        assert!(seen[0] > 5 && seen[1] > 5, "both outcomes were met: {seen:?}");
    }

    #[test]
    fn r19_any_flipped_bit_of_a_snapshot_is_refused() {
        let disk = SimDisk::new();
        let len = files(&disk).unwrap().write(Box::new(Picture(5, 300))).unwrap().len();
        let path = disk.paths()[0].clone();
        for byte in 0..len {
            disk.flip_bit(&path, byte, (byte % 8) as u8);
            let error = files(&disk).err().unwrap_or_else(|| panic!("byte {byte} is not guarded"));
            assert!(error.to_string().contains("snapshot-1-"), "{error}");
            disk.flip_bit(&path, byte, (byte % 8) as u8);
        }
        files(&disk).unwrap();
    }

    #[test]
    fn a_full_disk_leaves_the_current_snapshot_as_it_was() {
        let disk = SimDisk::new();
        let kept = files(&disk).unwrap();
        kept.write(Box::new(Picture(5, 300_000))).unwrap();
        disk.fail_write_after(1);
        let error = kept.write(Box::new(Picture(9, 600_000))).unwrap_err().to_string();
        assert!(error.contains("/snapshots/") && error.contains("os error 28"), "{error}");
        assert!(content(&kept.current().unwrap().unwrap()) == Picture(5, 300_000).content());
        assert_eq!(disk.paths().len(), 1, "{:?}", disk.paths());
    }

    /// What another member sent is byte for byte the file it has; one cut short is refused and removed.
    #[test]
    fn a_received_snapshot_is_whole_or_refused() {
        let (from, to) = (SimDisk::new(), SimDisk::new());
        let file = files(&from).unwrap().write(Box::new(Picture(7, 1_000))).unwrap();
        let bytes = file.piece(0, usize::MAX).unwrap();
        let receiver = files(&to).unwrap();
        let mut cut = receiver.incoming().unwrap();
        cut.write_all(&bytes[..bytes.len() - 1]).unwrap();
        assert!(cut.finish().is_err());
        assert!(to.paths().is_empty(), "nothing is left of it: {:?}", to.paths());
        let mut whole = receiver.incoming().unwrap();
        whole.write_all(&bytes).unwrap();
        let kept = receiver.keep(whole.finish().unwrap()).unwrap();
        assert_eq!((kept.applied(), content(&kept)), (file.applied(), content(&file)));
        // Raft has no use for one that is older than what is committed here: it must not fill the disk.
        let mut unwanted = receiver.incoming().unwrap();
        unwanted.write_all(&bytes).unwrap();
        drop(unwanted.finish().unwrap());
        assert_eq!(to.paths().len(), 1, "{:?}", to.paths());
    }
}
