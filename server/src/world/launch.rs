//! The operating system below a launcher: the socket that its child inherits, who said what over it, which
//! processes have ended, signals. What follows from it is decided in `launcher`; the child's side is
//! `inherited`. Linux only: elsewhere no kernel says who sent a message.

use std::{
    io::{self, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsRawFd, OwnedFd},
    process::{Child, Command},
};

use rustix::{
    io::{Errno, FdFlags, fcntl_setfd},
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SocketFlags,
        SocketType, recvmsg, socketpair, sockopt,
    },
    process::{Pid, Signal, WaitId, WaitIdOptions, WaitOptions, kill_process, wait, waitid},
};

use tokio::{io::Interest, net::UnixDatagram};

use super::inherited::{MESSAGE_BYTES, VARIABLE};

/// A launcher's socket and the end for its child. Messages stay apart, and the kernel says who sent each.
/// Within a tokio runtime.
pub fn pair() -> io::Result<(Socket, OwnedFd)> {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_passcred(&ours, true)?;
    let ours = std::os::unix::net::UnixDatagram::from(ours);
    ours.set_nonblocking(true)?;
    Ok((Socket(UnixDatagram::from_std(ours)?), theirs))
}

/// The launcher's end of a [`pair`].
#[derive(Debug)]
pub struct Socket(UnixDatagram);

impl Socket {
    /// The next message, or the end.
    ///
    /// Cancel safety: nothing is taken from the socket unless it is returned.
    pub async fn receive(&self) -> io::Result<Received> {
        self.0.async_io(Interest::READABLE, || receive(&self.0)).await
    }

    /// What lies in the socket; `WouldBlock` if nothing does.
    pub fn try_receive(&self) -> io::Result<Received> {
        receive(&self.0)
    }
}

/// Starts a command that inherits `socket`; afterwards only the command has it.
pub fn spawn(command: &mut Command, socket: OwnedFd) -> io::Result<Child> {
    let inode = rustix::fs::fstat(&socket)?.st_ino;
    fcntl_setfd(&socket, FdFlags::empty())?;
    command.env(VARIABLE, format!("{}:{inode}", socket.as_raw_fd())).spawn()
}

/// What came over a launcher's socket.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Received {
    /// A message, and which process sent it.
    Message {
        /// As the kernel says.
        from: i32,
        /// Cut messages are empty.
        bytes: Vec<u8>,
    },
    /// Nobody has the other end any more.
    EndOfFile,
}

fn receive(socket: &UnixDatagram) -> io::Result<Received> {
    let mut bytes = vec![0; MESSAGE_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let got = recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)?;
    let from = control.drain().find_map(|m| match m {
        RecvAncillaryMessage::ScmCredentials(who) => Some(who.pid.as_raw_nonzero().get()),
        _ => None,
    });
    let Some(from) = from else {
        // Every message carries its sender; the end of the socket has none.
        return Ok(Received::EndOfFile);
    };
    bytes.truncate(if got.flags.contains(ReturnFlags::TRUNC) { 0 } else { got.bytes });
    Ok(Received::Message { from, bytes })
}

/// How a process ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Exit {
    /// By itself.
    Code(u8),
    /// By a signal.
    Signal(u8),
}

impl Exit {
    /// The exit code that says so, as shells do: the code, or 128 and the signal.
    pub fn code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 | signal,
        }
    }
}

/// Whether this child has ended; it stays to be reaped, so that its number is not given to another process.
pub fn has_ended(child: i32) -> io::Result<bool> {
    let Some(pid) = Pid::from_raw(child) else { return Ok(false) };
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    Ok(waitid(WaitId::Pid(pid), options)?.is_some())
}

/// Reaps one ended child, an orphan that was inherited included: its number, and how it ended.
pub fn reap() -> io::Result<Option<(i32, Exit)>> {
    let (pid, status) = match wait(WaitOptions::NOHANG) {
        Ok(Some(ended)) => ended,
        Ok(None) | Err(Errno::CHILD) => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    let small = |n: i32| u8::try_from(n).unwrap_or(u8::MAX);
    let exit = match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Exit::Code(small(code)),
        (None, signal) => Exit::Signal(signal.map_or(0, small)),
    };
    Ok(Some((pid.as_raw_nonzero().get(), exit)))
}

/// Passes a signal on to a child that has not been reaped.
pub fn forward(child: i32, signal: i32) -> io::Result<()> {
    match (Pid::from_raw(child), Signal::from_named_raw(signal)) {
        (Some(pid), Some(signal)) => Ok(kill_process(pid, signal)?),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

/// Gives the terminal, if this process was started from one, to a child in a group of its own: keys such as
/// Ctrl-C then reach the child once, and it may read.
pub fn give_terminal(child: i32) {
    let stdin = io::stdin();
    if let Some(pid) = Pid::from_raw(child)
        // Whoever has not the terminal would be stopped for giving it away.
        && rustix::termios::tcgetpgrp(&stdin).is_ok_and(|group| group == rustix::process::getpgrp())
        && let Err(e) = rustix::termios::tcsetpgrp(&stdin, pid)
    {
        tracing::debug!(error = %e, "the terminal stays with the launcher");
    }
}

#[cfg(test)]
mod tests {
    use super::{super::inherited::say, *};

    #[tokio::test]
    async fn messages_name_their_sender_and_the_end_has_none() {
        let (ours, theirs) = pair().expect("a pair");
        assert_eq!(ours.try_receive().expect_err("empty").kind(), io::ErrorKind::WouldBlock);
        say(&theirs, b"hello").expect("said");
        say(&theirs, b"").expect("said");
        let copy = theirs.try_clone().expect("a copy");
        drop(theirs);
        let me = i32::try_from(std::process::id()).expect("a pid");
        let message = |bytes: &[u8]| Received::Message { from: me, bytes: bytes.to_vec() };
        assert_eq!(ours.try_receive().expect("received"), message(b"hello"));
        assert_eq!(ours.try_receive().expect("received"), message(b""), "an empty message is no end");
        assert_eq!(ours.try_receive().expect_err("held").kind(), io::ErrorKind::WouldBlock);
        drop(copy);
        assert_eq!(ours.try_receive().expect("received"), Received::EndOfFile);
    }

    #[tokio::test]
    async fn a_launcher_that_is_gone_is_an_error() {
        let (ours, theirs) = pair().expect("a pair");
        drop(ours);
        assert_eq!(say(&theirs, b"hello").expect_err("gone").kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn exit_codes_are_those_of_shells() {
        assert_eq!(
            [Exit::Code(0), Exit::Code(7), Exit::Signal(9), Exit::Signal(15)].map(Exit::code),
            [0, 7, 137, 143]
        );
    }
}
