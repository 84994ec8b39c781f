//! A disk in memory that forgets: what was not synced may be gone after a power cut. It fails when
//! told to. Files are the log's and the snapshots'; there are no permissions and no links.
//!
//! The model is as hostile as POSIX allows: a new file needs a sync of its own *and* of its folder,
//! unsynced writes survive in any subset and may be torn at sectors, a failed sync loses its writes.

mod disk;

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

#[derive(Clone, Default)]
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
    syncs: u64,
    retried: u64,
    changes: u64,
    faults: Faults,
}

#[derive(Clone, Default)]
struct Faults {
    /// The n-th sync from now (0: the next) fails, and so do all after it.
    sync_in: Option<u64>,
    /// The n-th write from now fails with "no space", and so do all after it.
    write_in: Option<u64>,
    /// The power goes at the n-th change from now: it and everything after fails.
    off_in: Option<u64>,
    off: bool,
}

#[derive(Clone, Default)]
struct File {
    now: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
    /// A sync of it has failed: whoever tries again believes that a later success means something.
    lost: bool,
}

#[derive(Clone)]
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

    /// Another disk with the same content, faults and unsynced writes. Whoever still runs on this one,
    /// threads of a process that counts as killed, cannot touch it. Handles and locks stay here.
    pub fn fork(&self) -> Self {
        let mut state = self.0.lock().clone();
        state.life += 1;
        state.locks.clear();
        Self(Arc::new(Mutex::new(state)))
    }

    /// Cuts the power (or kills the process) and starts the machine again: handles and locks of before
    /// are dead and faults are gone.
    pub fn power_cut(&self, cut: Cut) {
        let s = &mut *self.0.lock();
        s.life += 1;
        s.locks.clear();
        s.faults = Faults::default();
        s.files.values_mut().for_each(|file| file.lost = false);
        if cut != Cut::ProcessOnly {
            s.forget(cut);
        }
    }

    /// Lets the sync after `more` successful ones fail with an input/output error, and all later ones.
    pub fn fail_sync_after(&self, more: u64) {
        self.0.lock().faults.sync_in = Some(more);
    }

    /// Lets the write (or creation) after `more` successful ones fail, half of it done: no space left. So
    /// do all later ones, until [`SimDisk::power_cut`].
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

    /// Syncs of files, one of whose syncs had failed before: a disk promises nothing for them.
    pub fn retried_syncs(&self) -> u64 {
        self.0.lock().retried
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

#[cfg(test)]
mod tests;
