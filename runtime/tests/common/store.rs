//! The memory store, with a log of what was asked, and failures on demand.

use std::collections::VecDeque;

use bytes::Bytes;
use millet_core::{
    BoxFuture, GrainId, GrainType, Grant, SessionId, ShardId,
    store::{StateStore, StoreError, Stored, Token, Version, Write},
};
use millet_testkit::MemoryStore;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

#[derive(Default)]
pub struct FlakyStore {
    pub inner: MemoryStore,
    /// `open`, `load`, `save`, `clear`, with the slot and the token's activation number.
    pub log: Mutex<Vec<(&'static str, String, u32)>>,
    /// How the next saves end; `true`: after they were done.
    pub fail_saves: Mutex<VecDeque<(StoreError, bool)>>,
    /// How the next opens and loads end.
    pub fail_opens: Mutex<VecDeque<StoreError>>,
    /// Saves wait for a permit where there is one.
    pub gate: Mutex<Option<std::sync::Arc<Semaphore>>>,
}

impl FlakyStore {
    pub fn count(&self, what: &str) -> usize {
        self.log.lock().iter().filter(|(w, ..)| *w == what).count()
    }
    fn note(&self, what: &'static str, slot: &str, token: Token) {
        self.log.lock().push((what, slot.to_owned(), token.epoch.activation));
    }
}

impl StateStore for FlakyStore {
    fn open<'a>(
        &'a self,
        grain: &'a GrainId,
        slot: &'a str,
        token: Token,
    ) -> BoxFuture<'a, Result<Stored, StoreError>> {
        Box::pin(async move {
            self.note("open", slot, token);
            let fail = self.fail_opens.lock().pop_front();
            match fail {
                Some(e) => Err(e),
                None => self.inner.open(grain, slot, token).await,
            }
        })
    }
    fn open_shard<'a>(
        &'a self,
        ty: &'a GrainType,
        shard: ShardId,
        grant: Grant,
        session: SessionId,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        self.inner.open_shard(ty, shard, grant, session)
    }
    fn load<'a>(
        &'a self,
        grain: &'a GrainId,
        slot: &'a str,
        shard: ShardId,
        token: Token,
    ) -> BoxFuture<'a, Result<Stored, StoreError>> {
        Box::pin(async move {
            self.note("load", slot, token);
            let fail = self.fail_opens.lock().pop_front();
            match fail {
                Some(e) => Err(e),
                None => self.inner.load(grain, slot, shard, token).await,
            }
        })
    }
    fn save<'a>(&'a self, write: Write<'a>, value: Bytes) -> BoxFuture<'a, Result<Version, StoreError>> {
        Box::pin(async move {
            self.note("save", write.slot, write.token);
            let gate = self.gate.lock().clone();
            if let Some(gate) = gate {
                gate.acquire().await.expect("never closed").forget();
            }
            let fail = self.fail_saves.lock().pop_front();
            match fail {
                Some((e, done)) => {
                    if done {
                        self.inner.save(write, value).await?;
                    }
                    Err(e)
                }
                None => self.inner.save(write, value).await,
            }
        })
    }
    fn clear<'a>(&'a self, write: Write<'a>) -> BoxFuture<'a, Result<Version, StoreError>> {
        self.note("clear", write.slot, write.token);
        self.inner.clear(write)
    }
}
