//! The Raft log: what must be durable before a member answers. One log serves all groups of a member,
//! so that one `fdatasync` commits for all of them.

mod error;
mod index;
mod queue;
mod record;
mod recover;
mod segment;
mod wal;
mod writer;

use std::{io, ops::Range};

use bytes::Bytes;

pub(crate) use self::segment::has_segments;
pub use self::{
    error::LogError,
    recover::TornTail,
    wal::{OnFatal, Wal, WalOptions},
};

/// A Raft group on this member: 0 `meta`, 1 `state`; more when leases and state are split.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct GroupId(pub u32);

/// One log entry. `payload` is the adapter's: Raft log id, kind and command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogEntry {
    /// Position, rising by one.
    pub index: u64,
    /// Opaque here.
    pub payload: Bytes,
}

/// What a group's log holds, as recovered at open.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LogState {
    /// The entry before the first one kept, with the mark given at `purge`.
    pub purged: Option<(u64, Bytes)>,
    /// The last entry, if any is kept.
    pub last: Option<LogEntry>,
    /// The vote.
    pub vote: Option<Bytes>,
    /// The committed position last saved (may lag).
    pub committed: Option<Bytes>,
}

/// Called once, from the log's writer thread, when the operation is durable or has failed. After a
/// failure the log refuses everything: the member stops (it never carries on after a failed sync).
pub type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// A log shared by several groups. Operations of one group take effect in the order of the calls;
/// `Done` is called in that order too. Calls do not wait for the disk.
pub trait LogStore: Send + Sync + 'static {
    /// What is there.
    fn state(&self, group: GroupId) -> LogState;
    /// Adds entries behind the last one (indexes must follow it, or start anywhere in an empty log).
    fn append(&self, group: GroupId, entries: Vec<LogEntry>, done: Done);
    /// Removes every entry above `last_kept` (0: all).
    fn truncate_after(&self, group: GroupId, last_kept: u64, done: Done);
    /// Forgets every entry up to and including `upto`; `mark` comes back in [`LogState::purged`].
    fn purge(&self, group: GroupId, upto: u64, mark: Bytes, done: Done);
    /// Keeps the vote. Ordered with appends.
    fn save_vote(&self, group: GroupId, vote: Bytes, done: Done);
    /// Keeps the committed position; needs no sync of its own.
    fn save_committed(&self, group: GroupId, committed: Bytes, done: Done);
    /// Entries in `range`, as far as they exist; sees appends not yet durable.
    fn read(&self, group: GroupId, range: Range<u64>) -> io::Result<Vec<LogEntry>>;
}
