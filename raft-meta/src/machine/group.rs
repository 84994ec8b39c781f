//! The machine as the Raft adapter drives it, and as others read it: one lock, held for one batch of
//! entries at a time.

use std::{io, sync::Arc};

use bytes::Bytes;
use millet_core::{Revision, model::WatchEvent};
use parking_lot::RwLock;

use super::{Command, Machine, snapshot::Picture};
use crate::group::{Applied, ApplyEntry, GroupMachine, SnapshotSource};

/// What changed for watchers; handed out after the lock on the machine is released.
#[derive(Clone, Debug)]
pub enum Published {
    /// Entries up to `revision` have been applied.
    Applied {
        /// How far the machine is.
        revision: Revision,
        /// Their events, in order.
        events: Vec<Arc<WatchEvent>>,
    },
    /// A snapshot replaced everything: streams below `revision` end with `Compacted` (R17).
    Restored {
        /// As of this entry.
        revision: Revision,
    },
}

/// The `meta` group. Lives in memory; what survives a restart is the log and its snapshots.
pub struct MetaGroup {
    applied: Applied,
    machine: Arc<RwLock<Machine>>,
    on_event: Box<dyn FnMut(Published) + Send>,
}

impl MetaGroup {
    /// An empty group. `on_event` is called on the applying thread after every batch of entries and
    /// after a restore: it must not block, and may read the machine.
    pub fn new(on_event: impl FnMut(Published) + Send + 'static) -> Self {
        Self { applied: Applied::default(), machine: Arc::default(), on_event: Box::new(on_event) }
    }

    /// The machine, for reading; take the lock for short.
    pub fn machine(&self) -> Arc<RwLock<Machine>> {
        self.machine.clone()
    }
}

fn invalid(index: u64, why: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("meta entry {index}: {why}"))
}

fn apply_one(machine: &mut Machine, entry: &ApplyEntry) -> io::Result<(Bytes, Option<Arc<WatchEvent>>)> {
    let Some(bytes) = &entry.command else {
        machine.advance(entry.index);
        return Ok((Bytes::new(), None));
    };
    let command = Command::decode(bytes).map_err(|e| invalid(entry.index, e))?;
    if let Some(why) = machine.cannot_apply(&command) {
        return Err(invalid(entry.index, why));
    }
    let (reply, event) = machine.apply(entry.index, command);
    Ok((reply.encode().into(), event))
}

impl GroupMachine for MetaGroup {
    fn applied(&self) -> Applied {
        self.applied.clone()
    }

    fn apply(&mut self, entries: Vec<ApplyEntry>) -> io::Result<Vec<Bytes>> {
        let mut replies = Vec::with_capacity(entries.len());
        let mut events = Vec::new();
        let revision = {
            let mut machine = self.machine.write();
            for entry in entries {
                if entry.index <= self.applied.index {
                    return Err(invalid(entry.index, format!("comes after entry {}", self.applied.index)));
                }
                let (reply, event) = apply_one(&mut machine, &entry)?;
                replies.push(reply);
                events.extend(event);
                self.applied.index = entry.index;
                self.applied.log_id = entry.log_id;
                if let Some(membership) = entry.membership {
                    self.applied.membership = membership;
                }
            }
            machine.revision()
        };
        (self.on_event)(Published::Applied { revision, events });
        Ok(replies)
    }

    fn snapshot(&mut self) -> io::Result<Box<dyn SnapshotSource>> {
        let picture = self.machine.read().picture();
        Ok(Box::new(MetaSnapshot { applied: self.applied.clone(), picture }))
    }

    fn restore(&mut self, applied: Applied, mut content: Box<dyn io::Read + Send>) -> io::Result<()> {
        let machine = Machine::read_from(&mut content)?;
        if machine.revision().0 != applied.index {
            let why = format!("a snapshot of entry {}", machine.revision().0);
            return Err(invalid(applied.index, why));
        }
        self.applied = applied;
        let revision = machine.revision();
        *self.machine.write() = machine;
        (self.on_event)(Published::Restored { revision });
        Ok(())
    }
}

struct MetaSnapshot {
    applied: Applied,
    picture: Picture,
}

impl SnapshotSource for MetaSnapshot {
    fn applied(&self) -> Applied {
        self.applied.clone()
    }
    fn write_to(&mut self, to: &mut dyn io::Write) -> io::Result<()> {
        self.picture.write_to(to)
    }
}
