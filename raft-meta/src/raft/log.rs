//! openraft's log storage over [`LogStore`]: appends are acknowledged by the log's writer thread after
//! its sync; votes are durable before anybody hears of them; reads are bounded in bytes.

use std::{
    fmt::Debug,
    io,
    ops::{Bound, RangeBounds},
    sync::Arc,
};

use millet_core::control::{Rule, off};
use openraft::{
    LogState, OptionalSend,
    storage::{IOFlushed, RaftLogReader, RaftLogStorage},
};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{
    codec,
    types::{Cfg, Entry, LogId, Vote},
};
use crate::log::{Done, GroupId, LogStore};

/// Bytes of entries in one append message to a follower (at least one entry). Keeps a message well
/// below the transport's limit and a slow follower's memory small.
const READ_BYTES: usize = 1024 * 1024;

/// One group's view of the member's log.
#[derive(Clone)]
pub(crate) struct Log {
    store: Arc<dyn LogStore>,
    group: GroupId,
    /// The vote as last saved: openraft reads it twice for every append message.
    vote: Arc<Mutex<Option<Vote>>>,
}

impl Log {
    pub(super) fn open(store: Arc<dyn LogStore>, group: GroupId) -> io::Result<Self> {
        let vote = store.state(group).vote.map(|v| codec::vote(&v)).transpose()?;
        Ok(Self { store, group, vote: Arc::new(Mutex::new(vote)) })
    }

    /// Runs one operation of the store and waits until it is durable.
    async fn durable(&self, run: impl FnOnce(&dyn LogStore, Done)) -> io::Result<()> {
        let (tx, rx) = oneshot::channel();
        run(&*self.store, Box::new(move |result| drop(tx.send(result))));
        rx.await.map_err(|_| io::Error::other("the log's writer has stopped"))?
    }
}

impl RaftLogReader<Cfg> for Log {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<Entry>, io::Error>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let start = match range.start_bound() {
            Bound::Included(&n) => codec::ours(n),
            Bound::Excluded(&n) => codec::ours(n) + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(&n) => codec::ours(n) + 1,
            Bound::Excluded(&n) => codec::ours(n),
            Bound::Unbounded => u64::MAX,
        };
        self.store.read(self.group, start..end)?.iter().map(codec::entry).collect()
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(*self.vote.lock())
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        const STEP: u64 = 32;
        let (mut next, end) = (codec::ours(start), codec::ours(end));
        let (mut bytes, mut entries) = (0, Vec::new());
        while next < end {
            let kept = self.store.read(self.group, next..end.min(next + STEP))?;
            if kept.is_empty() {
                break;
            }
            next += kept.len() as u64;
            for entry in &kept {
                bytes += entry.payload.len();
                if bytes > READ_BYTES && !entries.is_empty() {
                    return Ok(entries);
                }
                entries.push(codec::entry(entry)?);
            }
        }
        Ok(entries)
    }
}

impl RaftLogStorage<Cfg> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Cfg>, io::Error> {
        let state = self.store.state(self.group);
        let last_purged_log_id = match &state.purged {
            Some((_, mark)) => codec::log_id(mark)?,
            None => None,
        };
        let last_log_id = match &state.last {
            Some(entry) => Some(codec::entry_log_id(entry)?),
            None => last_purged_log_id,
        };
        Ok(LogState { last_purged_log_id, last_log_id })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        if !off(Rule::EpochKept) {
            self.durable(|store, done| store.save_vote(self.group, codec::put_vote(vote), done)).await?;
        }
        *self.vote.lock() = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        if let Some(id) = &committed {
            self.store.save_committed(self.group, codec::put_log_id(id), Box::new(|_| ()));
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        self.store.state(self.group).committed.map_or(Ok(None), |c| codec::log_id(&c))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Cfg>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries = entries.into_iter().map(|e| codec::put_entry(&e)).collect::<io::Result<Vec<_>>>()?;
        self.store.append(self.group, entries, Box::new(move |result| callback.io_completed(result)));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        let last_kept = last.map_or(0, |id| codec::ours(id.index));
        self.durable(|store, done| store.truncate_after(self.group, last_kept, done)).await
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        let (index, mark) = (codec::ours(upto.index), codec::put_log_id(&upto));
        self.durable(|store, done| store.purge(self.group, index, mark, done)).await
    }
}
