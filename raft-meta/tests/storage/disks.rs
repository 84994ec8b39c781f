//! Disks with something odd about them; everything else is the disk below.

use std::{io, path::Path, sync::Arc};

use millet_core::world::{Disk, DiskFile};

/// What `sync_file_system` does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileSystemSync {
    /// What the disk does: `syncfs`.
    Real,
    /// `fdatasync` of sled's own file: what one might think is enough (R19).
    SledFileOnly,
    /// Nothing.
    None,
}

/// See the module.
pub struct Odd<D> {
    pub disk: D,
    pub file_system: FileSystemSync,
    /// Whether `sync_data` does anything.
    pub syncs: bool,
    /// Whether `list` finds anything.
    pub lists: bool,
}

impl<D: Disk> Odd<D> {
    /// The control: a log that writes and does not sync.
    pub fn unsynced(disk: D) -> Arc<dyn Disk> {
        Arc::new(Self { disk, file_system: FileSystemSync::Real, syncs: false, lists: true })
    }

    /// Every folder seems empty.
    pub fn blind(disk: D) -> Arc<dyn Disk> {
        Arc::new(Self { disk, file_system: FileSystemSync::Real, syncs: true, lists: false })
    }

    fn file(&self, file: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        if self.syncs { file } else { Box::new(Unsynced(file)) }
    }
}

impl<D: Disk> Disk for Odd<D> {
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.disk.open(path).map(|f| self.file(f))
    }
    fn create(&self, path: &Path, bytes: u64) -> io::Result<Box<dyn DiskFile>> {
        self.disk.create(path, bytes).map(|f| self.file(f))
    }
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.disk.read(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        if self.lists { self.disk.list(dir) } else { Ok(Vec::new()) }
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.create_dir(dir)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.sync_dir(dir)
    }
    fn sync_file_system(&self, dir: &Path) -> io::Result<()> {
        match self.file_system {
            FileSystemSync::Real => self.disk.sync_file_system(dir),
            FileSystemSync::SledFileOnly => self.disk.open(&dir.join("db/db"))?.sync_data(),
            FileSystemSync::None => Ok(()),
        }
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        self.disk.lock(path)
    }
}

/// A file whose sync does nothing.
struct Unsynced(Box<dyn DiskFile>);

impl DiskFile for Unsynced {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, bytes)
    }
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, into)
    }
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }
    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }
}
