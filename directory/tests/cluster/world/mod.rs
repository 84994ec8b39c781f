//! A small honest cluster for tests, in virtual time: the real metadata state machine, leader clock,
//! renewals and shard planner behind a link that can be cut; real directories and keepers; a runtime in
//! miniature whose turns an oracle watches (G1: never two activations that both believe in themselves).

mod node;
mod store;

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use millet_core::{
    BootTime, Chain, Clock, Envelope, GrainId, GrainType, Key, KeyKind, MethodId, Outcome, RequestId, Sender,
    SessionId,
    model::{Ownership, TypeDecl},
};
use millet_directory::{Owners, Placement, TypeConfig};
use millet_testkit::MemoryStore;
use parking_lot::Mutex;

pub use node::{Behaviour, TestNode};
pub use store::{Store, TestLink};

pub const TTL: Duration = Duration::from_secs(4);

/// Boot time that follows tokio's (paused) clock.
#[derive(Clone)]
pub struct TokioClock(tokio::time::Instant);

impl Clock for TokioClock {
    fn boottime(&self) -> BootTime {
        BootTime(0).after(Duration::from_secs(1000) + self.0.elapsed())
    }
    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
    fn wall_ms(&self) -> u64 {
        1_793_500_000_000 + u64::try_from(self.0.elapsed().as_millis()).expect("in the test world")
    }
}

/// Lets virtual time pass: what the simulated network, disk or turn takes. Nobody waits for a result so.
pub async fn pass(d: Duration) {
    // tidy: sleep: the tests' clock is paused, this is simulated latency
    tokio::time::sleep(d).await;
}

/// Everything the nodes of one test share.
pub struct World {
    pub clock: TokioClock,
    pub store: Arc<Store>,
    pub shard_store: Arc<MemoryStore>,
    pub nodes: Mutex<HashMap<u64, Arc<TestNode>>>,
    /// Turns by request: more than one is a doubled deed.
    pub turns: Mutex<HashMap<u128, u32>>,
    requests: std::sync::atomic::AtomicU64,
}

pub fn player(n: u64) -> GrainId {
    GrainId::new(GrainType::new("t.Player").expect("in the test world"), n)
}
pub fn hashed(n: u64) -> GrainId {
    GrainId::new(GrainType::new("t.Hashed").expect("in the test world"), n)
}
pub fn rank(n: u64) -> GrainId {
    GrainId::new(GrainType::new("t.Rank").expect("in the test world"), n)
}
pub fn gm() -> GrainId {
    GrainId::new(
        GrainType::new("t.Gm").expect("in the test world"),
        Key::text("gm").expect("in the test world"),
    )
}

/// The types of every node: leased near the caller, leased by hash, eight shards, one shard.
pub fn types() -> Vec<TypeConfig> {
    let ty = |name: &str, ownership, keys, placement| TypeConfig {
        decl: TypeDecl { ty: GrainType::new(name).expect("in the test world"), ownership, keys },
        placement,
    };
    vec![
        ty("t.Player", Ownership::Leased, KeyKind::Int, Placement::PreferLocal),
        ty("t.Hashed", Ownership::Leased, KeyKind::Int, Placement::Hash),
        ty("t.Rank", Ownership::Sharded { shards: 8 }, KeyKind::Int, Placement::PreferLocal),
        ty("t.Gm", Ownership::Sharded { shards: 1 }, KeyKind::Text, Placement::PreferLocal),
    ]
}

impl World {
    /// A metadata store and `nodes` nodes, numbered from 1, that serve and know one another.
    pub async fn new(nodes: u64) -> Arc<Self> {
        let clock = TokioClock(tokio::time::Instant::now());
        let world = Arc::new(Self {
            clock: clock.clone(),
            store: Store::start(clock),
            shard_store: Arc::new(MemoryStore::new()),
            nodes: Mutex::default(),
            turns: Mutex::default(),
            requests: std::sync::atomic::AtomicU64::new(0),
        });
        for n in 1..=nodes {
            world.add(n);
        }
        let limit = Duration::from_secs(5);
        millet_testkit::until_async("all nodes know all others", async || world.all_serve(), limit).await;
        world
    }

    /// Starts a node.
    pub fn add(self: &Arc<Self>, n: u64) -> Arc<TestNode> {
        let node = TestNode::start(self, n);
        self.nodes.lock().insert(n, node.clone());
        node
    }

    pub fn node(&self, n: u64) -> Arc<TestNode> {
        self.nodes.lock()[&n].clone()
    }

    /// Every living node has a valid session, sees all others, and every shard is open somewhere.
    pub fn all_serve(&self) -> bool {
        let nodes: Vec<_> = self.nodes.lock().values().filter(|n| !n.is_down()).cloned().collect();
        let count = nodes.len();
        let rank = GrainType::new("t.Rank").expect("in the test world");
        nodes.iter().all(|n| {
            let view = n.directory.view();
            n.directory.valid_session().is_some() && view.eligible(&rank).count() == count
        }) && (0..64).all(|k| nodes.iter().any(|n| n.directory.claim_now(&self::rank(k)).is_some()))
            && nodes.iter().any(|n| n.directory.claim_now(&gm()).is_some())
    }

    /// A call from a node, ten seconds' deadline.
    pub async fn call(&self, from: u64, grain: &GrainId) -> Outcome {
        self.call_within(from, grain, Duration::from_secs(10)).await
    }

    pub async fn call_within(&self, from: u64, grain: &GrainId, limit: Duration) -> Outcome {
        self.call_as(from, grain, limit, None).await
    }

    /// A call that an activation under this session makes.
    pub async fn call_as(
        &self,
        from: u64,
        grain: &GrainId,
        limit: Duration,
        sender: Option<SessionId>,
    ) -> Outcome {
        let request = self.requests.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let envelope = Envelope {
            target: grain.clone(),
            method: MethodId(1),
            args: Bytes::new(),
            request: RequestId(u128::from(request)),
            deadline: self.clock.boottime().after(limit),
            chain: Chain::default(),
            sender: sender.map(|session| Sender { session, epoch: None }),
            grant: None,
            one_way: false,
            context: Arc::default(),
        };
        let directory = self.node(from).directory.clone();
        let outcome = directory.call(envelope).await;
        let ran = self.turns.lock().get(&u128::from(request)).copied().unwrap_or(0);
        assert!(ran <= 1, "request {request} ran {ran} times");
        assert!(outcome.is_err() || ran == 1, "answered without a turn");
        outcome
    }

    /// The node that answered.
    pub fn by(outcome: &Outcome) -> u64 {
        outcome.as_ref().unwrap_or_else(|e| panic!("{e}"))[0].into()
    }
}
