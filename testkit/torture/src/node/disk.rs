//! The real disk, on a machine whose power is cut by unmounting a file system: the kernel lives on, so the
//! boot id is made to change.

use std::{io, path::Path};

use millet::world::RealDisk;
use millet_core::world::{Disk, DiskFile};

/// The real disk with a boot id of its own.
pub struct Rebooting {
    /// Does the work.
    pub disk: RealDisk,
    /// Power cuts so far.
    pub boots: u64,
}

impl Disk for Rebooting {
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.disk.open(path)
    }
    fn create(&self, path: &Path, bytes: u64) -> io::Result<Box<dyn DiskFile>> {
        self.disk.create(path, bytes)
    }
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.disk.read(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.disk.list(dir)
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
        self.disk.sync_file_system(dir)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        self.disk.lock(path)
    }
    fn boot_id(&self) -> io::Result<String> {
        Ok(format!("{}+{}", self.disk.boot_id()?, self.boots))
    }
}
