//! What every part of one runtime shares.

use std::{
    any::{Any, TypeId},
    collections::HashMap,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use millet_core::{
    BootTime, Clock, ErrorKind, GrainType, RequestId, Service,
    store::StateStore,
    world::{Entropy, Spawner},
};
use millet_directory::Owners;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::{
    Hosted,
    host::AnyHost,
    road::{Road, Roads},
    stats::Counters,
    stripe::{Apart, STRIPES, stripe},
    timers::Timers,
};

pub(crate) struct Deps {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) spawner: Arc<dyn Spawner>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) owners: Arc<dyn Owners>,
    pub(crate) stores: HashMap<String, Arc<dyn StateStore>>,
    pub(crate) resources: HashMap<TypeId, Arc<dyn Any + Send + Sync>>,
    pub(crate) timers: Arc<Timers>,
    pub(crate) counters: Counters,
    pub(crate) start: BootTime,
    /// Request ids made here: random half, counted half.
    pub(crate) request_prefix: u64,
    pub(crate) requests: [Apart<AtomicU64>; STRIPES],
    /// A permit per tell that may still go on its way to another node.
    pub(crate) tells: Arc<Semaphore>,
    /// To the hosted types, by stripe; they end with the runtime.
    pub(crate) roads: OnceLock<Vec<Weak<Roads>>>,
    /// Names of services called but not hosted here: one per service of the program.
    pub(crate) foreign: Mutex<HashMap<&'static str, GrainType>>,
}

/// The hosted types of a runtime.
#[derive(Default)]
pub(crate) struct Hosts {
    pub(crate) by_name: HashMap<GrainType, Arc<dyn AnyHost>>,
}

impl Deps {
    /// Milliseconds since this runtime's start; wraps after 49 days, used for differences only.
    pub(crate) fn ms(&self, now: BootTime) -> u32 {
        #[expect(clippy::cast_possible_truncation, reason = "wraps on purpose")]
        let ms = now.since(self.start).as_millis() as u32;
        ms
    }

    /// A request id for a call that no request caused.
    pub(crate) fn fresh_request(&self) -> RequestId {
        let stripe = stripe();
        let n = self.requests[stripe].0.fetch_add(1, Ordering::Relaxed);
        let n = n.wrapping_mul(STRIPES as u64) | stripe as u64;
        RequestId((u128::from(self.request_prefix) << 64) | u128::from(n))
    }

    /// The name of a service that is not hosted here.
    pub(crate) fn foreign_type<S: Service>(&self) -> Result<GrainType, ErrorKind> {
        if let Some(ty) = self.foreign.lock().get(S::NAME) {
            return Ok(ty.clone());
        }
        let ty = GrainType::new(S::NAME)?;
        self.foreign.lock().insert(S::NAME, ty.clone());
        Ok(ty)
    }

    /// The road to the grains of a service, hosted here or not.
    pub(crate) fn road<S: Hosted>(self: &Arc<Self>) -> Arc<Road<S>> {
        let hosted = || self.roads.get()?[stripe()].upgrade()?.of::<S>();
        let foreign = || Arc::new(Road { deps: self.clone(), host: None, ty: self.foreign_type::<S>() });
        hosted().unwrap_or_else(foreign)
    }
}
