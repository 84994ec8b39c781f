//! What users say about a node, before it starts.

use std::{path::Path, sync::Arc};

use millet_core::store::StateStore;
use millet_runtime::{Grain, RuntimeBuilder};

use super::{Node, StartError, assemble, plane::Memory};
use crate::{
    adapters::launcher::Launcher,
    config::Config,
    world::{RealDisk, World},
};

/// Threads that serve the network: decoding and queueing only, so few are enough.
const IO_THREADS: usize = 2;

pub(super) type Step = Box<dyn FnOnce(RuntimeBuilder) -> RuntimeBuilder + Send>;

/// What a node hosts: grains, resources, stores.
#[derive(Default)]
pub struct Plan {
    pub(super) steps: Vec<Step>,
    /// Metadata and state in memory, where they are.
    pub(super) memory: Option<Memory>,
    pub(super) in_memory: bool,
    /// Who is told of this node's sessions.
    pub(super) launcher: Option<Arc<Launcher>>,
}

/// Describes a node; see [`Node::builder`].
#[derive(Default)]
pub struct NodeBuilder {
    config: Config,
    plan: Plan,
}

impl NodeBuilder {
    /// Hosts grains of type `G`.
    #[must_use]
    pub fn grain<G: Grain>(self) -> Self {
        self.step(|runtime| runtime.grain::<G>())
    }

    /// Gives grains a resource, found by its type: `c.resource::<T>()` in `create`.
    #[must_use]
    pub fn resource<T: Send + Sync + 'static>(self, resource: T) -> Self {
        self.step(|runtime| runtime.resource(resource))
    }

    /// Gives grains another state store, found by its name.
    #[must_use]
    pub fn store(self, name: &str, store: Arc<dyn StateStore>) -> Self {
        let name = name.to_owned();
        self.step(move |runtime| runtime.store(&name, store))
    }

    /// Uses these settings.
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Reads settings from a TOML file and the environment.
    pub fn config_file(mut self, path: impl AsRef<Path>) -> Result<Self, StartError> {
        self.config = Config::load(path.as_ref())?;
        Ok(self)
    }

    /// Keeps metadata and state in memory, opens no port and writes no file: for tests and samples.
    #[must_use]
    pub fn in_memory(mut self) -> Self {
        self.plan.in_memory = true;
        self
    }

    /// As [`NodeBuilder::in_memory`], with the same memory as other nodes of this process and a port for
    /// them on loopback.
    #[must_use]
    pub fn sharing(mut self, memory: Memory) -> Self {
        self.plan.memory = Some(memory);
        self.in_memory()
    }

    /// Starts the node and waits until it has a session: calls are answered then. On a cluster without
    /// quorum that is when the quorum is there.
    pub async fn start(self) -> Result<Node, StartError> {
        let node = self.launch().await?;
        node.ready().await;
        Ok(node)
    }

    /// Starts the node and returns as soon as it listens; see [`Node::ready`]. A fresh member of a cluster of
    /// several waits for [`Node::form_cluster`] or `millet init`, here or at another member.
    pub async fn launch(self) -> Result<Node, StartError> {
        let system = |what| move |source| StartError::System { what, source };
        let mut grains = tokio::runtime::Builder::new_multi_thread();
        grains.enable_all().thread_name("millet-grains");
        if let Ok(n @ 1..) = usize::try_from(self.config.node.worker_threads) {
            grains.worker_threads(n);
        }
        let grains = grains.build().map_err(system("the grains' threads"))?;
        let mut io = tokio::runtime::Builder::new_multi_thread();
        io.enable_all().thread_name("millet-io").worker_threads(IO_THREADS);
        let io = io.build().map_err(system("the network's threads"))?;
        let world = World::real(grains.handle().clone(), io.handle().clone(), Arc::new(RealDisk));
        let Self { config, mut plan } = self;
        plan.launcher = Launcher::inherited();
        let assembled = io.spawn(assemble(world, config, plan)).await;
        let result = match assembled {
            Ok(result) => result,
            Err(e) => Err(system("the node")(std::io::Error::other(e))),
        };
        match result {
            Ok(mut node) => {
                node.threads = vec![grains, io];
                Ok(node)
            }
            Err(e) => {
                grains.shutdown_background();
                io.shutdown_background();
                Err(e)
            }
        }
    }

    /// As [`NodeBuilder::launch`], in a world of the caller's, who keeps its runtimes: for simulators and
    /// fault injection. Runs on the runtime behind the world's `io`.
    pub async fn launch_in(self, world: World) -> Result<Node, StartError> {
        assemble(world, self.config, self.plan).await
    }

    fn step(mut self, step: impl FnOnce(RuntimeBuilder) -> RuntimeBuilder + Send + 'static) -> Self {
        self.plan.steps.push(Box::new(step));
        self
    }
}
