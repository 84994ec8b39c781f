//! Decoders that nobody outside this crate may name, for the fuzz targets (`fuzz/`). Each takes any bytes and
//! panics if what was accepted does not come back the same. Built with the feature `fuzzing` only.

use std::{
    io::{self, Read as _},
    path::Path,
    sync::Arc,
};

use millet_core::world::Disk;

use crate::{
    log::GroupId,
    raft::{self, SnapshotFiles},
    state,
};

/// Raft entries, log ids, votes and messages between members.
pub fn raft(bytes: &[u8], index: u64) {
    raft::any_bytes(bytes, index);
}

/// Rows of the state engine, and its mark.
pub fn rows(bytes: &[u8]) {
    state::any_bytes(bytes);
}

/// Opens a folder of snapshot files as a member does at its start, and reads all of group 0's current one:
/// its index, and what the machine wrote.
///
/// # Errors
/// It is damaged.
pub fn snapshot(disk: Arc<dyn Disk>, dir: &Path) -> io::Result<Option<(u64, Vec<u8>)>> {
    let Some(file) = SnapshotFiles::open(disk, dir.to_owned(), GroupId(0))?.current()? else {
        return Ok(None);
    };
    let mut content = Vec::new();
    file.content()?.read_to_end(&mut content)?;
    Ok(Some((file.applied().index, content)))
}
