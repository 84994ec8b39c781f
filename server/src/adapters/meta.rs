//! The directory's [`Meta`], the grains' [`StateStore`] and the keeper's [`KeeperLink`] over the members'
//! clients.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use millet_core::{
    BoxFuture, GrainId, GrainType, Grant, Revision, SessionId, ShardId,
    model::{Keepalive, KeepaliveAnswer, OpenSession, OpenedSession, Watched},
    store::{StateStore, StoreError, Stored, Token, Version, Write},
};
use millet_directory::{Acquired, Holder, KeeperLink, Meta, MetaError, ShardAck};
use millet_raft_meta::client::{
    Acquired as Answer, ClientError, ClientOptions, Held, KeeperClient, MetaClient, StateClient,
};

/// The clients of a cluster whose id a fresh node learns only when the cluster is made. Until then
/// everything is `Unavailable`.
#[derive(Default)]
pub struct Clients(OnceLock<(MetaClient, StateClient)>);

impl Clients {
    /// The cluster is known. The first call counts.
    pub fn join(&self, options: &ClientOptions) {
        self.0.get_or_init(|| (MetaClient::new(options), StateClient::new(options)));
    }

    fn meta(&self) -> Result<&MetaClient, MetaError> {
        let unknown = || MetaError::Unavailable(NO_CLUSTER.to_owned());
        self.0.get().map(|(meta, _)| meta).ok_or_else(unknown)
    }

    fn state(&self) -> Result<&StateClient, StoreError> {
        let unknown = || StoreError::Unavailable(NO_CLUSTER.to_owned());
        self.0.get().map(|(_, state)| state).ok_or_else(unknown)
    }
}

const NO_CLUSTER: &str = "this node belongs to no cluster yet; run `millet init` once";

/// [`Meta`] over the members.
pub struct ClusterMeta(pub Arc<Clients>);

/// [`StateStore`] over the members.
pub struct ClusterStore(pub Arc<Clients>);

/// [`KeeperLink`] over the members.
pub struct ClusterKeeper(pub KeeperClient);

fn error(e: ClientError) -> MetaError {
    match e {
        ClientError::Unavailable(why) => MetaError::Unavailable(why),
        ClientError::SessionNotAlive(session) => MetaError::SessionNotAlive(session),
        ClientError::Refused(why) => MetaError::Refused(why),
    }
}

fn holder(held: Held) -> Holder {
    Holder { session: held.session, node: held.node, grant: held.grant }
}

impl Meta for ClusterMeta {
    fn acquire<'a>(
        &'a self,
        grain: &'a GrainId,
        session: SessionId,
    ) -> BoxFuture<'a, Result<Acquired, MetaError>> {
        Box::pin(async move {
            Ok(match self.0.meta()?.acquire(grain, session).await.map_err(error)? {
                Answer::Granted { grant, .. } => Acquired::Granted(grant),
                Answer::Held(held) => Acquired::Held(holder(held)),
                Answer::Retry => Acquired::Retry,
            })
        })
    }

    fn release<'a>(
        &'a self,
        grain: &'a GrainId,
        session: SessionId,
        grant: Grant,
    ) -> BoxFuture<'a, Result<(), MetaError>> {
        Box::pin(async move { self.0.meta()?.release(grain, session, grant).await.map_err(error) })
    }

    fn move_to<'a>(
        &'a self,
        grain: &'a GrainId,
        session: SessionId,
        grant: Grant,
        to: SessionId,
    ) -> BoxFuture<'a, Result<Option<Holder>, MetaError>> {
        Box::pin(async move {
            Ok(self.0.meta()?.move_to(grain, session, grant, to).await.map_err(error)?.map(holder))
        })
    }

    fn lookup<'a>(&'a self, grain: &'a GrainId) -> BoxFuture<'a, Result<Option<Holder>, MetaError>> {
        Box::pin(async move { Ok(self.0.meta()?.lookup(grain).await.map_err(error)?.map(holder)) })
    }

    fn ack_shard(&self, ack: ShardAck) -> BoxFuture<'_, Result<(), MetaError>> {
        Box::pin(async move {
            let ShardAck { ty, shard, session, grant, given_up } = ack;
            self.0.meta()?.ack_shard(&ty, shard, session, grant, given_up).await.map_err(error)
        })
    }

    fn drain(&self, session: SessionId) -> BoxFuture<'_, Result<(), MetaError>> {
        Box::pin(async move { self.0.meta()?.drain(session).await.map_err(error) })
    }

    fn close(&self, session: SessionId) -> BoxFuture<'_, Result<(), MetaError>> {
        Box::pin(async move { self.0.meta()?.close(session).await.map_err(error) })
    }

    fn watch(
        &self,
        from: Revision,
    ) -> BoxFuture<'_, Result<BoxStream<'static, Result<Watched, MetaError>>, MetaError>> {
        Box::pin(async move {
            let watch = self.0.meta()?.watch(from).await.map_err(error)?;
            Ok(watch.map(|event| event.map_err(error)).boxed())
        })
    }
}

impl StateStore for ClusterStore {
    fn open<'a>(
        &'a self,
        grain: &'a GrainId,
        slot: &'a str,
        token: Token,
    ) -> BoxFuture<'a, Result<Stored, StoreError>> {
        Box::pin(async move { self.0.state()?.open(grain, slot, token).await })
    }

    fn open_shard<'a>(
        &'a self,
        ty: &'a GrainType,
        shard: ShardId,
        grant: Grant,
        session: SessionId,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move { self.0.state()?.open_shard(ty, shard, grant, session).await })
    }

    fn load<'a>(
        &'a self,
        grain: &'a GrainId,
        slot: &'a str,
        shard: ShardId,
        token: Token,
    ) -> BoxFuture<'a, Result<Stored, StoreError>> {
        Box::pin(async move { self.0.state()?.load(grain, slot, shard, token).await })
    }

    fn save<'a>(&'a self, write: Write<'a>, value: Bytes) -> BoxFuture<'a, Result<Version, StoreError>> {
        Box::pin(async move { self.0.state()?.save(write, value).await })
    }

    fn clear<'a>(&'a self, write: Write<'a>) -> BoxFuture<'a, Result<Version, StoreError>> {
        Box::pin(async move { self.0.state()?.clear(write).await })
    }
}

impl KeeperLink for ClusterKeeper {
    fn members(&self) -> usize {
        self.0.members()
    }

    fn open(&self, open: OpenSession) -> BoxFuture<'_, Result<OpenedSession, MetaError>> {
        Box::pin(async move { self.0.open(open).await.map_err(error) })
    }

    fn keepalive(
        &self,
        member: usize,
        keepalive: Keepalive,
    ) -> BoxFuture<'_, Result<KeepaliveAnswer, MetaError>> {
        Box::pin(async move { self.0.keepalive(member, keepalive).await.map_err(error) })
    }
}
