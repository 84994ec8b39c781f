//! The rules of the state store over any view of its rows: floors, versions, generations, sessions (R2,
//! R3, R11). Pure but for reading the view; the caller commits what comes out.

use std::{collections::BTreeMap, io};

use bytes::Bytes;
use millet_core::{
    Epoch, GrainId, GrainType, Grant, SessionId, ShardId,
    control::{Rule, off},
    limits,
    store::{StoreError, Stored, Token, Version},
};
use millet_proto::state::{Done, Op};

use super::{
    command::StateResult,
    rows::{self, GENERATION, HEADS, Head, OLDEST, SLOT_BYTES, SWEEP},
};
use crate::engine::{Engine, Put};

/// Heads looked at per `OldestLiving`: bounds what one log entry costs.
const SWEEP_ROWS: usize = 256;

/// The engine's rows and changes not yet made in it.
pub(super) struct Rows<'a> {
    engine: &'a dyn Engine,
    changes: BTreeMap<Bytes, Option<Bytes>>,
}

/// Why an operation did nothing: refused, or the disk failed.
enum Fault {
    Refused(StoreError),
    Disk(io::Error),
}

impl From<StoreError> for Fault {
    fn from(e: StoreError) -> Self {
        Self::Refused(e)
    }
}
impl From<io::Error> for Fault {
    fn from(e: io::Error) -> Self {
        Self::Disk(e)
    }
}

impl<'a> Rows<'a> {
    pub fn new(engine: &'a dyn Engine) -> Self {
        Self { engine, changes: BTreeMap::new() }
    }

    /// The changes, in the order of their keys.
    pub fn into_changes(self) -> Vec<Put> {
        self.changes.into_iter().collect()
    }

    fn get(&self, key: &[u8]) -> io::Result<Option<Bytes>> {
        match self.changes.get(key) {
            Some(changed) => Ok(changed.clone()),
            None => self.engine.get(key),
        }
    }

    fn put(&mut self, key: Bytes, value: Bytes) {
        self.changes.insert(key, Some(value));
    }

    /// Carries one operation out. `Err`: the disk failed.
    pub fn apply(&mut self, op: &Op) -> io::Result<StateResult> {
        let done = match op {
            Op::Open { grain, slot, token } => self.open(grain, slot, *token).map(Done::Stored),
            Op::OpenShard { ty, shard, grant, session } => {
                self.open_shard(ty, *shard, *grant, *session).map(|()| Done::Opened)
            }
            Op::Load { grain, slot, shard, token } => {
                self.load(grain, slot, *shard, *token).map(Done::Stored)
            }
            Op::Write { grain, slot, shard, token, version, value } => {
                self.write(grain, slot, *shard, *token, *version, value.as_ref()).map(Done::Written)
            }
        };
        match done {
            Ok(done) => Ok(Ok(done)),
            Err(Fault::Refused(e)) => Ok(Err(e)),
            Err(Fault::Disk(e)) => Err(e),
        }
    }

    pub fn oldest(&self) -> io::Result<SessionId> {
        Ok(SessionId(self.get(OLDEST)?.map_or(Ok(0), |b| rows::decode_u64(&b))?))
    }

    /// Session, generation and shard floor: what every operation is checked against first.
    fn admit(&self, ty: &GrainType, shard: Option<ShardId>, token: Token) -> Result<(), Fault> {
        if token.session < self.oldest()? {
            return Err(StoreError::SessionEnded(token.session).into());
        }
        let mut floor = Grant { generation: self.generation(ty)?, index: 0 };
        if let Some(shard) = shard
            && let Some(grant) = self.get(&rows::shard_key(ty, shard))?
        {
            floor = floor.max(rows::decode_grant(&grant)?);
        }
        fence(token.epoch, Epoch { grant: floor, activation: 0 })
    }

    /// The type's generation floor, or that of all types.
    fn generation(&self, ty: &GrainType) -> io::Result<u32> {
        let floor = |key: &[u8]| {
            let grant = self.get(key)?.map_or(Ok(Grant::default()), |b| rows::decode_grant(&b))?;
            Ok::<_, io::Error>(grant.generation)
        };
        Ok(floor(&rows::generation_key(ty))?.max(floor(GENERATION)?))
    }

    /// An admitted token's generation ends the lower ones of its type (R11): a lower one is granted to
    /// nobody any more, and a delayed write of its last owner may name a shard that no longer exists.
    fn raise_generation(&mut self, ty: &GrainType, grant: Grant) -> io::Result<()> {
        if grant.generation > self.generation(ty)? {
            self.put(
                rows::generation_key(ty),
                rows::encode_grant(Grant { generation: grant.generation, index: 0 }),
            );
        }
        Ok(())
    }

    fn head(&self, key: &[u8]) -> io::Result<Head> {
        self.get(key)?.map_or(Ok(Head::default()), |b| Head::decode(&b))
    }

    fn stored(&self, head: Head, value_key: &[u8]) -> io::Result<Stored> {
        let value = if head.has_value { self.get(value_key)? } else { None };
        whole(head, value)
    }

    fn open(&mut self, grain: &GrainId, slot: &str, token: Token) -> Result<Stored, Fault> {
        check_slot(slot)?;
        self.admit(&grain.ty, None, token)?;
        let (head_key, value_key) = rows::row_keys(grain, slot);
        let mut head = self.head(&head_key)?;
        fence(token.epoch, head.floor)?;
        let stored = self.stored(head, &value_key)?;
        if !off(Rule::R2) {
            (head.floor, head.session) = (token.epoch, token.session);
        }
        self.put(head_key, head.encode());
        self.raise_generation(&grain.ty, token.epoch.grant)?;
        Ok(stored)
    }

    fn open_shard(
        &mut self,
        ty: &GrainType,
        shard: ShardId,
        grant: Grant,
        session: SessionId,
    ) -> Result<(), Fault> {
        self.admit(ty, Some(shard), Token { epoch: Epoch { grant, activation: 0 }, session })?;
        self.put(rows::shard_key(ty, shard), rows::encode_grant(grant));
        Ok(self.raise_generation(ty, grant)?)
    }

    /// Changes nothing. The row is read before the floors: they only rise, so what admits the token after
    /// the read admitted it at the read, also while another thread applies.
    pub fn load_at(
        &self,
        grain: &GrainId,
        slot: &str,
        shard: ShardId,
        token: Token,
    ) -> io::Result<StateResult> {
        match self.load(grain, slot, shard, token) {
            Ok(stored) => Ok(Ok(Done::Stored(stored))),
            Err(Fault::Refused(e)) => Ok(Err(e)),
            Err(Fault::Disk(e)) => Err(e),
        }
    }

    fn load(&self, grain: &GrainId, slot: &str, shard: ShardId, token: Token) -> Result<Stored, Fault> {
        check_slot(slot)?;
        let (head_key, value_key) = rows::row_keys(grain, slot);
        let stored = loop {
            let head = self.head(&head_key)?;
            let value = if head.has_value { self.get(&value_key)? } else { None };
            // A write in between would pair one version with another's value.
            if self.head(&head_key)? == head {
                fence(token.epoch, head.floor)?;
                break whole(head, value)?;
            }
        };
        self.admit(&grain.ty, Some(shard), token)?;
        Ok(stored)
    }

    fn write(
        &mut self,
        grain: &GrainId,
        slot: &str,
        shard: Option<ShardId>,
        token: Token,
        version: Version,
        value: Option<&Bytes>,
    ) -> Result<Version, Fault> {
        check_slot(slot)?;
        if let Some(bytes) = value.map(Bytes::len).filter(|n| *n > limits::STATE_BYTES) {
            return Err(StoreError::TooLarge { bytes, limit: limits::STATE_BYTES }.into());
        }
        self.admit(&grain.ty, shard, token)?;
        let (head_key, value_key) = rows::row_keys(grain, slot);
        let head = self.head(&head_key)?;
        fence(token.epoch, head.floor)?;
        let next = Version(version.0.saturating_add(1));
        if head.version == next && head.writer == token.epoch {
            return Ok(next); // the write that is stored, once more (R3)
        }
        if head.version != version {
            return Err(StoreError::Version { given: version, stored: head.version }.into());
        }
        let head = Head {
            floor: token.epoch,
            session: token.session,
            version: next,
            writer: token.epoch,
            has_value: value.is_some(),
        };
        self.put(head_key, head.encode());
        self.changes.insert(value_key, value.cloned());
        self.raise_generation(&grain.ty, token.epoch.grant)?;
        Ok(next)
    }

    /// Refuses sessions below `oldest` from now on, and sweeps the next few heads: those without a value
    /// that guard against nobody any more. That the session which raised a floor has ended is not enough:
    /// a grain may have gone from a younger session to an older one, and the younger may live. But a grant
    /// of a living session is younger than that session, so a floor granted before the oldest living one
    /// is below every token that is still admitted.
    ///
    /// Where it stopped is part of the state, so that all replicas sweep the same; so the engine must hold
    /// all earlier changes.
    pub fn raise_oldest(&mut self, oldest: SessionId) -> io::Result<()> {
        debug_assert!(self.changes.is_empty(), "the sweep reads the engine alone");
        let oldest = oldest.max(self.oldest()?);
        self.put(Bytes::from_static(OLDEST), rows::encode_u64(oldest.0));
        let from = self.engine.get(SWEEP)?.unwrap_or(Bytes::from_static(HEADS.0));
        let page = self.engine.scan(&from, SWEEP_ROWS, usize::MAX)?;
        let mut next = Bytes::from_static(HEADS.0);
        if let Some((last, _)) =
            page.last().filter(|(last, _)| page.len() == SWEEP_ROWS && last[..] < *HEADS.1)
        {
            next = successor(last);
        }
        self.put(Bytes::from_static(SWEEP), next);
        for (key, value) in page.into_iter().take_while(|(key, _)| key[..] < *HEADS.1) {
            let head = Head::decode(&value)?;
            if !head.has_value && head.floor.grant.index < oldest.0 {
                self.changes.insert(key, None);
            }
        }
        Ok(())
    }
}

/// What is stored, if the engine has all of it: a grain that starts from nothing would overwrite the rest.
fn whole(head: Head, value: Option<Bytes>) -> io::Result<Stored> {
    if head.has_value && value.is_none() {
        let why = "a row of the state engine has lost its value: stop this member, remove its state engine's folder and start it again";
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    Ok(Stored { version: head.version, value })
}

/// The key right behind `key`.
pub(super) fn successor(key: &[u8]) -> Bytes {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next.into()
}

fn fence(given: Epoch, floor: Epoch) -> Result<(), Fault> {
    let refused = given < floor && !off(Rule::Fence);
    if refused { Err(StoreError::Fenced { given, floor }.into()) } else { Ok(()) }
}

fn check_slot(slot: &str) -> Result<(), StoreError> {
    if slot.len() > SLOT_BYTES {
        Err(StoreError::TooLarge { bytes: slot.len(), limit: SLOT_BYTES })
    } else {
        Ok(())
    }
}
