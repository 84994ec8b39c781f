//! The key-value engines that hold the applied state of the `state` group: sled, and redb under the same
//! suite, one config line away. An engine is a cache of snapshot file and log (R19): what it holds is used
//! again only after a clean close, and only if it is what was closed; after anything else it begins empty,
//! says so by having no mark, and is rebuilt.
//!
//! Not here: what keys and values mean (`state`), and how a member recovers (`snapshot`).

mod blocks;
mod life;
mod redb;
mod sled;

use std::{io, path::Path, str::FromStr, sync::Arc};

use bytes::Bytes;
use millet_core::world::Disk;

pub use self::{redb::RedbEngine, sled::SledEngine};

/// A change of one key; `None` removes it.
pub type Put = (Bytes, Option<Bytes>);

/// An ordered map of bytes with a mark that moves with it.
///
/// Every error is a storage error: the member stops.
pub trait Engine: Send + Sync + 'static {
    /// For messages: `sled` or `redb`.
    fn name(&self) -> &'static str;
    /// The value of a key.
    fn get(&self, key: &[u8]) -> io::Result<Option<Bytes>>;
    /// Makes all changes and sets the mark (if there is one), or does none of it, also in a crash of the process.
    fn apply(&self, puts: &[Put], mark: Option<&[u8]>) -> io::Result<()>;
    /// Keys from `from` on, in order, with their values: at least one if there is one, at most `items`,
    /// and no further one after `bytes` bytes.
    fn scan(&self, from: &[u8], items: usize, bytes: usize) -> io::Result<Vec<(Bytes, Bytes)>>;
    /// The mark of the last `apply` that had one.
    fn mark(&self) -> io::Result<Option<Bytes>>;
    /// Makes everything so far durable. That alone does not make a later process use it: see [`Engine::close`].
    fn guard(&self) -> io::Result<()>;
    /// Removes everything, the mark included.
    fn wipe(&self) -> io::Result<()>;
    /// Guards, and notes that this was a clean end, with a seal over what was closed: the next process uses it.
    /// Nothing may be called after it.
    fn close(&self) -> io::Result<()>;
}

/// Which engine; a node's setting.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum EngineKind {
    /// sled 0.34, the default.
    #[default]
    Sled,
    /// redb 4.
    Redb,
}

impl FromStr for EngineKind {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "sled" => Ok(Self::Sled),
            "redb" => Ok(Self::Redb),
            other => Err(format!("no state engine {other:?}; use \"sled\" or \"redb\"")),
        }
    }
}

/// Opens the engine in `dir` (a folder of its own), which caches up to `cache_bytes` in memory. Content that was not
/// closed, or is not what was closed, is removed with a warning: the engine is then empty and has no mark.
pub fn open(
    kind: EngineKind,
    disk: Arc<dyn Disk>,
    dir: &Path,
    cache_bytes: u64,
) -> io::Result<Arc<dyn Engine>> {
    Ok(match kind {
        EngineKind::Sled => Arc::new(SledEngine::open(disk, dir, cache_bytes)?),
        EngineKind::Redb => Arc::new(RedbEngine::open(disk, dir, cache_bytes)?),
    })
}

/// Names engine and folder in an error.
fn failed(name: &str, dir: &Path, error: &dyn std::fmt::Display) -> io::Error {
    io::Error::other(format!("{name} in {}: {error}", dir.display()))
}
