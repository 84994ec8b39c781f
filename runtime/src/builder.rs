//! Puts a runtime together: which grains it hosts, what they may use.

use std::{
    any::{Any, TypeId},
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use millet_core::{
    Clock, GrainType, ServiceInfo, limits,
    model::{Ownership, TypeDecl},
    store::StateStore,
    world::{Entropy, Spawner},
};
use millet_directory::{Owners, Placement};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::{
    Grain, GrainOptions, Runtime,
    deps::{Deps, Hosts},
    host::{AnyHost, Deliver, Host},
    road::{Road, Roads},
    stats::Counters,
    stripe::STRIPES,
    timers::Timers,
};

/// What the runtime takes from the World.
#[derive(Clone)]
pub struct RuntimeDeps {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Where tasks start.
    pub spawner: Arc<dyn Spawner>,
    /// Request and panic ids.
    pub entropy: Arc<dyn Entropy>,
}

/// Collects what a runtime hosts. Made before the directory, which has to know the types.
pub struct RuntimeBuilder {
    deps: RuntimeDeps,
    types: Vec<Registered>,
    resources: HashMap<TypeId, Arc<dyn Any + Send + Sync>>,
    stores: HashMap<String, Arc<dyn StateStore>>,
}

struct Registered {
    service: ServiceInfo,
    options: GrainOptions,
    install: fn(GrainType, GrainOptions, &Arc<Deps>, &mut Hosts, &mut [Roads]),
}

/// Why a runtime cannot start.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A panic must end one activation, not the process.
    #[error(
        "built with panic = \"abort\"; remove it from the Cargo profile: a grain that panics must not end the process"
    )]
    PanicAbort,
    /// Two grains answer to one service.
    #[error("grain type {0:?} is registered twice; register one grain per service")]
    Twice(String),
    /// A type cannot be hosted as declared.
    #[error("grain type {ty:?}: {why}")]
    BadType {
        /// The type.
        ty: String,
        /// What is wrong, and what to do.
        why: String,
    },
}

impl RuntimeBuilder {
    /// Starts with nothing.
    pub fn new(deps: RuntimeDeps) -> Self {
        Self { deps, types: Vec::new(), resources: HashMap::new(), stores: HashMap::new() }
    }

    /// Hosts grains of type `G`.
    #[must_use]
    pub fn grain<G: Grain>(mut self) -> Self {
        self.types.push(Registered {
            service: ServiceInfo::of::<G::Service>(),
            options: G::options(),
            install: install::<G>,
        });
        self
    }

    /// Gives grains a resource, found by its type. A second one of the same type replaces the first.
    #[must_use]
    pub fn resource<T: Send + Sync + 'static>(mut self, resource: T) -> Self {
        self.resources.insert(TypeId::of::<T>(), Arc::new(resource));
        self
    }

    /// Gives grains a state store, found by its name; `default` is the one `c.state(…)` takes.
    #[must_use]
    pub fn store(mut self, name: &str, store: Arc<dyn StateStore>) -> Self {
        self.stores.insert(name.to_owned(), store);
        self
    }

    /// What the directory has to know of every hosted type. Types with bad names are left out here and
    /// refused by `build`.
    pub fn types(&self) -> Vec<(TypeDecl, Placement)> {
        let decl = |r: &Registered| {
            let ty = GrainType::new(r.service.name).ok()?;
            Some((TypeDecl { ty, ownership: r.options.ownership, keys: r.service.keys }, r.options.placement))
        };
        self.types.iter().filter_map(decl).collect()
    }

    /// What the gateway has to know of every hosted type.
    pub fn services(&self) -> Vec<ServiceInfo> {
        self.types.iter().map(|r| r.service).collect()
    }

    /// The stores given so far, by name: the directory opens shards in them.
    pub fn stores(&self) -> Vec<(String, Arc<dyn StateStore>)> {
        self.stores.iter().map(|(n, s)| (n.clone(), s.clone())).collect()
    }

    /// Starts the runtime. Its tasks end when it is dropped.
    ///
    /// # Errors
    /// [`BuildError`]. A program built with `panic = "abort"` is refused: Cargo applies a profile's `panic`
    /// to every crate of the build, so this library sees the setting of the binary it ends up in.
    pub fn build(self, owners: Arc<dyn Owners>) -> Result<Arc<Runtime>, BuildError> {
        refuse_abort(cfg!(panic = "abort"))?;
        let RuntimeDeps { clock, spawner, entropy } = self.deps;
        let timers = Timers::new(clock.clone());
        let deps = Arc::new(Deps {
            start: clock.boottime(),
            clock,
            request_prefix: entropy.next_u64(),
            requests: Default::default(),
            entropy,
            owners,
            stores: self.stores,
            resources: self.resources,
            timers: timers.clone(),
            counters: Counters::default(),
            tells: Arc::new(Semaphore::new(limits::TELLS)),
            roads: OnceLock::new(),
            foreign: Mutex::default(),
            spawner,
        });
        let mut hosts = Hosts::default();
        let mut roads: Vec<Roads> = (0..STRIPES).map(|_| Roads::default()).collect();
        let mut services = Vec::new();
        for r in self.types {
            let ty = checked(&r, &hosts)?;
            services.push(r.service);
            (r.install)(ty, r.options, &deps, &mut hosts, &mut roads);
        }
        let roads: Vec<_> = roads.into_iter().map(Arc::new).collect();
        deps.roads.get_or_init(|| roads.iter().map(Arc::downgrade).collect());
        timers.start(&*deps.spawner);
        for host in hosts.by_name.values() {
            host.start();
        }
        Ok(Arc::new(Runtime { deps, hosts, roads, services }))
    }
}

fn refuse_abort(aborts: bool) -> Result<(), BuildError> {
    if aborts { Err(BuildError::PanicAbort) } else { Ok(()) }
}

fn checked(r: &Registered, hosts: &Hosts) -> Result<GrainType, BuildError> {
    let bad = |why: String| BuildError::BadType { ty: r.service.name.to_owned(), why };
    let ty = GrainType::new(r.service.name).map_err(|_| {
        bad("a type name is 1 to 128 ASCII letters, digits, '_', '.' and '-'; rename it".into())
    })?;
    if hosts.by_name.contains_key(&ty) {
        return Err(BuildError::Twice(ty.to_string()));
    }
    if let Ownership::Sharded { shards } = r.options.ownership
        && !(1..=limits::SHARDS).contains(&shards)
    {
        return Err(bad(format!("{shards} shards; give it 1 to {}", limits::SHARDS)));
    }
    Ok(ty)
}

fn install<G: Grain>(
    ty: GrainType,
    options: GrainOptions,
    deps: &Arc<Deps>,
    hosts: &mut Hosts,
    roads: &mut [Roads],
) {
    let host: Arc<Host<G>> = Host::new(ty.clone(), options, deps.clone());
    let deliver: Arc<dyn Deliver<G::Service>> = host.clone();
    for stripe in roads {
        stripe.add(Road { deps: deps.clone(), host: Some(deliver.clone()), ty: Ok(ty.clone()) });
    }
    let host: Arc<dyn AnyHost> = host;
    hosts.by_name.insert(ty, host);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `panic = "abort"` is refused at start, and the message says what to change.
    #[test]
    fn abort_on_panic_is_refused() {
        assert!(refuse_abort(false).is_ok());
        let e = refuse_abort(true).expect_err("refused");
        assert!(e.to_string().contains("remove it from the Cargo profile"));
    }
}
