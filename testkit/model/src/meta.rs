//! The metadata store as the models drive it: the product's `Machine` and a log position. Raft itself is
//! abstracted away: entries are applied in one order, and nothing else is believed of the log.

use std::{
    hash::{Hash, Hasher},
    sync::LazyLock,
};

use millet_core::{
    GrainId, GrainType, KeyKind, NodeId, SessionId,
    model::{NodeInfo, Ownership, TypeDecl},
};
use millet_raft_meta::machine::{Command, Init, LeaseKey, Machine, Op, OpResult, Open, Reply, Secret, Tick};

/// Time to live of the models' sessions, milliseconds: a quarter is one second.
pub const TTL_MS: u64 = 4_000;

static LEASED: LazyLock<GrainType> = LazyLock::new(|| GrainType::new("Player").expect("a plain name"));
static SHARDED: LazyLock<GrainType> = LazyLock::new(|| GrainType::new("Gm").expect("a plain name"));
static GRAIN: LazyLock<GrainId> = LazyLock::new(|| GrainId::new(LEASED.clone(), 1u64));
static KEY: LazyLock<LeaseKey> = LazyLock::new(|| LeaseKey::of(&Secret([7; 16]), &GRAIN));
static LEASED_ID: LazyLock<u64> = LazyLock::new(|| LEASED.id());

/// The type with one shard.
pub fn sharded() -> &'static GrainType {
    &SHARDED
}

/// The grain that leases are about.
pub fn grain() -> &'static GrainId {
    &GRAIN
}

/// Its row, and its type's.
pub fn row() -> (LeaseKey, u64) {
    (*KEY, *LEASED_ID)
}

/// A node as it introduces itself.
pub fn node_info(node: usize) -> NodeInfo {
    let decl = |ty, ownership| TypeDecl { ty, ownership, keys: KeyKind::Int };
    NodeInfo {
        id: NodeId(node as u64 + 1),
        name: String::new(),
        peer_addr: String::new(),
        api_addr: String::new(),
        types: vec![
            decl(LEASED.clone(), Ownership::Leased),
            decl(SHARDED.clone(), Ownership::Sharded { shards: 1 }),
        ],
    }
}

/// Machine and log position.
#[derive(Clone, Debug)]
pub struct Meta {
    /// The product's.
    pub machine: Machine,
    /// The last entry.
    pub index: u64,
    /// Of the machine: computed once per entry.
    hash: u64,
}

impl PartialEq for Meta {
    fn eq(&self, other: &Self) -> bool {
        (self.index, self.hash) == (other.index, other.hash)
    }
}
impl Eq for Meta {}
impl Hash for Meta {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.hash.hash(state);
    }
}

impl Default for Meta {
    fn default() -> Self {
        let mut meta = Self { machine: Machine::new(), index: 0, hash: 0 };
        meta.apply(Command::Init(Init { cluster: "m".into(), secret: Secret([7; 16]), generation: 1 }));
        meta
    }
}

impl Meta {
    /// Applies the next entry.
    pub fn apply(&mut self, command: Command) -> Reply {
        self.index += 1;
        let (reply, _) = self.machine.apply(self.index, command);
        self.hash = self.machine.state_hash();
        reply
    }

    /// Opens a session that has not been renewed.
    pub fn open(&mut self, node: usize, incarnation: u128, attempt: u32, ttl_ms: u64) -> Reply {
        let open = Open { incarnation, attempt, node: node_info(node), ttl_ms };
        self.apply(Command::OpenSession(open))
    }

    /// Opens a session and renews it, as the untimed models need it.
    pub fn join(&mut self, node: usize, incarnation: u128, attempt: u32) -> SessionId {
        let Reply::Opened(opened) = self.open(node, incarnation, attempt, TTL_MS) else {
            unreachable!("nothing here uses up sessions or repeats attempts")
        };
        let session = opened.session;
        let renewed = millet_raft_meta::machine::Renewed { session, number: 1, reserve_ms: 0, load: 0 };
        self.apply(Command::Tick(Tick { time_ms: 0, wall_ms: 0, renewed: vec![renewed] }));
        session
    }

    /// One entry of several operations.
    pub fn batch(&mut self, ops: Vec<Op>) -> Vec<OpResult> {
        match self.apply(Command::Batch(ops)) {
            Reply::Batch(results) => results,
            other => unreachable!("a batch is answered with a batch, not {other:?}"),
        }
    }

    /// The session's end, in the untimed models: whoever applies this has made sure that its holder is
    /// past its deadline or gone, which the timed models show of Ticks.
    pub fn end(&mut self, session: SessionId) {
        self.batch(vec![Op::Close { session }]);
    }
}
