//! What the runtime's tests share: a hand-written service as `stub-gen` would write it, a grain whose
//! turns are closures, a directory in memory, a clock that runs and can be pushed forward.
#![allow(dead_code, unused_imports, reason = "each test binary uses a part of it")]

mod owners;
mod probe;
mod store;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use millet_core::{BootTime, Chain, Clock, Envelope, GrainId, GrainType, MethodId, RequestId};
use millet_runtime::{Runtime, RuntimeBuilder, RuntimeDeps};
use millet_testkit::{SeededEntropy, TokioSpawner};

pub use owners::FakeOwners;
pub use probe::{
    Add, Do, Get, Heard, Hooks, Kind, Look, Probe, ProbeRef, Relay, Service, States, boxed, kind,
};
pub use store::FlakyStore;

/// Longer than anything here takes when it works.
pub const LONG: Duration = Duration::from_secs(10);

/// A clock that runs, and jumps when told.
pub struct LiveClock {
    start: Instant,
    skipped_ns: AtomicU64,
}

impl LiveClock {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { start: Instant::now(), skipped_ns: AtomicU64::new(1_000_000_000_000) })
    }
    pub fn skip(&self, d: Duration) {
        self.skipped_ns.fetch_add(u64::try_from(d.as_nanos()).expect("short"), Ordering::SeqCst);
    }
}

impl Clock for LiveClock {
    fn boottime(&self) -> BootTime {
        let ran = u64::try_from(self.start.elapsed().as_nanos()).expect("short");
        BootTime(self.skipped_ns.load(Ordering::SeqCst) + ran)
    }
    fn monotonic(&self) -> Duration {
        Duration::from_nanos(self.boottime().0)
    }
    fn wall_ms(&self) -> u64 {
        1_793_500_000_000
    }
}

/// A runtime, and everything that a test pushes.
pub struct Bench {
    pub clock: Arc<LiveClock>,
    pub owners: Arc<FakeOwners>,
    pub store: Arc<FlakyStore>,
    pub hooks: Arc<Hooks>,
    pub runtime: Arc<Runtime>,
}

impl Bench {
    /// Hosts the grains that `add` registers.
    pub fn new(add: impl FnOnce(RuntimeBuilder) -> RuntimeBuilder) -> Self {
        Self::with_store(Arc::new(FlakyStore::default()), add)
    }

    pub fn with_store(store: Arc<FlakyStore>, add: impl FnOnce(RuntimeBuilder) -> RuntimeBuilder) -> Self {
        let clock = LiveClock::new();
        let owners = FakeOwners::new(clock.clone());
        let hooks = Arc::new(Hooks::default());
        let deps = RuntimeDeps {
            clock: clock.clone(),
            spawner: Arc::new(TokioSpawner::current()),
            entropy: Arc::new(SeededEntropy::new(7)),
        };
        let builder = RuntimeBuilder::new(deps).resource(hooks.clone()).store("default", store.clone());
        let runtime = add(builder).build(owners.clone()).expect("a good set of grains");
        owners.serve(&runtime);
        Self { clock, owners, store, hooks, runtime }
    }

    pub fn of<K: Kind>() -> Self {
        Self::new(|b| b.grain::<Probe<K>>())
    }

    pub fn get<K: Kind>(&self, key: u64) -> ProbeRef<K> {
        self.runtime.get::<Service<K>>(key)
    }
}

pub fn grain<K: Kind>(key: u64) -> GrainId {
    GrainId::new(GrainType::new(K::NAME).expect("a good name"), key)
}

/// A call in wire form, with an integer argument.
pub fn envelope<K: Kind>(key: u64, method: &str, arg: i64) -> Envelope {
    Envelope {
        target: grain::<K>(key),
        method: MethodId::of(method),
        args: Bytes::copy_from_slice(&arg.to_le_bytes()),
        request: RequestId(77),
        deadline: BootTime::NEVER,
        chain: Chain(None),
        sender: None,
        grant: None,
        one_way: false,
        context: Arc::default(),
    }
}
