//! How an engine's folder was left. Only a clean close leaves the note `life`, and the note holds a seal
//! over what was closed; whoever opens the folder takes the note away before anything is changed. So a
//! process that was killed, a machine that went down, a sync that failed and a disk that was full all leave
//! no note, and an engine without one, or with one that does not fit, is rebuilt from snapshot and log (R19).
//!
//! What the seal covers is each engine's matter. Notes of the first format have no seal and fit nothing.

use std::{
    io::{self, ErrorKind},
    path::Path,
};

use millet_core::world::Disk;

const NOTE: &str = "life";
const TEMPORARY: &str = "life.tmp";
/// Names format and version; the seal follows.
const CLEAN: &str = "clean/2 ";

/// The seal of the clean close that the folder was left by; `None` if there was none.
pub(super) fn seal(disk: &dyn Disk, dir: &Path) -> io::Result<Option<String>> {
    match disk.read(&dir.join(NOTE)) {
        Ok(note) => Ok(std::str::from_utf8(&note)
            .ok()
            .and_then(|note| note.strip_prefix(CLEAN)?.strip_suffix('\n'))
            .map(str::to_owned)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// From here on the folder counts as open.
pub(super) fn begin(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    if remove(disk, &dir.join(NOTE))? { disk.sync_dir(dir) } else { Ok(()) }
}

/// Notes a clean close. Everything that the seal covers is durable.
pub(super) fn end(disk: &dyn Disk, dir: &Path, seal: &str) -> io::Result<()> {
    let temporary = dir.join(TEMPORARY);
    remove(disk, &temporary)?;
    let file = disk.create(&temporary, 0)?;
    file.write_at(0, format!("{CLEAN}{seal}\n").as_bytes())?;
    file.sync_data()?;
    disk.rename(&temporary, &dir.join(NOTE))?;
    disk.sync_dir(dir)
}

/// Whether it was there.
pub(super) fn remove(disk: &dyn Disk, path: &Path) -> io::Result<bool> {
    match disk.remove(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}
