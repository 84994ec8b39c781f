//! What callers and the writer thread share: the index, the bounded queue, the failure.

use std::{
    collections::{BTreeMap, VecDeque},
    future::poll_fn,
    io,
    path::{Path, PathBuf},
    task::{Context, Poll, Waker},
    thread::{self, ThreadId},
    time::Duration,
};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use super::{
    Done, GroupId, LogEntry,
    index::{Freed, Index},
    record,
    segment::Segment,
    wal::OnFatal,
};

/// One queued operation; it has taken effect in the index already.
pub(super) enum Op {
    Append {
        group: GroupId,
        entries: Vec<LogEntry>,
        ids: Vec<u64>,
    },
    Truncate {
        group: GroupId,
        last_kept: u64,
        freed: Freed,
    },
    Purge {
        group: GroupId,
        upto: u64,
        mark: Bytes,
        freed: Freed,
    },
    Vote {
        group: GroupId,
        vote: Bytes,
    },
    Committed {
        group: GroupId,
        committed: Bytes,
    },
    /// Had no effect; its caller learns it in turn.
    Refused(io::Error),
}

impl Op {
    /// Bytes on disk.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Append { entries, .. } => entries.iter().map(|e| record::size(e.payload.len())).sum(),
            Self::Truncate { .. } => record::size(0),
            Self::Purge { mark: b, .. }
            | Self::Vote { vote: b, .. }
            | Self::Committed { committed: b, .. } => record::size(b.len()),
            Self::Refused(_) => 0,
        }
    }
}

/// The part behind the lock.
pub(super) struct Memory {
    pub index: Index,
    pub segments: BTreeMap<u64, Segment>,
    queue: VecDeque<(Op, Done, usize)>,
    queued_bytes: usize,
    failed: Option<(PathBuf, io::ErrorKind, String)>,
    closed: bool,
    /// The thread that polled the writer last.
    writer: Option<ThreadId>,
    /// The writer waits for work.
    idle: Option<Waker>,
    writer_gone: bool,
}

/// See the module.
pub(super) struct Shared {
    memory: Mutex<Memory>,
    /// Callers wait here for room, and the last one for the writer's end.
    room: Condvar,
    queue_limit: usize,
    on_fatal: Option<OnFatal>,
}

impl Shared {
    pub fn new(index: Index, segments: Vec<Segment>, queue_limit: usize, on_fatal: Option<OnFatal>) -> Self {
        let memory = Memory {
            index,
            segments: segments.into_iter().map(|s| (s.sequence, s)).collect(),
            queue: VecDeque::new(),
            queued_bytes: 0,
            failed: None,
            closed: false,
            writer: None,
            idle: None,
            writer_gone: false,
        };
        Self { memory: Mutex::new(memory), room: Condvar::new(), queue_limit, on_fatal }
    }

    pub fn with<T>(&self, f: impl FnOnce(&mut Memory) -> T) -> T {
        f(&mut self.memory.lock())
    }

    /// Lets an operation take effect in the index and queues it. Waits for room, unless on the writer's
    /// own thread (a `Done` that goes on), which must not wait for itself.
    pub fn push(&self, done: Done, make: impl FnOnce(&mut Index) -> io::Result<Op>) {
        let mut m = self.memory.lock();
        while m.queued_bytes > self.queue_limit
            && m.failed.is_none()
            && m.writer != Some(thread::current().id())
        {
            self.room.wait(&mut m);
        }
        if m.writer_gone {
            let error = m.error().unwrap_or_else(|| io::Error::other("the log is closed"));
            drop(m);
            return done(Err(error));
        }
        let op = match m.error() {
            Some(error) => Op::Refused(error),
            None => make(&mut m.index).unwrap_or_else(Op::Refused),
        };
        let bytes = op.bytes();
        m.queued_bytes += bytes;
        m.queue.push_back((op, done, bytes));
        let idle = m.idle.take();
        drop(m);
        if let Some(writer) = idle {
            writer.wake();
        }
    }

    /// Waits for work and takes up to `limit` bytes of it (at least one operation). `None`: closed, and
    /// nothing is left.
    pub async fn take(&self, limit: usize) -> Option<Vec<(Op, Done)>> {
        poll_fn(|cx| self.poll_take(cx, limit)).await
    }

    fn poll_take(&self, cx: &Context<'_>, limit: usize) -> Poll<Option<Vec<(Op, Done)>>> {
        let mut m = self.memory.lock();
        m.writer = Some(thread::current().id());
        if m.queue.is_empty() {
            if m.closed {
                return Poll::Ready(None);
            }
            m.idle = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while let Some((_, _, more)) = m.queue.front() {
            if !taken.is_empty() && bytes + more > limit {
                break;
            }
            bytes += more;
            let (op, done, _) = m.queue.pop_front().expect("there is a front");
            taken.push((op, done));
        }
        m.queued_bytes -= bytes;
        drop(m);
        self.room.notify_all();
        Poll::Ready(Some(taken))
    }

    /// Stops the log for ever. The first failure stays, and is told.
    pub fn fail(&self, path: &Path, error: &io::Error) {
        let first = self.with(|m| {
            let first = m.failed.is_none();
            m.failed.get_or_insert_with(|| (path.to_owned(), error.kind(), error.to_string()));
            first
        });
        self.room.notify_all();
        if first {
            tracing::error!(path = %path.display(), %error, "the log has stopped: this member must stop");
            if let Some(tell) = &self.on_fatal {
                tell(path, error);
            }
        }
    }

    pub fn failure(&self) -> Option<(PathBuf, String)> {
        self.with(|m| m.failed.as_ref().map(|(path, _, why)| (path.clone(), why.clone())))
    }

    /// The failure as every later operation reports it.
    pub fn check(&self) -> io::Result<()> {
        self.with(|m| m.error()).map_or(Ok(()), Err)
    }

    pub fn close(&self, limit: Duration) {
        let mut m = self.memory.lock();
        m.closed = true;
        if let Some(writer) = m.idle.take() {
            writer.wake();
        }
        if m.writer != Some(thread::current().id()) {
            // A disk that hangs for longer is left to the process's end.
            let _ = self.room.wait_while_for(&mut m, |m| !m.writer_gone, limit);
        }
    }

    /// The writer's last word. What was queued after it stopped looking is refused.
    pub fn writer_ends(&self) {
        let left = self.with(|m| {
            m.writer_gone = true;
            std::mem::take(&mut m.queue)
        });
        self.room.notify_all();
        for (_, done, _) in left {
            done(Err(io::Error::other("the log is closed")));
        }
    }
}

impl Memory {
    fn error(&self) -> Option<io::Error> {
        let (path, kind, why) = self.failed.as_ref()?;
        Some(io::Error::new(*kind, format!("the log has stopped: {}: {why}", path.display())))
    }
}
