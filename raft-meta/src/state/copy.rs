//! A consistent copy of an engine while it goes on changing: whoever changes a key that has not been
//! copied yet leaves its old value here first. Works for every engine; blocks `apply` for one page at most.
//!
//! The content of a snapshot: key length, value length (both u32, big endian), key, value, …, and a key
//! length of `u32::MAX` at the end.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock, RwLockReadGuard};

use super::apply::successor;
use crate::{
    engine::{Engine, Put},
    group::{Applied, SnapshotSource},
};

/// One page: at most so many rows, and about so many bytes. A millisecond or two of reading.
const PAGE: (usize, usize) = (512, 1 << 20);
/// Old values a copy may hold in memory; beyond it fails, and is tried again later.
const BEFORE_BYTES: usize = 512 << 20;
/// Bytes put into an engine at once when it is filled.
const FILL_BYTES: usize = 4 << 20;
const END: u32 = u32::MAX;
/// No fault of the disk: see [`SnapshotSource::write_to`].
const SUPERSEDED: io::ErrorKind = io::ErrorKind::ResourceBusy;

/// An engine that copies can be taken of.
pub(super) struct Copied {
    pub engine: Arc<dyn Engine>,
    /// Copies under way.
    copies: Mutex<BTreeMap<u64, Copy>>,
    /// Whether the engine is half filled: it would answer that a grain has no state. Held while everything is
    /// replaced, and true for good where that fails.
    half: RwLock<bool>,
}

#[derive(Default)]
struct Copy {
    /// Every key below is copied.
    position: Bytes,
    /// Values at the copy's instant of keys changed since.
    before: BTreeMap<Bytes, Option<Bytes>>,
    before_bytes: usize,
    /// Why it cannot be finished.
    broken: Option<&'static str>,
}

impl Copied {
    pub fn new(engine: Arc<dyn Engine>) -> Arc<Self> {
        Arc::new(Self { engine, copies: Mutex::default(), half: RwLock::default() })
    }

    /// Makes changes; the only way to, while copies may be under way.
    pub fn apply(&self, puts: &[Put], mark: Option<&[u8]>) -> io::Result<()> {
        drop(self.whole()?);
        let mut copies = self.copies.lock();
        for copy in copies.values_mut().filter(|c| c.broken.is_none()) {
            for (key, _) in puts {
                if *key >= copy.position && !copy.before.contains_key(key) {
                    let old = self.engine.get(key)?;
                    copy.before_bytes += key.len() + old.as_ref().map_or(0, Bytes::len);
                    copy.before.insert(key.clone(), old);
                }
            }
            if copy.before_bytes > BEFORE_BYTES {
                *copy = Copy {
                    broken: Some("too much changed while the snapshot was written; it is tried again"),
                    ..Copy::default()
                };
            }
        }
        self.engine.apply(puts, mark)
    }

    /// A copy as of now.
    pub fn copy(self: &Arc<Self>, applied: Applied) -> io::Result<Source> {
        drop(self.whole()?);
        let mut copies = self.copies.lock();
        let id = copies.last_key_value().map_or(0, |(last, _)| last + 1);
        copies.insert(id, Copy::default());
        Ok(Source { of: self.clone(), id, applied })
    }

    /// Keeps the engine from being replaced while several of its rows are read. Waits while it is. An error
    /// if that failed.
    pub fn whole(&self) -> io::Result<RwLockReadGuard<'_, bool>> {
        let half = self.half.read();
        if *half {
            return Err(io::Error::other(
                "the state engine is half filled, its snapshot failed; start this member again",
            ));
        }
        Ok(half)
    }

    /// Replaces everything by a copy's content, which is read to its end, where its file is checked, before it
    /// is believed; the mark comes last, so that a half filled engine has none.
    pub fn fill(&self, mark: &[u8], content: &mut dyn Read) -> io::Result<()> {
        for copy in self.copies.lock().values_mut() {
            *copy = Copy {
                broken: Some("the state was replaced while the snapshot was written"),
                ..Copy::default()
            };
        }
        let mut half = self.half.write();
        *half = true;
        self.engine.wipe()?;
        let (mut puts, mut bytes) = (Vec::new(), 0);
        while let Some((key, value)) = read_row(content)? {
            bytes += key.len() + value.len();
            puts.push((key, Some(value)));
            if bytes >= FILL_BYTES {
                self.engine.apply(&puts, None)?;
                (puts, bytes) = (Vec::new(), 0);
            }
        }
        if io::copy(content, &mut io::sink())? > 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the snapshot goes on behind its last row",
            ));
        }
        self.engine.apply(&puts, Some(mark))?;
        *half = false;
        Ok(())
    }
}

/// A copy being written out.
pub(super) struct Source {
    of: Arc<Copied>,
    id: u64,
    applied: Applied,
}

impl Source {
    /// The next rows; `None` at the end.
    fn page(&self) -> io::Result<Option<BTreeMap<Bytes, Bytes>>> {
        let mut copies = self.of.copies.lock();
        let copy = copies.get_mut(&self.id).expect("a copy lives until it is dropped");
        if let Some(why) = copy.broken {
            return Err(io::Error::new(SUPERSEDED, why));
        }
        let mut page: BTreeMap<Bytes, Bytes> =
            self.of.engine.scan(&copy.position, PAGE.0, PAGE.1)?.into_iter().collect();
        let end = page.is_empty();
        let mut changed = std::mem::take(&mut copy.before);
        if let Some((last, _)) = page.last_key_value() {
            copy.position = successor(last);
            copy.before = changed.split_off(&copy.position);
        }
        for (key, old) in changed {
            copy.before_bytes =
                copy.before_bytes.saturating_sub(key.len() + old.as_ref().map_or(0, Bytes::len));
            match old {
                Some(value) => page.insert(key, value),
                None => page.remove(&key),
            };
        }
        Ok((!end || !page.is_empty()).then_some(page))
    }
}

impl SnapshotSource for Source {
    fn applied(&self) -> Applied {
        self.applied.clone()
    }

    fn write_to(&mut self, to: &mut dyn Write) -> io::Result<()> {
        while let Some(page) = self.page()? {
            for (key, value) in page {
                write_row(to, &key, &value)?;
            }
        }
        write_end(to)
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.of.copies.lock().remove(&self.id);
    }
}

/// One row of a copy's content.
pub(super) fn write_row(to: &mut dyn Write, key: &[u8], value: &[u8]) -> io::Result<()> {
    to.write_all(&length(key)?.to_be_bytes())?;
    to.write_all(&length(value)?.to_be_bytes())?;
    to.write_all(key)?;
    to.write_all(value)
}

/// The end of a copy's content.
pub(super) fn write_end(to: &mut dyn Write) -> io::Result<()> {
    to.write_all(&END.to_be_bytes())
}

fn length(b: &[u8]) -> io::Result<u32> {
    u32::try_from(b.len()).ok().filter(|n| *n != END).ok_or_else(|| io::Error::other("a row of 4 GiB"))
}

/// The next row; `None` at the end.
pub(super) fn read_row(from: &mut dyn Read) -> io::Result<Option<(Bytes, Bytes)>> {
    let mut len = [0; 4];
    from.read_exact(&mut len)?;
    let key = u32::from_be_bytes(len);
    if key == END {
        return Ok(None);
    }
    from.read_exact(&mut len)?;
    let value = u32::from_be_bytes(len);
    Ok(Some((read_bytes(from, key)?, read_bytes(from, value)?)))
}

/// Reads `len` bytes without believing the length: memory grows with what is really there.
fn read_bytes(from: &mut dyn Read, len: u32) -> io::Result<Bytes> {
    let mut bytes = Vec::new();
    from.take(u64::from(len)).read_to_end(&mut bytes)?;
    if bytes.len() != len as usize {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the snapshot ends in the middle of a row"));
    }
    Ok(bytes.into())
}
