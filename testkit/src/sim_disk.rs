//! A disk in memory that forgets: what was not synced may be gone after a power cut. It fails when
//! told to. Files are the log's and the snapshots'; there are no permissions and no links.
//!
//! The model is as hostile as POSIX allows: a new file needs a sync of its own *and* of its folder,
//! unsynced writes survive in any subset and may be torn at sectors, a failed sync loses its writes.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use millet_core::world::{Disk, DiskFile};
use parking_lot::Mutex;

use crate::SeededEntropy;

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;

/// What a power cut leaves of what was not synced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cut {
    /// Nothing: every unsynced write, creation, rename and removal is undone.
    DropUnsynced,
    /// Some, drawn from the seed: any subset of a file's writes, each possibly torn at a sector, and a
    /// prefix of each folder's changes.
    KeepSome(u64),
    /// Everything, as after a kill of the process alone: the page cache survives.
    ProcessOnly,
}

/// The disk. Clones are the same disk.
#[derive(Clone, Default)]
pub struct SimDisk(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    files: BTreeMap<u64, File>,
    next_file: u64,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    name_changes: Vec<NameChange>,
    dirs: BTreeSet<PathBuf>,
    locks: BTreeSet<PathBuf>,
    /// Rises with every cut: handles from before are dead.
    life: u64,
    boots: u64,
    syncs: u64,
    changes: u64,
    faults: Faults,
}

#[derive(Default)]
struct Faults {
    /// The n-th sync from now (0: the next) fails, and so do all after it.
    sync_in: Option<u64>,
    /// The n-th write from now fails with "no space", and so do all after it.
    write_in: Option<u64>,
    /// The power goes at the n-th change from now: it and everything after fails.
    off_in: Option<u64>,
    off: bool,
}

#[derive(Default)]
struct File {
    now: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
}

enum Change {
    Write(usize, Vec<u8>),
    Len(usize),
}

#[derive(Clone)]
struct NameChange {
    dir: PathBuf,
    add: Option<(PathBuf, u64)>,
    remove: Option<PathBuf>,
}

impl SimDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cuts the power (or kills the process) and starts the machine again: handles and locks of before
    /// are dead, faults are gone, and after a real cut the boot id is another.
    pub fn power_cut(&self, cut: Cut) {
        let s = &mut *self.0.lock();
        s.life += 1;
        s.locks.clear();
        s.faults = Faults::default();
        if cut != Cut::ProcessOnly {
            s.boots += 1;
            s.forget(cut);
        }
    }

    /// Lets the sync after `more` successful ones fail with an input/output error, and all later ones.
    pub fn fail_sync_after(&self, more: u64) {
        self.0.lock().faults.sync_in = Some(more);
    }

    /// Lets the write (or creation) after `more` successful ones fail: no space left.
    pub fn fail_write_after(&self, more: u64) {
        self.0.lock().faults.write_in = Some(more);
    }

    /// Lets the power go after `more` changes (writes, syncs, creations, renames, removals): from then on
    /// everything fails until [`SimDisk::power_cut`].
    pub fn power_off_after(&self, more: u64) {
        self.0.lock().faults.off_in = Some(more);
    }

    /// Whether the power is off.
    pub fn is_off(&self) -> bool {
        self.0.lock().faults.off
    }

    /// Turns over one bit of a file, on the platter.
    ///
    /// # Panics
    /// If there is no such file or byte.
    pub fn flip_bit(&self, path: &Path, byte: u64, bit: u8) {
        let s = &mut *self.0.lock();
        let id = s.names[path];
        let file = s.files.get_mut(&id).expect("names name files");
        let at = usize::try_from(byte).expect("small files");
        file.now[at] ^= 1 << bit;
        if let Some(b) = file.durable.get_mut(at) {
            *b ^= 1 << bit;
        }
    }

    /// Successful syncs of files so far.
    pub fn sync_count(&self) -> u64 {
        self.0.lock().syncs
    }

    /// Changes so far, as [`SimDisk::power_off_after`] counts them.
    pub fn change_count(&self) -> u64 {
        self.0.lock().changes
    }

    /// All file paths, sorted.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.0.lock().names.keys().cloned().collect()
    }
}

impl State {
    /// Counts a change; fails if the power is, or now goes, off.
    fn change(&mut self) -> io::Result<()> {
        self.powered()?;
        if count_down(&mut self.faults.off_in) {
            self.faults.off = true;
        }
        self.powered()?;
        self.changes += 1;
        Ok(())
    }

    fn powered(&self) -> io::Result<()> {
        if self.faults.off { Err(io::Error::other("the power is off")) } else { Ok(()) }
    }

    fn write_fault(&mut self) -> io::Result<()> {
        if count_down(&mut self.faults.write_in) {
            self.faults.write_in = Some(0);
            return Err(io::Error::from_raw_os_error(28)); // ENOSPC
        }
        Ok(())
    }

    fn sync_fault(&mut self) -> io::Result<()> {
        if count_down(&mut self.faults.sync_in) {
            self.faults.sync_in = Some(0);
            return Err(io::Error::from_raw_os_error(5)); // EIO
        }
        Ok(())
    }

    fn find(&self, path: &Path) -> io::Result<u64> {
        self.powered()?;
        self.names
            .get(path)
            .copied()
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no file {}", path.display())))
    }

    fn rename(&mut self, add: Option<(PathBuf, u64)>, remove: Option<PathBuf>) {
        if let Some(from) = &remove {
            self.names.remove(from);
        }
        if let Some((to, id)) = &add {
            self.names.insert(to.clone(), *id);
        }
        let any = add.as_ref().map(|a| &a.0).or(remove.as_ref()).expect("a change names a file");
        let dir = any.parent().unwrap_or(Path::new("")).to_owned();
        self.name_changes.push(NameChange { dir, add, remove });
    }

    fn sync_names(&mut self, dir: Option<&Path>) {
        let (mine, rest) =
            std::mem::take(&mut self.name_changes).into_iter().partition(|c| dir.is_none_or(|d| c.dir == d));
        self.name_changes = rest;
        let mine: Vec<NameChange> = mine;
        for change in &mine {
            change.apply(&mut self.durable_names);
        }
    }

    fn forget(&mut self, cut: Cut) {
        let dice = match cut {
            Cut::KeepSome(seed) => Some(SeededEntropy::new(seed)),
            Cut::DropUnsynced | Cut::ProcessOnly => None,
        };
        let changes = std::mem::take(&mut self.name_changes);
        if let Some(dice) = &dice {
            // Folders journal their changes in order: a prefix survives.
            let mut ended: BTreeSet<PathBuf> = BTreeSet::new();
            for change in changes {
                if ended.contains(&change.dir) || dice.below(2) == 0 {
                    ended.insert(change.dir);
                } else {
                    change.apply(&mut self.durable_names);
                }
            }
        }
        self.names = self.durable_names.clone();
        let named: BTreeSet<u64> = self.names.values().copied().collect();
        self.files.retain(|id, _| named.contains(id));
        for file in self.files.values_mut() {
            for change in std::mem::take(&mut file.pending) {
                if let Some(dice) = &dice {
                    change.survive(&mut file.durable, dice);
                }
            }
            file.now = file.durable.clone();
        }
    }
}

/// Whether the count has run out; `None` never does.
fn count_down(left: &mut Option<u64>) -> bool {
    match left {
        Some(0) => true,
        Some(n) => {
            *n -= 1;
            false
        }
        None => false,
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<PathBuf, u64>) {
        if let Some(from) = &self.remove {
            names.remove(from);
        }
        if let Some((to, id)) = &self.add {
            names.insert(to.clone(), *id);
        }
    }
}

impl Change {
    fn apply(&self, to: &mut Vec<u8>) {
        match self {
            Self::Write(at, bytes) => put(to, *at, bytes),
            Self::Len(n) => to.resize(*n, 0),
        }
    }

    /// The part of it that a power cut leaves: sector by sector, any subset, mostly all or nothing.
    fn survive(&self, to: &mut Vec<u8>, dice: &SeededEntropy) {
        match (self, dice.below(3)) {
            (_, 0) => {}
            (Self::Len(_), _) | (_, 1) => self.apply(to),
            (Self::Write(at, bytes), _) => {
                let mut done = 0;
                while done < bytes.len() {
                    let end = bytes.len().min((*at + done) / SECTOR * SECTOR + SECTOR - *at);
                    if dice.below(2) == 0 {
                        put(to, *at + done, &bytes[done..end]);
                    }
                    done = end;
                }
            }
        }
    }
}

fn put(to: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    let end = at + bytes.len();
    if to.len() < end {
        to.resize(end, 0);
    }
    to[at..end].copy_from_slice(bytes);
}

fn small(n: u64) -> usize {
    usize::try_from(n).expect("simulated files are small")
}

impl Disk for SimDisk {
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let s = self.0.lock();
        Ok(Box::new(Handle { disk: self.clone(), id: s.find(path)?, life: s.life }))
    }

    fn create(&self, path: &Path, bytes: u64) -> io::Result<Box<dyn DiskFile>> {
        let s = &mut *self.0.lock();
        s.change()?;
        s.write_fault()?;
        if s.names.contains_key(path) {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{} exists", path.display())));
        }
        if !s.dirs.contains(path.parent().unwrap_or(Path::new(""))) {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("no folder for {}", path.display())));
        }
        let id = s.next_file;
        s.next_file += 1;
        let len = small(bytes);
        s.files.insert(id, File { now: vec![0; len], durable: Vec::new(), pending: vec![Change::Len(len)] });
        s.rename(Some((path.to_owned(), id)), None);
        Ok(Box::new(Handle { disk: self.clone(), id, life: s.life }))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let s = self.0.lock();
        Ok(s.files[&s.find(path)?].now.clone())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let s = self.0.lock();
        s.powered()?;
        if !s.dirs.contains(dir) {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("no folder {}", dir.display())));
        }
        let names = s.names.keys().filter(|p| p.parent() == Some(dir)).filter_map(|p| p.file_name());
        Ok(names.map(|n| n.to_string_lossy().into_owned()).collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let s = &mut *self.0.lock();
        s.change()?;
        let id = s.find(from)?;
        s.rename(Some((to.to_owned(), id)), Some(from.to_owned()));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let s = &mut *self.0.lock();
        s.change()?;
        s.find(path)?;
        s.rename(None, Some(path.to_owned()));
        Ok(())
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let s = &mut *self.0.lock();
        s.change()?;
        s.dirs.extend(dir.ancestors().map(Path::to_owned));
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let s = &mut *self.0.lock();
        s.change()?;
        s.sync_fault()?;
        s.sync_names(Some(dir));
        Ok(())
    }

    fn sync_file_system(&self, _dir: &Path) -> io::Result<()> {
        let s = &mut *self.0.lock();
        s.change()?;
        s.sync_fault()?;
        s.sync_names(None);
        for file in s.files.values_mut() {
            file.sync();
        }
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let s = &mut *self.0.lock();
        s.powered()?;
        if !s.locks.insert(path.to_owned()) {
            let why = format!("{} is locked by process {}", path.display(), std::process::id());
            return Err(io::Error::new(io::ErrorKind::WouldBlock, why));
        }
        Ok(Box::new(Lock { disk: self.clone(), path: path.to_owned(), life: s.life }))
    }

    fn boot_id(&self) -> io::Result<String> {
        let s = self.0.lock();
        s.powered()?;
        Ok(format!("boot-{}", s.boots))
    }
}

impl File {
    fn change(&mut self, change: Change) {
        change.apply(&mut self.now);
        self.pending.push(change);
    }

    fn sync(&mut self) {
        for change in std::mem::take(&mut self.pending) {
            change.apply(&mut self.durable);
        }
    }
}

struct Lock {
    disk: SimDisk,
    path: PathBuf,
    life: u64,
}

impl Drop for Lock {
    fn drop(&mut self) {
        let s = &mut *self.disk.0.lock();
        if s.life == self.life {
            s.locks.remove(&self.path);
        }
    }
}

/// An open file. Dead after a cut, like the process that had it.
struct Handle {
    disk: SimDisk,
    id: u64,
    life: u64,
}

impl Handle {
    fn with<T>(&self, f: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let s = &mut *self.disk.0.lock();
        if s.life != self.life {
            return Err(io::Error::other("this file was opened before the power cut"));
        }
        s.powered()?;
        f(s)
    }

    fn file<'a>(&self, s: &'a mut State) -> &'a mut File {
        s.files.get_mut(&self.id).expect("files live until a cut")
    }
}

impl DiskFile for Handle {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.with(|s| {
            s.change()?;
            s.write_fault()?;
            self.file(s).change(Change::Write(small(offset), bytes.to_vec()));
            Ok(())
        })
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.with(|s| {
            let file = self.file(s);
            let from = small(offset);
            let part = file.now.get(from..from + into.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
            into.copy_from_slice(part);
            Ok(())
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.with(|s| Ok(self.file(s).now.len() as u64))
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.with(|s| {
            s.change()?;
            self.file(s).change(Change::Len(small(bytes)));
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(|s| {
            s.change()?;
            if let Err(e) = s.sync_fault() {
                // As on Linux: the pages count as clean, and what they held never reaches the disk.
                self.file(s).pending.clear();
                return Err(e);
            }
            s.syncs += 1;
            self.file(s).sync();
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk_with(path: &Path) -> (SimDisk, Box<dyn DiskFile>) {
        let disk = SimDisk::new();
        disk.create_dir(Path::new("/d")).unwrap();
        let file = disk.create(path, 8).unwrap();
        (disk, file)
    }

    #[test]
    fn what_was_synced_survives_a_cut_and_the_rest_does_not() {
        let path = Path::new("/d/a");
        let (disk, file) = disk_with(path);
        file.write_at(0, b"one").unwrap();
        file.sync_data().unwrap();
        disk.sync_dir(Path::new("/d")).unwrap();
        file.write_at(0, b"two").unwrap();
        disk.power_cut(Cut::DropUnsynced);
        assert_eq!(disk.read(path).unwrap(), b"one\0\0\0\0\0");
        assert!(file.sync_data().is_err(), "a handle of before the cut is dead");
        assert_eq!(disk.boot_id().unwrap(), "boot-1");
    }

    #[test]
    fn a_file_whose_folder_was_not_synced_is_gone_after_a_cut() {
        let (disk, file) = disk_with(Path::new("/d/a"));
        file.sync_data().unwrap();
        disk.power_cut(Cut::DropUnsynced);
        assert!(disk.paths().is_empty());
    }

    #[test]
    fn a_rename_survives_a_cut_only_after_its_folder_was_synced() {
        let (disk, file) = disk_with(Path::new("/d/a"));
        file.sync_data().unwrap();
        disk.sync_dir(Path::new("/d")).unwrap();
        disk.rename(Path::new("/d/a"), Path::new("/d/b")).unwrap();
        assert_eq!(disk.paths(), [Path::new("/d/b")]);
        disk.power_cut(Cut::DropUnsynced);
        assert_eq!(disk.paths(), [Path::new("/d/a")]);
    }

    #[test]
    fn the_same_seed_keeps_the_same_subset_and_seeds_differ() {
        let outcome = |seed| {
            let path = Path::new("/d/a");
            let (disk, file) = disk_with(path);
            file.sync_data().unwrap();
            disk.sync_dir(Path::new("/d")).unwrap();
            for n in 0..32u64 {
                file.write_at(n * 600, &[1; 600]).unwrap();
            }
            disk.power_cut(Cut::KeepSome(seed));
            disk.read(path).unwrap()
        };
        assert_eq!(outcome(1), outcome(1));
        assert!((2..20).any(|seed| outcome(seed) != outcome(1)));
    }

    #[test]
    fn a_failed_sync_loses_its_writes_even_if_a_later_sync_would_pass() {
        let path = Path::new("/d/a");
        let (disk, file) = disk_with(path);
        file.sync_data().unwrap();
        disk.sync_dir(Path::new("/d")).unwrap();
        file.write_at(0, b"x").unwrap();
        disk.fail_sync_after(0);
        assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(5));
        disk.power_cut(Cut::ProcessOnly);
        disk.sync_file_system(Path::new("/d")).unwrap();
        disk.power_cut(Cut::DropUnsynced);
        assert_eq!(disk.read(path).unwrap()[0], 0);
    }

    #[test]
    fn a_full_disk_fails_writes_and_a_lock_is_exclusive_until_dropped() {
        let (disk, file) = disk_with(Path::new("/d/a"));
        disk.fail_write_after(1);
        file.write_at(0, b"fits").unwrap();
        assert_eq!(file.write_at(0, b"full").unwrap_err().raw_os_error(), Some(28));
        let held = disk.lock(Path::new("/d/lock")).unwrap();
        assert_eq!(disk.lock(Path::new("/d/lock")).err().map(|e| e.kind()), Some(io::ErrorKind::WouldBlock));
        drop(held);
        assert!(disk.lock(Path::new("/d/lock")).is_ok());
    }
}
