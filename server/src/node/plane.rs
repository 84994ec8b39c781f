//! Where a node's metadata and state live: in memory, or in the Raft members. [`Ground`] is what a node has
//! before it knows its cluster, [`Plane`] is what it works with afterwards.

use std::sync::Arc;

use millet_core::{NodeId, store::StateStore};
use millet_directory::{KeeperLink, Meta};
use tonic::transport::server::Router;

use super::StartError;
use crate::{
    adapters::{local_meta::LocalMeta, memory::MemoryStore},
    config::Config,
    world::World,
};

/// An in-memory metadata store and state store that several nodes of one process may share.
#[derive(Clone)]
pub struct Memory {
    meta: Arc<LocalMeta>,
    store: Arc<MemoryStore>,
}

impl Memory {
    /// Starts them on this world; they live as long as the last clone.
    pub fn start(world: &World, config: &Config) -> Self {
        let tick = std::time::Duration::from_millis(config.cluster.tick_ms);
        let (clock, entropy) = (world.clock.clone(), &*world.entropy);
        let meta = LocalMeta::start(&config.cluster.id, tick, clock, entropy, &*world.io);
        Self { meta, store: Arc::default() }
    }
}

/// The metadata store and state store as one node reaches them.
pub(super) struct Plane {
    pub(super) cluster: String,
    pub(super) meta: Arc<dyn Meta>,
    pub(super) store: Arc<dyn StateStore>,
}

/// Makes the keeper's link, on the keeper's own runtime.
pub(super) type MakeLink = Box<dyn FnOnce() -> Arc<dyn KeeperLink> + Send>;

/// A node before it knows its cluster.
pub(super) enum Ground {
    /// Everything in memory.
    Memory(NodeId, Memory),
}

impl Ground {
    /// Opens what the settings name. `memory`: in memory, shared where one is given. `own`: how others
    /// reach this node.
    pub(super) async fn open(
        world: &World,
        config: &Config,
        memory: Option<Option<Memory>>,
        own: String,
    ) -> Result<Self, StartError> {
        let _ = own;
        match memory {
            Some(shared) => {
                let memory = shared.unwrap_or_else(|| Memory::start(world, config));
                Ok(Self::Memory(NodeId(world.entropy.next_u64().max(1)), memory))
            }
            None => Err(StartError::Member("not built yet".into())),
        }
    }

    /// This node's id.
    pub(super) fn node(&self) -> NodeId {
        match self {
            Self::Memory(node, _) => *node,
        }
    }

    /// Adds what this node serves to other nodes.
    pub(super) fn serve(&self, router: Router) -> Router {
        match self {
            Self::Memory(..) => router,
        }
    }

    /// Waits until the cluster is known.
    pub(super) async fn join(self, _world: &World, config: &Config) -> Result<(Plane, MakeLink), StartError> {
        match self {
            Self::Memory(_, memory) => {
                let link = memory.meta.clone();
                let cluster = config.cluster.id.clone();
                let plane = Plane { cluster, meta: memory.meta, store: memory.store };
                Ok((plane, Box::new(move || link)))
            }
        }
    }
}

impl Plane {
    /// Leaves in good order: leadership is handed on first.
    pub(super) async fn leave(&mut self) {}

    /// Stops without saying anything to anybody.
    pub(super) fn abandon(&mut self) {}
}
