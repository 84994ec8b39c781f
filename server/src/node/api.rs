//! The way in for callers outside the cluster: the gateway's services on the API listener, and calls by
//! name with JSON for grains and tools.

use std::sync::Arc;

use millet_core::{ServiceInfo, caller::Caller};
use millet_gateway::{Api, Health, InterfaceError, Interfaces, JsonCaller, router};
use tonic::service::Routes;

use crate::world::World;

/// What stands between outside callers and the node's own caller.
pub(super) struct Outside {
    interfaces: Arc<Interfaces>,
    caller: Arc<dyn Caller>,
    world: World,
}

impl Outside {
    /// Offers these services.
    pub(super) fn new(
        world: &World,
        services: impl IntoIterator<Item = ServiceInfo>,
        caller: Arc<dyn Caller>,
    ) -> Result<Self, InterfaceError> {
        Ok(Self { interfaces: Arc::new(Interfaces::new(services)?), caller, world: world.clone() })
    }

    /// Calls by name: a resource of every grain.
    pub(super) fn json(&self) -> JsonCaller {
        let World { clock, entropy, .. } = &self.world;
        JsonCaller::new(self.interfaces.clone(), self.caller.clone(), clock.clone(), entropy.clone())
    }

    /// What the API listener serves, and the switch of its health.
    pub(super) fn routes(&self) -> Result<(Routes, Health), InterfaceError> {
        let World { clock, entropy, .. } = &self.world;
        let api = Api::new(self.interfaces.clone(), self.caller.clone(), clock.clone(), entropy.clone());
        router(api, true)
    }
}
