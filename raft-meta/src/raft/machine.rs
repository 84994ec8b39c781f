//! openraft's state machine over [`GroupMachine`]: entries are applied in batches, replies leave from
//! here, snapshots are files. Machines that wait for a disk run on a thread of their own, so that the
//! Raft core never does.

use std::{io, sync::Arc};

use futures::{FutureExt, Stream, StreamExt};
use millet_core::world::Threads;
use openraft::{
    OptionalSend, Snapshot,
    storage::{ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine},
};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{
    codec,
    files::{SnapshotFile, SnapshotFiles},
    types::{Blob, Cfg, Entry, LogId, Payload, SnapshotMeta, StoredMembership},
};
use crate::group::{Applied, ApplyEntry, GroupMachine, SnapshotSource};

/// Entries and bytes applied in one go: one engine transaction. More only makes the first ones wait.
const APPLY_ENTRIES: usize = 256;
/// See [`APPLY_ENTRIES`].
const APPLY_BYTES: usize = 4 * 1024 * 1024;
/// Jobs waiting for an apply thread: openraft has at most one apply and one other job under way.
const JOBS: usize = 8;

type Job = Box<dyn FnOnce() + Send>;
pub(crate) type OurSnapshot = openraft::type_config::alias::SnapshotOf<Cfg, SnapshotFile>;

/// Where a machine's work runs.
pub(crate) enum Place {
    /// On the Raft core's own thread: for machines in memory.
    Inline,
    /// On a thread of its own: for machines with a disk below.
    Thread(std::sync::mpsc::SyncSender<Job>),
}

impl Place {
    /// Starts a thread for a machine.
    pub(crate) fn thread(threads: &dyn Threads, name: &str) -> io::Result<Self> {
        let (tx, rx) = std::sync::mpsc::sync_channel::<Job>(JOBS);
        threads.spawn(name, Box::new(move || rx.into_iter().for_each(|job| job())))?;
        Ok(Self::Thread(tx))
    }

    /// Runs work there and waits for it. At most [`JOBS`] at once.
    pub(crate) async fn run<R: Send + 'static>(
        &self,
        work: impl FnOnce() -> R + Send + 'static,
    ) -> io::Result<R> {
        match self {
            Self::Inline => Ok(work()),
            Self::Thread(jobs) => {
                let (tx, rx) = oneshot::channel();
                jobs.try_send(Box::new(move || drop(tx.send(work()))))
                    .map_err(|_| io::Error::other("this machine's thread is gone, or has too much to do"))?;
                rx.await.map_err(|_| io::Error::other("this machine's thread has panicked"))
            }
        }
    }
}

/// One group's machine as openraft drives it.
pub(crate) struct Machine<M> {
    machine: Arc<Mutex<M>>,
    place: Place,
    files: Arc<SnapshotFiles>,
    threads: Arc<dyn Threads>,
}

impl<M: GroupMachine> Machine<M> {
    pub(super) fn new(
        machine: Arc<Mutex<M>>,
        place: Place,
        files: Arc<SnapshotFiles>,
        threads: Arc<dyn Threads>,
    ) -> Self {
        Self { machine, place, files, threads }
    }

    async fn apply_batch(&self, batch: Vec<(Entry, Option<ApplyResponder<Cfg>>)>) -> io::Result<()> {
        let (mut entries, mut responders) =
            (Vec::with_capacity(batch.len()), Vec::with_capacity(batch.len()));
        for (entry, responder) in batch {
            entries.push(to_apply(entry)?);
            responders.push(responder);
        }
        let machine = Arc::clone(&self.machine);
        let replies = self.place.run(move || machine.lock().apply(entries)).await??;
        if replies.len() != responders.len() {
            return Err(io::Error::other(format!(
                "{} entries were applied, {} replies came",
                responders.len(),
                replies.len()
            )));
        }
        for (responder, reply) in responders.into_iter().zip(replies) {
            if let Some(responder) = responder {
                responder.send(Blob(reply));
            }
        }
        Ok(())
    }
}

fn to_apply(entry: Entry) -> io::Result<ApplyEntry> {
    let (membership, command) = match entry.payload {
        Payload::Blank => (None, None),
        Payload::Normal(Blob(command)) => (None, Some(command)),
        Payload::Membership(m) => (Some(codec::put(&StoredMembership::new(Some(entry.log_id), m))?), None),
    };
    Ok(ApplyEntry {
        index: codec::ours(entry.log_id.index),
        log_id: codec::put_log_id(&entry.log_id),
        membership,
        command,
    })
}

/// What openraft calls a snapshot's meta data, of our bookkeeping.
pub(super) fn meta_of(applied: &Applied) -> io::Result<SnapshotMeta> {
    let last_membership = if applied.membership.is_empty() {
        StoredMembership::default()
    } else {
        codec::read(&applied.membership)?
    };
    Ok(SnapshotMeta { last_log_id: codec::log_id(&applied.log_id)?, last_membership })
}

/// The reverse of [`meta_of`].
pub(super) fn applied_of(meta: &SnapshotMeta) -> io::Result<Applied> {
    Ok(Applied {
        index: meta.last_log_id.map_or(0, |id| codec::ours(id.index)),
        log_id: meta.last_log_id.as_ref().map(codec::put_log_id).unwrap_or_default(),
        membership: codec::put(&meta.last_membership)?,
    })
}

fn to_snapshot(file: SnapshotFile) -> io::Result<OurSnapshot> {
    Ok(Snapshot { meta: meta_of(file.applied())?, snapshot: file })
}

impl<M: GroupMachine> RaftStateMachine<Cfg> for Machine<M> {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let meta = meta_of(&self.machine.lock().applied())?;
        Ok((meta.last_log_id, meta.last_membership))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<Cfg>, io::Error>> + Unpin + OptionalSend,
    {
        let mut ended = false;
        while !ended {
            let Some(first) = entries.next().await else { break };
            let first = first?;
            let (mut bytes, mut batch) = (size(&first.0), vec![first]);
            while batch.len() < APPLY_ENTRIES && bytes < APPLY_BYTES {
                match entries.next().now_or_never() {
                    Some(Some(next)) => {
                        let next = next?;
                        bytes += size(&next.0);
                        batch.push(next);
                    }
                    Some(None) => {
                        ended = true;
                        break;
                    }
                    None => break,
                }
            }
            self.apply_batch(batch).await?;
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<Builder> {
        Some(self.builder().await)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        self.builder().await
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotFile,
    ) -> Result<(), io::Error> {
        let (applied, machine, files) =
            (applied_of(meta)?, Arc::clone(&self.machine), Arc::clone(&self.files));
        let install = move || {
            // The file first: once the machine has it, nothing below it is needed from the log.
            let kept = files.keep(snapshot)?;
            machine.lock().restore(applied, kept.content()?)
        };
        self.place.run(install).await??;
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<OurSnapshot>, io::Error> {
        self.files.current()?.map(to_snapshot).transpose()
    }
}

impl<M: GroupMachine> Machine<M> {
    async fn builder(&self) -> Builder {
        let machine = Arc::clone(&self.machine);
        let source = self.place.run(move || machine.lock().snapshot()).await.and_then(|source| source);
        Builder {
            source: Mutex::new(Some(source)),
            files: Arc::clone(&self.files),
            threads: Arc::clone(&self.threads),
        }
    }
}

fn size(entry: &Entry) -> usize {
    match &entry.payload {
        Payload::Normal(Blob(command)) => command.len(),
        Payload::Blank | Payload::Membership(_) => 0,
    }
}

/// Writes one picture of the machine to a file, on a thread of its own.
pub(crate) struct Builder {
    source: Mutex<Option<io::Result<Box<dyn SnapshotSource>>>>,
    files: Arc<SnapshotFiles>,
    threads: Arc<dyn Threads>,
}

impl RaftSnapshotBuilder<Cfg> for Builder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> Result<OurSnapshot, io::Error> {
        let source = self
            .source
            .get_mut()
            .take()
            .ok_or_else(|| io::Error::other("this snapshot was built before"))??;
        let (tx, rx) = oneshot::channel();
        let files = Arc::clone(&self.files);
        self.threads.spawn("snapshot", Box::new(move || drop(tx.send(files.write(source)))))?;
        let file = rx.await.map_err(|_| io::Error::other("the snapshot thread has panicked"))??;
        to_snapshot(file)
    }
}
