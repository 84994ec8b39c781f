//! The `state` group's machine: grain state, fenced (R2, R3, R11), over an [`Engine`] that is a cache of
//! snapshot file and log (R19). The rules are in `apply`; this file drives them.
//!
//! It knows nothing of Raft, clocks or the network.

mod apply;
mod command;
mod copy;
mod recover;
mod rows;

use std::{
    io::{self, Read},
    sync::Arc,
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use millet_core::{GrainId, SessionId, ShardId, store::Token};

use self::{apply::Rows, copy::Copied};
pub use self::{
    command::{StateCommand, StateReply, StateResult, Unreadable},
    recover::{StateSurvey, recover, survey},
};
use crate::{
    engine::Engine,
    group::{Applied, ApplyEntry, GroupMachine, SnapshotSource},
};

/// Version of the mark kept in the engine.
const MARK_VERSION: u8 = 1;

/// The machine. Commands are [`StateCommand`]s, replies [`StateReply`]s.
pub struct StateGroup {
    rows: Arc<Copied>,
    applied: Applied,
}

/// Reads the machine's state beside it. Whoever wants a linearizable answer first waits until the machine
/// has applied the read index.
#[derive(Clone)]
pub struct StateReader(Arc<Copied>);

impl StateGroup {
    /// The machine as its engine holds it: at nothing, if the engine is empty. It may be behind the
    /// group's snapshot file and the log's first entry; the adapter then restores the file first and
    /// applies the log from there (R19).
    pub fn open(engine: Arc<dyn Engine>) -> io::Result<Self> {
        let applied = engine.mark()?.map_or(Ok(Applied::default()), decode_mark)?;
        Ok(Self { rows: Copied::new(engine), applied })
    }

    /// A reader of this machine's state.
    pub fn reader(&self) -> StateReader {
        StateReader(self.rows.clone())
    }

    /// The engine, to guard or close it.
    pub fn engine(&self) -> Arc<dyn Engine> {
        self.rows.engine.clone()
    }

    /// Makes the changes so far, and the mark of the last entry, durable together.
    fn commit(&mut self, rows: Rows<'_>, applied: Applied) -> io::Result<()> {
        self.rows.apply(&rows.into_changes(), Some(&encode_mark(&applied)))?;
        self.applied = applied;
        Ok(())
    }
}

impl GroupMachine for StateGroup {
    fn applied(&self) -> Applied {
        self.applied.clone()
    }

    fn apply(&mut self, entries: Vec<ApplyEntry>) -> io::Result<Vec<Bytes>> {
        let engine = self.rows.engine.clone();
        let mut rows = Rows::new(&*engine);
        let mut replies = Vec::with_capacity(entries.len());
        let mut applied = self.applied.clone();
        for entry in entries {
            // A replica that skips an entry differs from the others for ever, and nobody sees it.
            if applied.index != 0 && entry.index != applied.index + 1 {
                let why = format!("entry {} was to be applied after entry {}", entry.index, applied.index);
                return Err(io::Error::new(io::ErrorKind::InvalidData, why));
            }
            let command = entry.command.as_deref().map(StateCommand::decode).transpose();
            let command = command.map_err(|e| {
                io::Error::new(io::ErrorKind::InvalidData, format!("entry {}: {e}", entry.index))
            })?;
            let mut reply = Bytes::new();
            match command {
                None => {}
                Some(StateCommand::Batch(ops)) => {
                    let results = ops.iter().map(|op| rows.apply(op)).collect::<io::Result<Vec<_>>>()?;
                    reply = StateReply(results).encode();
                }
                Some(StateCommand::OldestLiving(oldest)) => {
                    // How entries are cut into calls differs between replicas; what the sweep sees must not.
                    self.commit(std::mem::replace(&mut rows, Rows::new(&*engine)), applied.clone())?;
                    rows.raise_oldest(oldest)?;
                    reply = StateReply::default().encode();
                }
            }
            let membership = entry.membership.unwrap_or(applied.membership);
            applied = Applied { index: entry.index, log_id: entry.log_id, membership };
            replies.push(reply);
        }
        self.commit(rows, applied)?;
        Ok(replies)
    }

    fn snapshot(&mut self) -> io::Result<Box<dyn SnapshotSource>> {
        Ok(Box::new(self.rows.copy(self.applied.clone())?))
    }

    fn restore(&mut self, applied: Applied, mut content: Box<dyn Read + Send>) -> io::Result<()> {
        self.rows.fill(&encode_mark(&applied), &mut content)?;
        self.applied = applied;
        Ok(())
    }
}

impl StateReader {
    /// `StateStore::load`: reads a grain's state under a shard's floor, changing nothing. An error is a
    /// storage error. Reads the disk: not for an async thread.
    pub fn load(&self, grain: &GrainId, slot: &str, shard: ShardId, token: Token) -> io::Result<StateResult> {
        let _whole = self.0.whole()?;
        Rows::new(&*self.0.engine).load_at(grain, slot, shard, token)
    }

    /// The oldest living session the machine was told of.
    pub fn oldest_living(&self) -> io::Result<SessionId> {
        let _whole = self.0.whole()?;
        Rows::new(&*self.0.engine).oldest()
    }
}

fn encode_mark(a: &Applied) -> Bytes {
    let mut b = BytesMut::with_capacity(17 + a.log_id.len() + a.membership.len());
    b.put_u8(MARK_VERSION);
    b.put_u64(a.index);
    b.put_u32(u32::try_from(a.log_id.len()).expect("a log id is small"));
    b.put_slice(&a.log_id);
    b.put_slice(&a.membership);
    b.freeze()
}

fn decode_mark(mut mark: Bytes) -> io::Result<Applied> {
    let bad = || {
        io::Error::new(
            io::ErrorKind::InvalidData,
            "the state engine's mark is unreadable: remove the engine's folder and start again",
        )
    };
    if mark.len() < 13 || mark.get_u8() != MARK_VERSION {
        return Err(bad());
    }
    let (index, id) = (mark.get_u64(), mark.get_u32() as usize);
    if mark.len() < id {
        return Err(bad());
    }
    let log_id = mark.split_to(id);
    Ok(Applied { index, log_id, membership: mark })
}

/// Reads any bytes as a row of the engine and as its mark: refused, or the same again.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn any_bytes(bytes: &[u8]) {
    rows::any_bytes(bytes);
    if let Ok(applied) = decode_mark(Bytes::copy_from_slice(bytes)) {
        assert_eq!(encode_mark(&applied)[..], *bytes);
    }
}

#[cfg(test)]
mod tests {
    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { cases: 20_000, ..Default::default() })]

        #[test]
        fn any_bytes_are_a_mark_or_an_error(index: u64, id in 0..40u32, rest: Vec<u8>, raw: bool) {
            let head = [&[super::MARK_VERSION][..], &index.to_be_bytes(), &id.to_be_bytes()].concat();
            super::any_bytes(&if raw { rest } else { [head, rest].concat() });
        }
    }
}
