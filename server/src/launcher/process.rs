//! The process work of a launcher: starts the child, listens to it, reaps, passes signals on, and does what
//! the watch says.

use std::{
    ffi::OsString,
    future::{pending, poll_fn},
    io,
    os::unix::process::CommandExt,
    pin::Pin,
    process::Command,
    task::Poll,
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::Sleep,
};

use super::{
    closing,
    message::Said,
    watch::{Effect, Seen, Watch},
};
use crate::world::launch::{self, Received, Socket};

/// Messages that are heard in one go when the child has ended; a node has said a handful.
const LAST_WORDS: usize = 64;

/// Why nothing ran.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// Nothing to run was named.
    #[error("no command; write it behind --, as in: millet run -- ./server --port 7400")]
    NoCommand,
    /// The command could not be started.
    #[error("cannot start {command:?}: {source}")]
    Command {
        /// Its name.
        command: OsString,
        /// What the system said.
        source: io::Error,
    },
    /// The launcher itself could not go on.
    #[error("the launcher failed at {what}: {source}")]
    System {
        /// What.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl LaunchError {
    /// The exit code, as shells have it: 127 no such command, 126 not to be run, 125 the launcher.
    pub fn code(&self) -> u8 {
        match self {
            Self::Command { source, .. } if source.kind() == io::ErrorKind::NotFound => 127,
            Self::Command { .. } => 126,
            Self::NoCommand | Self::System { .. } => 125,
        }
    }
}

/// Runs a command to its end and returns its exit code, or 128 and the signal that ended it. Signals pass
/// through to it; orphans are reaped, so that this may be the first process of a container.
///
/// # Errors
/// The command could not be started.
pub fn run(command: &[OsString]) -> Result<u8, LaunchError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(system("starting its runtime"))?.block_on(supervise(command))
}

fn system(what: &'static str) -> impl Fn(io::Error) -> LaunchError {
    move |source| LaunchError::System { what, source }
}

async fn supervise(command: &[OsString]) -> Result<u8, LaunchError> {
    let [name, args @ ..] = command else { return Err(LaunchError::NoCommand) };
    // Before there is a child: the end of none may be missed.
    let mut signals = Signals::new().map_err(system("listening for signals"))?;
    let (socket, theirs) = launch::pair().map_err(system("making a socket"))?;
    let child = launch::spawn(Command::new(name).args(args).process_group(0), theirs)
        .map_err(|source| LaunchError::Command { command: name.clone(), source })?;
    let child = i32::try_from(child.id()).unwrap_or(i32::MAX);
    launch::give_terminal(child);
    let mut launcher = Launcher { child, watch: Watch::new(child), socket, deaf: false, waiting: None };
    loop {
        if let Some(code) = launcher.next(&mut signals).await? {
            return Ok(code);
        }
    }
}

/// A launcher at work.
struct Launcher {
    child: i32,
    watch: Watch,
    socket: Socket,
    /// The socket is not listened to any more: its end was seen, or it failed and its end never will be.
    deaf: bool,
    /// Runs while the end of the socket is waited for, once the child is gone.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl Launcher {
    /// Waits until something happens and deals with it; the exit code if that was the end.
    async fn next(&mut self, signals: &mut Signals) -> Result<Option<u8>, LaunchError> {
        let enough = async {
            match &mut self.waiting {
                Some(limit) => limit.await,
                None => pending().await,
            }
        };
        let seen = tokio::select! {
            signal = signals.next() => match signal {
                Happened::Signal(signal) => Some(Seen::Signal(signal)),
                Happened::ChildEnded => return self.reap().await,
            },
            received = self.socket.receive(), if !self.deaf => self.heard(received),
            () = enough => {
                let sessions: Vec<_> = self.watch.sessions().collect();
                tracing::warn!(?sessions, "another process still has the child's socket: nothing is closed");
                Some(Seen::WaitedEnough)
            }
        };
        match seen {
            Some(seen) => Ok(self.take(seen).await),
            None => Ok(None),
        }
    }

    /// Feeds the watch and does what it says; the exit code if that was the end.
    async fn take(&mut self, seen: Seen) -> Option<u8> {
        match self.watch.on(seen)? {
            Effect::Forward(signal) => {
                if let Err(e) = launch::forward(self.child, signal) {
                    tracing::warn!(signal, error = %e, "a signal could not be passed on");
                }
            }
            Effect::Refused { from, session } => {
                let child = self.child;
                tracing::warn!(
                    from,
                    child,
                    session,
                    "not the process that was launched: its session will not be closed; start the node with exec"
                );
            }
            Effect::AwaitEndOfFile(limit) => {
                tracing::info!(?limit, "another process has the child's socket: waiting for its end");
                self.waiting = Some(Box::pin(tokio::time::sleep(limit)));
            }
            Effect::Close(sessions, code) => {
                closing::close(&sessions).await;
                return Some(code);
            }
            Effect::Leave(code) => return Some(code),
        }
        None
    }

    /// Reaps whatever has ended. What the child said is heard first, while its number is its own.
    async fn reap(&mut self) -> Result<Option<u8>, LaunchError> {
        if launch::has_ended(self.child).unwrap_or(false) {
            for _ in 0..LAST_WORDS {
                match self.socket.try_receive() {
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                    _ if self.deaf => break,
                    received => {
                        if let Some(seen) = self.heard(received) {
                            self.take(seen).await;
                        }
                    }
                }
            }
        }
        while let Some((pid, exit)) = launch::reap().map_err(system("waiting for its child"))? {
            if pid == self.child {
                tracing::info!(pid, ?exit, "the child has ended");
                return Ok(self.take(Seen::Reaped(exit)).await);
            }
            tracing::debug!(pid, ?exit, "an orphan has ended");
        }
        Ok(None)
    }

    /// What came over the socket; `None` if that says nothing.
    fn heard(&mut self, received: io::Result<Received>) -> Option<Seen> {
        match received {
            Ok(Received::EndOfFile) => {
                self.deaf = true;
                Some(Seen::EndOfFile)
            }
            Ok(Received::Message { from, bytes }) => {
                let said = Said::read(&bytes);
                if said.is_none() {
                    tracing::warn!(from, "cannot read a message: are launcher and node of one release?");
                }
                Some(Seen::Said { from, said: said? })
            }
            Err(e) => {
                self.deaf = true;
                tracing::error!(error = %e, "the child's socket failed: its sessions will expire by themselves");
                None
            }
        }
    }
}

/// What a launcher is woken by.
enum Happened {
    /// To be passed on.
    Signal(i32),
    ChildEnded,
}

/// The signals that a launcher listens for.
struct Signals(Vec<(SignalKind, Signal)>);

impl Signals {
    fn new() -> io::Result<Self> {
        let kinds = [
            SignalKind::child(),
            SignalKind::terminate(),
            SignalKind::interrupt(),
            SignalKind::hangup(),
            SignalKind::quit(),
            SignalKind::user_defined1(),
            SignalKind::user_defined2(),
            SignalKind::window_change(),
        ];
        kinds.into_iter().map(|kind| Ok((kind, signal(kind)?))).collect::<io::Result<_>>().map(Self)
    }

    async fn next(&mut self) -> Happened {
        let kind = poll_fn(|cx| {
            let came = self.0.iter_mut().find_map(|(kind, s)| s.poll_recv(cx).is_ready().then_some(*kind));
            came.map_or(Poll::Pending, Poll::Ready)
        })
        .await;
        match kind {
            kind if kind == SignalKind::child() => Happened::ChildEnded,
            kind => Happened::Signal(kind.as_raw_value()),
        }
    }
}
