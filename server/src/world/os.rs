//! The operating system calls that std does not have. Linux is production; macOS builds, with what it
//! offers instead. Nothing else in the workspace talks to the system directly.

use std::{fs::File, io};

use rustix::time::{ClockId, Timespec, clock_gettime};

/// Nanoseconds since boot, suspend included.
pub fn boottime_ns() -> u64 {
    #[cfg(target_os = "linux")]
    let clock = ClockId::Boottime;
    // On macOS this clock goes on in sleep.
    #[cfg(not(target_os = "linux"))]
    let clock = ClockId::Monotonic;
    nanos(clock_gettime(clock))
}

/// Nanoseconds since some start, suspend not included; for measuring.
pub fn monotonic_ns() -> u64 {
    nanos(clock_gettime(ClockId::Monotonic))
}

/// Nanoseconds since 1970, as this machine believes.
pub fn wall_ns() -> u64 {
    nanos(clock_gettime(ClockId::Realtime))
}

fn nanos(t: Timespec) -> u64 {
    let seconds = u64::try_from(t.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(t.tv_nsec).unwrap_or(0))
}

/// Reserves `bytes` of disk space for a file, which then has that length.
pub fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, bytes) {
        // Some file systems cannot; the zeros that are written next allocate as well.
        Err(rustix::io::Errno::OPNOTSUPP) => {}
        other => return Ok(other?),
    }
    file.set_len(bytes)
}

/// Makes everything on the file system of `dir` durable (R19).
pub fn sync_file_system(dir: &File) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    rustix::fs::syncfs(dir)?;
    #[cfg(not(target_os = "linux"))]
    {
        rustix::fs::sync();
        dir.sync_all()?;
    }
    Ok(())
}

/// Takes an exclusive lock on an open file, or fails with `WouldBlock`. It ends with the file.
pub fn lock_exclusive(file: &File) -> io::Result<()> {
    Ok(rustix::fs::flock(file, rustix::fs::FlockOperation::NonBlockingLockExclusive)?)
}
