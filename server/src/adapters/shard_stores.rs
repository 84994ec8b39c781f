//! The state stores of a node as its directory sees them: a shard is open once its floor is raised in every
//! one of them (R25). A grain may keep a state in any; a store that was left out would take the late writes
//! of the shard's last owner.

use std::sync::Arc;

use bytes::Bytes;
use millet_core::{
    BoxFuture, GrainId, GrainType, Grant, SessionId, ShardId,
    store::{StateStore, StoreError, Stored, Token, Version, Write},
};

/// All stores of a node; what concerns a single grain goes to the first.
pub struct ShardStores {
    first: Arc<dyn StateStore>,
    others: Vec<Arc<dyn StateStore>>,
}

impl ShardStores {
    /// `all` may name `first`, and any store twice.
    pub fn new(first: Arc<dyn StateStore>, all: impl IntoIterator<Item = Arc<dyn StateStore>>) -> Self {
        let mut others: Vec<Arc<dyn StateStore>> = Vec::new();
        for store in all {
            let known =
                others.iter().chain([&first]).any(|s| std::ptr::addr_eq(Arc::as_ptr(s), Arc::as_ptr(&store)));
            if !known {
                others.push(store);
            }
        }
        Self { first, others }
    }
}

impl StateStore for ShardStores {
    fn open<'a>(
        &'a self,
        grain: &'a GrainId,
        slot: &'a str,
        token: Token,
    ) -> BoxFuture<'a, Result<Stored, StoreError>> {
        self.first.open(grain, slot, token)
    }

    /// In all of them, side by side. Repeating it is harmless, so one error is enough to try all again.
    fn open_shard<'a>(
        &'a self,
        ty: &'a GrainType,
        shard: ShardId,
        grant: Grant,
        session: SessionId,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        let all =
            self.others.iter().chain([&self.first]).map(move |s| s.open_shard(ty, shard, grant, session));
        let all = futures::future::try_join_all(all);
        Box::pin(async move { all.await.map(|_| ()) })
    }

    fn load<'a>(
        &'a self,
        grain: &'a GrainId,
        slot: &'a str,
        shard: ShardId,
        token: Token,
    ) -> BoxFuture<'a, Result<Stored, StoreError>> {
        self.first.load(grain, slot, shard, token)
    }

    fn save<'a>(&'a self, write: Write<'a>, value: Bytes) -> BoxFuture<'a, Result<Version, StoreError>> {
        self.first.save(write, value)
    }

    fn clear<'a>(&'a self, write: Write<'a>) -> BoxFuture<'a, Result<Version, StoreError>> {
        self.first.clear(write)
    }
}
