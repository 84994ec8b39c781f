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
use tokio::sync::{
    mpsc::{self, error::TrySendError},
    oneshot,
};

use super::{
    codec,
    files::{SnapshotFile, SnapshotFiles},
    types::{Blob, Cfg, Entry, LogId, Payload, SnapshotMeta, StoredMembership},
};
use crate::{
    group::{Applied, ApplyEntry, GroupMachine, SnapshotSource},
    log::{GroupId, LogStore},
};

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
    Thread(mpsc::Sender<Job>),
}

impl Place {
    /// Starts a thread for a machine.
    pub(crate) fn thread(threads: &dyn Threads, name: &str) -> io::Result<Self> {
        let (tx, mut rx) = mpsc::channel::<Job>(JOBS);
        let jobs = async move {
            while let Some(job) = rx.recv().await {
                job();
            }
        };
        threads.drive(name, Box::pin(jobs))?;
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
                jobs.try_send(Box::new(move || drop(tx.send(work())))).map_err(|e| match e {
                    TrySendError::Full(_) => io::Error::new(
                        io::ErrorKind::ResourceBusy,
                        "this machine's thread has too much to do",
                    ),
                    TrySendError::Closed(_) => io::Error::other("this machine's thread is gone"),
                })?;
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

/// An entry as machines apply it.
pub(super) fn to_apply(entry: Entry) -> io::Result<ApplyEntry> {
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
    type SnapshotBuilder = Builder<M>;

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

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<Builder<M>> {
        Some(self.builder().await)
    }

    async fn get_snapshot_builder(&mut self) -> Builder<M> {
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
            // A newer one that was current is not what was asked for, and its rows do not go with this mark.
            if kept.applied().index != applied.index {
                let why = format!(
                    "a snapshot of entry {} is to be installed, but that of entry {} is here",
                    applied.index,
                    kept.applied().index
                );
                return Err(io::Error::new(io::ErrorKind::InvalidData, why));
            }
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
    async fn builder(&self) -> Builder<M> {
        let machine = Arc::clone(&self.machine);
        let source = self.place.run(move || machine.lock().snapshot()).await.and_then(|source| source);
        Builder {
            source: Mutex::new(Some(source)),
            machine: Arc::clone(&self.machine),
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
pub(crate) struct Builder<M> {
    source: Mutex<Option<io::Result<Box<dyn SnapshotSource>>>>,
    machine: Arc<Mutex<M>>,
    files: Arc<SnapshotFiles>,
    threads: Arc<dyn Threads>,
}

/// Writes a picture to a file. An error stops the member, so one that only came too late, behind changes
/// or an installed snapshot, is none: the current file will do until the next time, or, where there is
/// none, a new picture during which nothing is applied.
fn write<M: GroupMachine>(
    files: &SnapshotFiles,
    machine: &Mutex<M>,
    source: Box<dyn SnapshotSource>,
) -> io::Result<SnapshotFile> {
    match files.write(source) {
        Err(e) if e.kind() == io::ErrorKind::ResourceBusy => {
            tracing::warn!(error = %e, "a snapshot was given up");
            if let Some(current) = files.current()? {
                return Ok(current);
            }
            let mut machine = machine.lock();
            let source = machine.snapshot()?;
            files.write(source)
        }
        written => written,
    }
}

impl<M: GroupMachine> RaftSnapshotBuilder<Cfg> for Builder<M> {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> Result<OurSnapshot, io::Error> {
        let source = self
            .source
            .get_mut()
            .take()
            .ok_or_else(|| io::Error::other("this snapshot was built before"))??;
        let (tx, rx) = oneshot::channel();
        let (files, machine) = (Arc::clone(&self.files), Arc::clone(&self.machine));
        let work = move || drop(tx.send(write(&files, &machine, source)));
        self.threads.spawn("snapshot", Box::new(work))?;
        let file = rx.await.map_err(|_| io::Error::other("the snapshot thread has panicked"))??;
        to_snapshot(file)
    }
}

/// Before a group starts: whatever openraft will purge from the log must be in a snapshot file (R19). A
/// machine with a disk may be ahead of a log that lost its unsynced end; openraft then purges the log up
/// to the machine, which the next power cut may empty.
pub(super) fn settle<M: GroupMachine>(
    log: &dyn LogStore,
    group: GroupId,
    files: &SnapshotFiles,
    machine: &mut M,
) -> io::Result<()> {
    let state = log.state(group);
    let purged = state.purged.as_ref().map_or(0, |(upto, _)| *upto);
    let last = state.last.as_ref().map_or(purged, |entry| entry.index);
    let applied = machine.applied().index;
    let file = files.current()?.map_or(0, |file| file.applied().index);
    if purged > applied.max(file) {
        let why = format!(
            "group {}: the log begins behind entry {purged}, but the state ends at {applied} and the snapshot at {file}: what lies between is lost here; replace this member",
            group.0
        );
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    if purged > file || applied > last.max(file) {
        files.write(machine.snapshot()?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use bytes::Bytes;
    use millet_core::world::Disk;
    use millet_testkit::{SimDisk, StdThreads};

    use super::*;
    use crate::{
        engine::{self, EngineKind},
        log::{LogEntry, Wal, WalOptions},
        state::StateGroup,
    };

    const GROUP: GroupId = GroupId(1);

    fn disk() -> Arc<dyn Disk> {
        Arc::new(SimDisk::new())
    }

    fn machine(disk: &Arc<dyn Disk>) -> StateGroup {
        let engine = engine::open(EngineKind::Redb, Arc::clone(disk), Path::new("/data/state"), 1 << 20);
        StateGroup::open(engine.unwrap()).unwrap()
    }

    fn files(disk: &Arc<dyn Disk>) -> SnapshotFiles {
        SnapshotFiles::open(Arc::clone(disk), PathBuf::from("/data/snapshots"), GROUP).unwrap()
    }

    fn apply(machine: &mut StateGroup, indexes: std::ops::RangeInclusive<u64>) {
        let id = |index| LogId { leader_id: super::super::types::LeaderId { term: 1, node_id: 1 }, index };
        let blank = |index: u64| ApplyEntry {
            index,
            log_id: codec::put_log_id(&id(index - 1)),
            membership: None,
            command: None,
        };
        machine.apply(indexes.map(blank).collect()).unwrap();
    }

    /// `kill -9` takes entries from the log that the state engine already has; the power cut after it takes
    /// the engine. Without a snapshot file in between, entries that others were told of are gone here, and
    /// the member would go on as if it had applied them.
    #[test]
    fn r19_a_state_ahead_of_its_log_is_in_a_snapshot_file_before_the_log_is_purged_up_to_it() {
        let (disk, waited) = (disk(), || {
            let (tx, rx) = std::sync::mpsc::channel();
            (Box::new(move |r: io::Result<()>| tx.send(r).unwrap()), rx)
        });
        let wal =
            Wal::open(Arc::clone(&disk), &StdThreads, Path::new("/data/log"), WalOptions::new(1)).unwrap();
        let entries = (1..=3).map(|index| LogEntry { index, payload: Bytes::from_static(b"x") }).collect();
        let (done, told) = waited();
        wal.append(GROUP, entries, done);
        told.recv().unwrap().unwrap();
        let (files, mut ahead) = (files(&disk), machine(&disk));
        apply(&mut ahead, 1..=3);
        settle(&wal, GROUP, &files, &mut ahead).unwrap();
        assert!(files.current().unwrap().is_none(), "the log has everything");
        apply(&mut ahead, 4..=5);
        settle(&wal, GROUP, &files, &mut ahead).unwrap();
        assert_eq!(files.current().unwrap().map(|file| file.applied().index), Some(5));

        // Where it was not so, the member must not start.
        let (done, told) = waited();
        wal.purge(GROUP, 9, Bytes::from_static(b"mark"), done);
        told.recv().unwrap().unwrap();
        ahead.engine().wipe().unwrap();
        let mut empty = StateGroup::open(ahead.engine()).unwrap();
        let error = settle(&wal, GROUP, &files, &mut empty).unwrap_err().to_string();
        assert!(error.contains("entry 9") && error.contains("replace"), "{error}");
    }

    /// A follower that writes a snapshot gets one from its leader meanwhile: an error would stop it.
    #[tokio::test]
    async fn a_snapshot_that_came_too_late_does_not_stop_the_member() {
        let disk = disk();
        let (shared, files) = (Arc::new(Mutex::new(machine(&disk))), Arc::new(files(&disk)));
        apply(&mut shared.lock(), 1..=3);
        let mut adapter =
            Machine::new(Arc::clone(&shared), Place::Inline, Arc::clone(&files), Arc::new(StdThreads));
        for _ in 0..2 {
            let mut builder = adapter.get_snapshot_builder().await;
            let (applied, mut content) = (shared.lock().applied(), Vec::new());
            shared.lock().snapshot().unwrap().write_to(&mut content).unwrap();
            shared.lock().restore(applied, Box::new(io::Cursor::new(content))).unwrap();
            let built = builder.build_snapshot().await.unwrap();
            assert_eq!(built.meta.last_log_id.map(|id| id.index), Some(2));
        }
    }

    /// The rows of one snapshot under the mark of another would make the next entries be applied twice.
    #[tokio::test]
    async fn r19_a_snapshot_older_than_the_current_one_is_not_installed() {
        let (here, there) = (disk(), disk());
        let (shared, files) = (Arc::new(Mutex::new(machine(&here))), Arc::new(files(&here)));
        apply(&mut shared.lock(), 1..=5);
        files.write(shared.lock().snapshot().unwrap()).unwrap();
        let mut older = machine(&there);
        apply(&mut older, 1..=3);
        let older = self::files(&there).write(older.snapshot().unwrap()).unwrap();
        let threads = Arc::new(StdThreads);
        let mut adapter = Machine::new(Arc::clone(&shared), Place::Inline, files, threads);
        let meta = meta_of(older.applied()).unwrap();
        let error = adapter.install_snapshot(&meta, older).await.unwrap_err();
        assert!(error.to_string().contains("entry 3") && error.to_string().contains("entry 5"), "{error}");
        assert_eq!(shared.lock().applied().index, 5);
    }
}
