//! A state store in memory: for tests, and for nodes that keep nothing. The reference for the rules
//! of `StateStore`, in the smallest form they can be written.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{
    BoxFuture, Epoch, GrainId, GrainType, Grant, SessionId, ShardId,
    control::{Rule, off},
    limits,
    store::{StateStore, StoreError, Stored, Token, Version, Write},
};
use bytes::Bytes;

/// All rows in one map behind one lock.
#[derive(Default)]
pub struct MemoryStore(Mutex<Tables>);

/// What the store holds, and its rules: pure, so that the proof's model runs them too.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Tables {
    rows: BTreeMap<(GrainId, String), Row>,
    shards: BTreeMap<(GrainType, ShardId), Grant>,
    /// The highest generation seen of a type: lower ones are over (R11).
    generations: BTreeMap<GrainType, u32>,
    oldest: SessionId,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
struct Row {
    floor: Epoch,
    version: Version,
    /// Token of the write that made `version`.
    writer: Epoch,
    value: Option<Bytes>,
}

impl MemoryStore {
    /// A panic elsewhere leaves the tables whole: every operation changes one row, at its end.
    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Refuses sessions below `oldest` from now on and drops the floors without a value that were granted
    /// before it: every token of a living session is above them. Never goes back.
    pub fn oldest_living(&self, oldest: SessionId) {
        let t = &mut *self.tables();
        t.oldest = t.oldest.max(oldest);
        let oldest = t.oldest;
        t.rows.retain(|_, row| row.value.is_some() || row.floor.grant.index >= oldest.0);
    }

    /// Rows kept, floors without value included.
    pub fn row_count(&self) -> usize {
        self.tables().rows.len()
    }
}

impl Tables {
    /// The checks every operation starts with: session, generation, shard floor.
    fn admit(&self, ty: &GrainType, shard: Option<ShardId>, token: Token) -> Result<(), StoreError> {
        if token.session < self.oldest {
            return Err(StoreError::SessionEnded(token.session));
        }
        let given = token.epoch;
        let generation = self.generations.get(ty).copied().unwrap_or_default();
        let mut floor = Epoch { grant: Grant { generation, index: 0 }, activation: 0 };
        if let Some(shard) = shard {
            let grant = self.shards.get(&(ty.clone(), shard)).copied().unwrap_or_default();
            floor = floor.max(Epoch { grant, activation: 0 });
        }
        fence(given, floor)
    }

    /// An admitted token's generation ends the lower ones (R11).
    fn raise_generation(&mut self, ty: &GrainType, token: Token) {
        self.generations.insert(ty.clone(), token.epoch.grant.generation);
    }

    /// See [`StateStore::open`].
    pub fn open(&mut self, grain: &GrainId, slot: &str, token: Token) -> Result<Stored, StoreError> {
        self.admit(&grain.ty, None, token)?;
        let row = self.rows.entry((grain.clone(), slot.to_owned())).or_default();
        fence(token.epoch, row.floor)?;
        if !off(Rule::R2) {
            row.floor = token.epoch;
        }
        let stored = Stored { version: row.version, value: row.value.clone() };
        self.raise_generation(&grain.ty, token);
        Ok(stored)
    }

    /// See [`StateStore::open_shard`].
    pub fn open_shard(
        &mut self,
        ty: &GrainType,
        shard: ShardId,
        grant: Grant,
        session: SessionId,
    ) -> Result<(), StoreError> {
        let token = Token { epoch: Epoch { grant, activation: 0 }, session };
        self.admit(ty, Some(shard), token)?;
        self.raise_generation(ty, token);
        self.shards.insert((ty.clone(), shard), grant);
        Ok(())
    }

    /// See [`StateStore::load`].
    pub fn load(
        &self,
        grain: &GrainId,
        slot: &str,
        shard: ShardId,
        token: Token,
    ) -> Result<Stored, StoreError> {
        self.admit(&grain.ty, Some(shard), token)?;
        let Some(row) = self.rows.get(&(grain.clone(), slot.to_owned())) else {
            return Ok(Stored::default());
        };
        fence(token.epoch, row.floor)?;
        Ok(Stored { version: row.version, value: row.value.clone() })
    }

    /// See [`StateStore::save`]; without a value, [`StateStore::clear`].
    pub fn write(&mut self, w: Write<'_>, value: Option<Bytes>) -> Result<Version, StoreError> {
        if let Some(bytes) = value.as_ref().map(Bytes::len).filter(|n| *n > limits::STATE_BYTES) {
            return Err(StoreError::TooLarge { bytes, limit: limits::STATE_BYTES });
        }
        self.admit(&w.grain.ty, w.shard, w.token)?;
        let key = (w.grain.clone(), w.slot.to_owned());
        let fresh = Row::default();
        let row = self.rows.get(&key).unwrap_or(&fresh);
        fence(w.token.epoch, row.floor)?;
        let next = Version(w.version.0 + 1);
        if row.version == next && row.writer == w.token.epoch {
            return Ok(next);
        }
        if row.version != w.version {
            return Err(StoreError::Version { given: w.version, stored: row.version });
        }
        let row = self.rows.entry(key).or_default();
        *row = Row { floor: w.token.epoch, version: next, writer: w.token.epoch, value };
        self.raise_generation(&w.grain.ty, w.token);
        Ok(next)
    }
}

/// Lower tokens are refused (G1a).
fn fence(given: Epoch, floor: Epoch) -> Result<(), StoreError> {
    if given < floor && !off(Rule::Fence) { Err(StoreError::Fenced { given, floor }) } else { Ok(()) }
}

impl StateStore for MemoryStore {
    fn open<'a>(
        &'a self,
        grain: &'a GrainId,
        slot: &'a str,
        token: Token,
    ) -> BoxFuture<'a, Result<Stored, StoreError>> {
        Box::pin(async move { self.tables().open(grain, slot, token) })
    }

    fn open_shard<'a>(
        &'a self,
        ty: &'a GrainType,
        shard: ShardId,
        grant: Grant,
        session: SessionId,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move { self.tables().open_shard(ty, shard, grant, session) })
    }

    fn load<'a>(
        &'a self,
        grain: &'a GrainId,
        slot: &'a str,
        shard: ShardId,
        token: Token,
    ) -> BoxFuture<'a, Result<Stored, StoreError>> {
        Box::pin(async move { self.tables().load(grain, slot, shard, token) })
    }

    fn save<'a>(&'a self, write: Write<'a>, value: Bytes) -> BoxFuture<'a, Result<Version, StoreError>> {
        Box::pin(async move { self.tables().write(write, Some(value)) })
    }

    fn clear<'a>(&'a self, write: Write<'a>) -> BoxFuture<'a, Result<Version, StoreError>> {
        Box::pin(async move { self.tables().write(write, None) })
    }
}
