//! Why a log cannot be opened. What goes wrong later stops the member.

use std::{io, path::PathBuf};

/// Why [`super::Wal::open`] refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The disk failed.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// Another process has the log open.
    #[error("{path} is in use: {source}; stop that process, or give this member another data directory", path = path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// Names the process.
        source: io::Error,
    },
    /// Acknowledged records are damaged: not a torn tail, which would have been cut (R20).
    #[error(
        "{file} is damaged at byte {offset}: {why}; this member's log can no longer be trusted: replace the member (`milletctl member replace`) and let the new one start with an empty data directory",
        file = file.display()
    )]
    Damaged {
        /// The segment.
        file: PathBuf,
        /// Where the first bad record starts.
        offset: u64,
        /// What is wrong.
        why: String,
    },
    /// Written by a later release.
    #[error("{file} has log format {found}, this release reads up to {known}; run the release that wrote it, or a later one", file = file.display())]
    Version {
        /// The segment.
        file: PathBuf,
        /// Its format.
        found: u32,
        /// The latest known.
        known: u32,
    },
}

impl LogError {
    pub(super) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}
