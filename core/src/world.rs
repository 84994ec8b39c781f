//! The outside world behind traits, so that production and the simulator run the same assembly:
//! disk, entropy, threads, task spawner. (The network seam is `server`'s; it needs an async runtime.)

use std::{io, path::Path};

use crate::BoxFuture;

/// Random bytes for ids, nonces and jitter.
pub trait Entropy: Send + Sync + 'static {
    /// 64 random bits.
    fn next_u64(&self) -> u64;
    /// 128 random bits.
    fn next_u128(&self) -> u128 {
        (u128::from(self.next_u64()) << 64) | u128::from(self.next_u64())
    }
}

/// Starts named threads that live as long as the process part they serve. In production each is an OS
/// thread; a simulator has none and runs their work as tasks, so work that goes on is a future here.
pub trait Threads: Send + Sync + 'static {
    /// Runs `body` on a thread of its own. It may block, for files only: nobody waits for it by blocking.
    fn spawn(&self, name: &str, body: Box<dyn FnOnce() + Send>) -> io::Result<()>;
    /// Runs `task` on a thread of its own. It has no timers and no sockets, only its wakers, and may
    /// block on files while it is polled.
    fn drive(&self, name: &str, task: BoxFuture<'static, ()>) -> io::Result<()>;
    /// Runs `task` on a thread with an async runtime of its own. When it ends, whatever it started there
    /// is dropped; then `gone` is called.
    fn run(&self, name: &str, task: BoxFuture<'static, ()>, gone: Box<dyn FnOnce() + Send>)
    -> io::Result<()>;
    /// How many threads this machine runs at once; at least 1.
    fn cores(&self) -> usize;
}

/// The one place where tasks start. A panic of a task is logged and counted.
pub trait Spawner: Send + Sync + 'static {
    /// Runs `task` to its end on the async runtime.
    fn spawn(&self, name: &'static str, task: BoxFuture<'static, ()>);
    /// Runs blocking work away from the async threads.
    fn spawn_blocking(&self, name: &'static str, work: Box<dyn FnOnce() + Send>);
}

/// Files, as the log and the snapshots need them. What is not synced may be lost in a power cut.
pub trait Disk: Send + Sync + 'static {
    /// Opens an existing file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Creates a file, which must not exist, with `bytes` allocated and reading as zeros.
    fn create(&self, path: &Path, bytes: u64) -> io::Result<Box<dyn DiskFile>>;
    /// Reads a whole file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// File names in a folder, sorted.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Renames within one folder; durable after [`Disk::sync_dir`].
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Creates a folder and its parents.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// Makes creations, renames and removals in a folder durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Makes everything on the file system that holds `dir` durable (syncfs; R19).
    fn sync_file_system(&self, dir: &Path) -> io::Result<()>;
    /// Takes an exclusive lock on a file, creating it and writing this process's id into it; held until
    /// the guard is dropped. `WouldBlock` if another process has it, with the id found in the message.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>>;
}

/// One open file. Positions are absolute; nothing is appended implicitly.
pub trait DiskFile: Send + Sync {
    /// Writes all of `bytes` at `offset`.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Fills `into` from `offset`; `UnexpectedEof` if the file ends before.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()>;
    /// Bytes in the file.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file holds no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        self.len().map(|n| n == 0)
    }
    /// Cuts or extends the file.
    fn set_len(&self, bytes: u64) -> io::Result<()>;
    /// Makes the file's data durable (fdatasync). After an error the file must not be used any more.
    fn sync_data(&self) -> io::Result<()>;
}
