//! The `state` group before its machine has landed: it keeps its place in the log and takes no command.
//! The `State` service refuses everything meanwhile.

use std::{io, path::Path, sync::Arc};

use bytes::Bytes;
use millet_core::{SessionId, world::Disk};

use crate::group::{Applied, ApplyEntry, GroupMachine, SnapshotSource};

/// The engine below the `state` group.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Engine {
    /// sled 0.34, as a cache of log and snapshot (R19).
    #[default]
    Sled,
    /// redb.
    Redb,
}

/// Nothing but a position.
#[derive(Default)]
pub(crate) struct StateGroup(Applied);

impl StateGroup {
    pub(crate) fn open(_: &Engine, _: Arc<dyn Disk>, _: &Path) -> io::Result<Self> {
        Ok(Self::default())
    }
}

pub(crate) fn oldest_living(session: SessionId) -> Bytes {
    session.0.to_le_bytes().to_vec().into()
}

struct Position(Applied);

impl SnapshotSource for Position {
    fn applied(&self) -> Applied {
        self.0.clone()
    }
    fn write_to(&mut self, _: &mut dyn io::Write) -> io::Result<()> {
        Ok(())
    }
}

impl GroupMachine for StateGroup {
    fn applied(&self) -> Applied {
        self.0.clone()
    }
    fn apply(&mut self, entries: Vec<ApplyEntry>) -> io::Result<Vec<Bytes>> {
        let replies = vec![Bytes::new(); entries.len()];
        for entry in entries {
            (self.0.index, self.0.log_id) = (entry.index, entry.log_id);
            if let Some(membership) = entry.membership {
                self.0.membership = membership;
            }
        }
        Ok(replies)
    }
    fn snapshot(&mut self) -> io::Result<Box<dyn SnapshotSource>> {
        Ok(Box::new(Position(self.0.clone())))
    }
    fn restore(&mut self, applied: Applied, _: Box<dyn io::Read + Send>) -> io::Result<()> {
        self.0 = applied;
        Ok(())
    }
}
