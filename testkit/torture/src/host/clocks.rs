//! Wrong clocks for one process, by libfaketime: a wall clock that jumps while it runs, or all clocks at
//! another rate from its start on.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::Need;

/// Where distributions put the library for programs with threads.
const PLACES: [&str; 4] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib64/faketime/libfaketimeMT.so.1",
    "/usr/lib/faketime/libfaketimeMT.so.1",
];

/// The library, or what is missing.
pub fn library() -> Need<PathBuf> {
    let found = PLACES.iter().map(PathBuf::from).find(|p| p.is_file());
    found.ok_or_else(|| "libfaketime".into())
}

/// The clocks of one life of a process. Both kinds need a new process.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Clocks {
    /// The machine's.
    #[default]
    True,
    /// The wall clock reads what a file says, `+3600s` say; the others are the machine's.
    Jumping,
    /// Every clock runs at so many thousandths of the machine's.
    Rate(u64),
}

impl Clocks {
    /// The environment of such a process.
    pub fn environment(self, library: &Path, file: &Path) -> Vec<(&'static str, String)> {
        let preload = ("LD_PRELOAD", library.display().to_string());
        match self {
            Self::True => Vec::new(),
            Self::Jumping => vec![
                preload,
                ("FAKETIME_TIMESTAMP_FILE", file.display().to_string()),
                ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
                ("FAKETIME_CACHE_DURATION", "1".into()),
            ],
            Self::Rate(thousandths) => {
                vec![preload, ("FAKETIME", format!("+0 x{}.{:03}", thousandths / 1000, thousandths % 1000))]
            }
        }
    }
}

/// Sets the wall clock of a process with [`Clocks::Jumping`], within a second.
pub fn jump(file: &Path, seconds: i64) -> Result<()> {
    // Renamed into place: the library must not read half a number.
    let next = file.with_extension("next");
    std::fs::write(&next, format!("{seconds:+}s\n")).context("setting a clock")?;
    std::fs::rename(&next, file).context("setting a clock")
}
