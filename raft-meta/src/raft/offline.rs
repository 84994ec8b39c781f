//! Groups of a member that does not run: all that its log and snapshot hold, and the first files of a new
//! cluster's only member (R16). And copies of groups that do run, for backups.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    sync::{Arc, mpsc},
};

use openraft::{BasicNode, Membership};
use tokio::sync::oneshot;

use super::{
    codec,
    files::{SnapshotFile, SnapshotFiles},
    handle::Group,
    machine::to_apply,
    types::{LeaderId, LogId, StoredMembership, Vote},
};
use crate::{
    group::{Applied, GroupMachine, SnapshotSource},
    log::{Done, GroupId, LogStore},
};

/// Entries applied at once.
const STEP: u64 = 64;
/// Copies begun anew because too much changed meanwhile.
const DRAFTS: u32 = 3;

/// Brings an empty machine as far as a group's snapshot and log go. Entries count that nobody knows to be
/// committed: they may have been acknowledged.
pub(crate) fn replay<M: GroupMachine>(
    log: &dyn LogStore,
    group: GroupId,
    files: &SnapshotFiles,
    machine: &mut M,
) -> io::Result<()> {
    if let Some(file) = files.current()? {
        machine.restore(file.applied().clone(), file.content()?)?;
    }
    let last = log.state(group).last.map_or(0, |entry| entry.index);
    loop {
        let next = machine.applied().index + 1;
        if next > last {
            return Ok(());
        }
        let kept = log.read(group, next..(last + 1).min(next + STEP))?;
        if kept.first().is_none_or(|entry| entry.index != next) {
            let why = format!(
                "group {}: entry {next} is neither in the snapshot nor in the log, which ends at {last}",
                group.0
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        let entries = kept.iter().map(|entry| to_apply(codec::entry(entry)?));
        machine.apply(entries.collect::<io::Result<_>>()?)?;
    }
}

/// Writes the content of a group's first snapshot.
pub(crate) type Content = Box<dyn FnMut(&mut dyn Write) -> io::Result<()> + Send>;

/// A group's beginning with one voter.
pub(crate) struct Founding {
    pub(crate) group: GroupId,
    pub(crate) member: u64,
    pub(crate) addr: String,
    /// As of which entry.
    pub(crate) index: u64,
    pub(crate) content: Content,
}

struct Beginning {
    applied: Applied,
    content: Content,
}

impl SnapshotSource for Beginning {
    fn applied(&self) -> Applied {
        self.applied.clone()
    }
    fn write_to(&mut self, to: &mut dyn Write) -> io::Result<()> {
        (self.content)(to)
    }
}

/// Lays a group's first files down: its snapshot, and a log that begins behind it.
pub(crate) fn found(log: &dyn LogStore, files: &SnapshotFiles, founding: Founding) -> io::Result<()> {
    let Founding { group, member, addr, index, content } = founding;
    let leader_id = LeaderId { term: 1, node_id: member };
    let index_there = index.checked_sub(1).ok_or_else(|| io::Error::other("a snapshot of entry 0"))?;
    let log_id = LogId { leader_id, index: index_there };
    let nodes = BTreeMap::from([(member, BasicNode { addr })]);
    let membership = Membership::new(vec![[member].into()], nodes).map_err(io::Error::other)?;
    let applied = Applied {
        index,
        log_id: codec::put_log_id(&log_id),
        membership: codec::put(&StoredMembership::new(Some(log_id), membership))?,
    };
    files.write(Box::new(Beginning { applied, content }))?;
    let vote = codec::put_vote(&Vote { leader_id, committed: false });
    durable(|done| log.save_vote(group, vote, done))?;
    durable(|done| log.purge(group, index, codec::put_log_id(&log_id), done))
}

fn durable(run: impl FnOnce(Done)) -> io::Result<()> {
    let (tx, rx) = mpsc::channel();
    run(Box::new(move |result| drop(tx.send(result))));
    rx.recv().map_err(|_| io::Error::other("the log's writer has stopped"))?
}

impl<M: GroupMachine> Group<M> {
    /// A copy of the machine as of now, in a file that goes with its last handle.
    pub(crate) async fn draft(&self) -> io::Result<SnapshotFile> {
        let (tx, rx) = oneshot::channel();
        let (machine, files) = (Arc::clone(&self.machine), Arc::clone(&self.port.files));
        let work = move || {
            let mut tries = 1;
            loop {
                // In two steps: while the copy is written, the machine goes on.
                let source = machine.lock().snapshot();
                match source.and_then(|source| files.draft(source)) {
                    Err(e) if e.kind() == io::ErrorKind::ResourceBusy && tries < DRAFTS => tries += 1,
                    done => break done,
                }
            }
        };
        self.port.threads.spawn("backup", Box::new(move || drop(tx.send(work()))))?;
        rx.await.map_err(|_| io::Error::other("the backup's thread has panicked"))?
    }
}
