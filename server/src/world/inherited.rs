//! The socket that a process may have inherited from its launcher: taking it over, and saying something.

use std::{
    fs, io,
    os::{
        fd::{FromRawFd, OwnedFd},
        unix::fs::{FileTypeExt, MetadataExt},
    },
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::{
    io::{FdFlags, fcntl_setfd},
    net::{SendFlags, send},
};

/// Names the inherited socket to the child: `descriptor:inode`.
pub const VARIABLE: &str = "MILLET_LAUNCHER";

/// The longest message: a member list of hundreds of addresses is far below it.
pub const MESSAGE_BYTES: usize = 64 * 1024;

/// The socket that this process was started with, if it was. Once per process.
///
/// It is closed on exec from here on: a program that this one starts is told of a descriptor that it does
/// not have, which the inode shows.
pub fn take() -> Option<OwnedFd> {
    // The descriptor belongs to the process, so there is one such mark for it.
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let said = std::env::var(VARIABLE).ok()?;
    let (descriptor, inode) = said.split_once(':')?;
    let (descriptor, inode): (i32, u64) = (descriptor.parse().ok()?, inode.parse().ok()?);
    let is_it = |found: fs::Metadata| found.file_type().is_socket() && found.ino() == inode;
    if !fs::metadata(format!("/proc/self/fd/{descriptor}")).is_ok_and(is_it) {
        tracing::info!("{VARIABLE} is meant for another process: no launcher");
        return None;
    }
    if TAKEN.swap(true, Ordering::AcqRel) {
        return None;
    }
    // SAFETY: the descriptor is open and is the socket that the launcher made (its inode); nobody but the
    // launcher's variable knows of it in this process, and the mark above lets one caller pass. No safe
    // call makes an inherited descriptor an owned one.
    #[expect(unsafe_code, reason = "no safe call takes over an inherited descriptor")]
    let socket = unsafe { OwnedFd::from_raw_fd(descriptor) };
    fcntl_setfd(&socket, FdFlags::CLOEXEC).ok()?;
    Some(socket)
}

/// Says something to the launcher; never waits. A launcher that is gone is an error and no signal.
pub fn say(socket: &OwnedFd, message: &[u8]) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    #[cfg(not(target_os = "linux"))]
    let flags = SendFlags::DONTWAIT;
    match send(socket, message, flags)? {
        n if n == message.len() => Ok(()),
        n => Err(io::Error::other(format!("{n} of {} bytes were sent", message.len()))),
    }
}
