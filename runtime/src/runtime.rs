//! skeleton
use std::sync::Arc;

use millet_core::{
    BootTime, BoxFuture, Clock, Envelope, GrainId, GrainType, Grant, Key, Outcome, ServiceInfo, SessionId,
    ShardId,
    model::TypeDecl,
    store::StateStore,
    world::{Entropy, Spawner},
};
use millet_directory::{Owners, Placement, Residents};

use crate::{Grain, Hosted};

/// What the runtime takes from the World.
#[derive(Clone)]
pub struct RuntimeDeps {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Where tasks start.
    pub spawner: Arc<dyn Spawner>,
    /// Request ids.
    pub entropy: Arc<dyn Entropy>,
}

/// Collects what a runtime hosts.
pub struct RuntimeBuilder {
    deps: RuntimeDeps,
}

/// Why a runtime cannot start.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A panic must end one activation, not the process.
    #[error(
        "built with panic = \"abort\"; remove it from the Cargo profile: a panicking grain must not end the process"
    )]
    PanicAbort,
    /// Two grains answer to one service.
    #[error("grain type {0} is registered twice; register one grain per service")]
    Twice(String),
    /// An option makes no sense.
    #[error("grain type {ty}: {why}")]
    Options {
        /// The type.
        ty: String,
        /// What is wrong, and what to do.
        why: String,
    },
}

impl RuntimeBuilder {
    /// Starts with nothing.
    pub fn new(deps: RuntimeDeps) -> Self {
        Self { deps }
    }
    /// Hosts grains of type `G`.
    #[must_use]
    pub fn grain<G: Grain>(self) -> Self {
        self
    }
    /// Gives grains a resource, found by its type.
    #[must_use]
    pub fn resource<T: Send + Sync + 'static>(self, resource: T) -> Self {
        let _ = resource;
        self
    }
    /// Gives grains a state store, found by its name.
    #[must_use]
    pub fn store(self, name: &str, store: Arc<dyn StateStore>) -> Self {
        let _ = (name, store);
        self
    }
    /// What the directory has to know of every hosted type.
    pub fn types(&self) -> Vec<(TypeDecl, Placement)> {
        Vec::new()
    }
    /// What the gateway has to know of every hosted type.
    pub fn services(&self) -> Vec<ServiceInfo> {
        Vec::new()
    }
    /// Starts the runtime.
    pub fn build(self, owners: Arc<dyn Owners>) -> Result<Arc<Runtime>, BuildError> {
        Ok(Arc::new(Runtime { deps: self.deps, owners }))
    }
}

/// The grains of one node.
pub struct Runtime {
    deps: RuntimeDeps,
    owners: Arc<dyn Owners>,
}

impl Runtime {
    /// A reference to a grain, from outside of any grain.
    pub fn get<S: Hosted>(&self, key: impl Into<Key>) -> S::Ref {
        let _ = (key, &self.deps);
        crate::GrainRef::<S>::skeleton().into()
    }
}

impl Residents for Runtime {
    fn session_ended(&self, _session: SessionId) {}
    fn close_shard<'a>(
        &'a self,
        _ty: &'a GrainType,
        _shard: ShardId,
        _grant: Grant,
        _until: BootTime,
    ) -> BoxFuture<'a, bool> {
        Box::pin(async { true })
    }
    fn outranked(&self, _grain: &GrainId, _grant: Grant) {}
    fn drain<'a>(&'a self, _until: BootTime) -> BoxFuture<'a, usize> {
        Box::pin(async { 0 })
    }
    fn activations(&self) -> u64 {
        0
    }
    fn dispatch(&self, envelope: Envelope) -> BoxFuture<'static, Outcome> {
        self.owners.call(envelope)
    }
}
