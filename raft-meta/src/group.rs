//! What a Raft group replicates: a deterministic machine that the adapter in `raft/` drives.

use std::io;

use bytes::Bytes;

/// The adapter's bookkeeping, kept by the machine beside its own data so that both move together.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Applied {
    /// Index of the last applied entry; 0: none.
    pub index: u64,
    /// The adapter's log id of that entry, encoded.
    pub log_id: Bytes,
    /// The adapter's last membership, encoded; empty: none.
    pub membership: Bytes,
}

/// One entry to apply.
#[derive(Clone, Debug)]
pub struct ApplyEntry {
    /// Its position.
    pub index: u64,
    /// The adapter's log id, encoded.
    pub log_id: Bytes,
    /// Set where the entry changes the membership.
    pub membership: Option<Bytes>,
    /// The command; `None` for blank and membership entries.
    pub command: Option<Bytes>,
}

/// A deterministic state machine. `apply` asks no clock, no random source, no ring, no hash-map order.
pub trait GroupMachine: Send + 'static {
    /// How far it is, at start as recovered from its own storage (nothing, for machines in memory).
    fn applied(&self) -> Applied;

    /// Applies entries in order and returns one reply each (empty for entries without a command).
    /// An error is a storage error: the member stops.
    fn apply(&mut self, entries: Vec<ApplyEntry>) -> io::Result<Vec<Bytes>>;

    /// A consistent picture as of now, cheap to take; it is encoded off this thread while `apply` goes on.
    fn snapshot(&mut self) -> io::Result<Box<dyn SnapshotSource>>;

    /// Replaces everything by a snapshot's content.
    fn restore(&mut self, applied: Applied, content: Box<dyn io::Read + Send>) -> io::Result<()>;
}

/// A picture of a machine, ready to be written out.
pub trait SnapshotSource: Send + 'static {
    /// As of which entry.
    fn applied(&self) -> Applied;
    /// Writes the content; `restore` reads the same bytes back. [`io::ErrorKind::ResourceBusy`]: the machine
    /// has changed too much meanwhile, another picture has to be taken; nothing is wrong with the disk.
    fn write_to(&mut self, to: &mut dyn io::Write) -> io::Result<()>;
}
