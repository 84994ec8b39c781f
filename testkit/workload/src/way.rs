//! How a client gets into the cluster: through a node of this process, or over the network.

use std::{future::Future, sync::Arc, time::Duration};

use millet::client::Client;
use millet_core::{
    Call, CallError, Caller, Clock, ErrorKind, GrainId, GrainType, Key, Method, RequestId, Service,
    world::Entropy,
};
use parking_lot::RwLock;

/// What a typed call through a [`Way`] ends with.
pub type Answer<M> = Result<<M as Method>::Res, CallError<<M as Method>::Error>>;

/// One way into the cluster.
pub trait Way: Send + Sync + 'static {
    /// Calls a grain and waits for its end, at most `deadline`.
    fn call<M: Method>(
        &self,
        key: Key,
        args: M::Args,
        deadline: Duration,
    ) -> impl Future<Output = Answer<M>> + Send;
}

impl Way for Client {
    fn call<M: Method>(
        &self,
        key: Key,
        args: M::Args,
        deadline: Duration,
    ) -> impl Future<Output = Answer<M>> + Send {
        Client::call::<M>(self, key, args, deadline)
    }
}

/// Calls through a node of this process.
#[derive(Clone)]
pub struct InProcess {
    /// The node's, such as `Node::caller`.
    pub caller: Arc<dyn Caller>,
    /// The node's: deadlines are on its boot clock.
    pub clock: Arc<dyn Clock>,
    /// For request ids.
    pub entropy: Arc<dyn Entropy>,
}

impl Way for InProcess {
    async fn call<M: Method>(&self, key: Key, args: M::Args, deadline: Duration) -> Answer<M> {
        let args = M::encode_args(&args).map_err(refused)?;
        let ty = GrainType::new(M::Service::NAME).map_err(refused)?;
        let call = Call {
            target: GrainId::new(ty, key),
            method: M::INFO.id,
            args,
            request: RequestId(self.entropy.next_u128()),
            deadline: self.clock.boottime().after(deadline),
            context: Arc::default(),
        };
        M::decode_result(self.caller.call(call).await)
    }
}

fn refused<E>(kind: ErrorKind) -> CallError<E> {
    CallError::Platform(kind.into())
}

/// A way through a node of this process that comes and goes: while nobody is behind it, calls surely do
/// not run.
#[derive(Clone, Default)]
pub struct Door(Arc<RwLock<Option<InProcess>>>);

impl Door {
    /// A node is there.
    pub fn open(&self, behind: InProcess) {
        *self.0.write() = Some(behind);
    }

    /// It has gone; calls under way end as the node ends them.
    pub fn close(&self) {
        *self.0.write() = None;
    }
}

impl Way for Door {
    async fn call<M: Method>(&self, key: Key, args: M::Args, deadline: Duration) -> Answer<M> {
        let behind = self.0.read().clone();
        match behind {
            Some(way) => way.call::<M>(key, args, deadline).await,
            None => Err(refused(ErrorKind::Unavailable { what: "no node behind this door".into() })),
        }
    }
}
