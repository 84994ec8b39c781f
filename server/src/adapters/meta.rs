//! The directory's [`Meta`] and the keeper's [`KeeperLink`] over the members' clients.

use futures::{StreamExt, stream::BoxStream};
use millet_core::{
    BoxFuture, GrainId, Grant, Revision, SessionId,
    model::{Keepalive, KeepaliveAnswer, OpenSession, OpenedSession, Watched},
};
use millet_directory::{Acquired, Holder, KeeperLink, Meta, MetaError, ShardAck};
use millet_raft_meta::client::{Acquired as Answer, ClientError, Held, KeeperClient, MetaClient};

/// [`Meta`] over the members.
pub struct ClusterMeta(pub MetaClient);

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
            Ok(match self.0.acquire(grain, session).await.map_err(error)? {
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
        Box::pin(async move { self.0.release(grain, session, grant).await.map_err(error) })
    }

    fn move_to<'a>(
        &'a self,
        grain: &'a GrainId,
        session: SessionId,
        grant: Grant,
        to: SessionId,
    ) -> BoxFuture<'a, Result<Option<Holder>, MetaError>> {
        Box::pin(
            async move { Ok(self.0.move_to(grain, session, grant, to).await.map_err(error)?.map(holder)) },
        )
    }

    fn lookup<'a>(&'a self, grain: &'a GrainId) -> BoxFuture<'a, Result<Option<Holder>, MetaError>> {
        Box::pin(async move { Ok(self.0.lookup(grain).await.map_err(error)?.map(holder)) })
    }

    fn ack_shard(&self, ack: ShardAck) -> BoxFuture<'_, Result<(), MetaError>> {
        Box::pin(async move {
            let ShardAck { ty, shard, session, grant, given_up } = ack;
            self.0.ack_shard(&ty, shard, session, grant, given_up).await.map_err(error)
        })
    }

    fn drain(&self, session: SessionId) -> BoxFuture<'_, Result<(), MetaError>> {
        Box::pin(async move { self.0.drain(session).await.map_err(error) })
    }

    fn close(&self, session: SessionId) -> BoxFuture<'_, Result<(), MetaError>> {
        Box::pin(async move { self.0.close(session).await.map_err(error) })
    }

    fn watch(
        &self,
        from: Revision,
    ) -> BoxFuture<'_, Result<BoxStream<'static, Result<Watched, MetaError>>, MetaError>> {
        Box::pin(async move {
            let watch = self.0.watch(from).await.map_err(error)?;
            Ok(watch.map(|event| event.map_err(error)).boxed())
        })
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
