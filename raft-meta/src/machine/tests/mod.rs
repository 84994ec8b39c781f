//! Tests of the machine, by rule; and the rig they share with the leader's tests.

mod golden;
mod leases;
mod members;
mod properties;
mod sessions;
mod shards;
mod snapshots;

use millet_core::{
    GrainId, GrainType, KeyKind, NodeId,
    model::{NodeInfo, Ownership, TypeDecl},
};

use super::*;

pub(crate) const TTL: u64 = 4_000;

pub(crate) fn decl(name: &str, ownership: Ownership) -> TypeDecl {
    TypeDecl { ty: GrainType::new(name).unwrap(), ownership, keys: KeyKind::Int }
}

/// What nodes of the rig declare: leased `Player`, `Rank` in 8 shards, `Gm` in one.
pub(crate) fn realm() -> Vec<TypeDecl> {
    vec![
        decl("Player", Ownership::Leased),
        decl("Rank", Ownership::Sharded { shards: 8 }),
        decl("Gm", Ownership::Sharded { shards: 1 }),
    ]
}

pub(crate) fn ty(name: &str) -> u64 {
    GrainType::new(name).unwrap().id()
}

pub(crate) fn node(id: u64, types: Vec<TypeDecl>) -> NodeInfo {
    NodeInfo {
        id: NodeId(id),
        name: format!("node-{id}"),
        peer_addr: "127.0.0.1:1".into(),
        api_addr: String::new(),
        types,
    }
}

/// A machine and the log position. Every command and reply passes through its bytes.
#[derive(Clone)]
pub(crate) struct Rig {
    pub(crate) machine: Machine,
    pub(crate) index: u64,
    attempts: u128,
}

impl Rig {
    pub(crate) fn new() -> Self {
        let mut rig = Self { machine: Machine::new(), index: 0, attempts: 0 };
        let init = Init { cluster: "c1".into(), secret: Secret([7; 16]), generation: 3 };
        assert_eq!(rig.run(Command::Init(init)), Reply::Done);
        rig
    }

    pub(crate) fn run(&mut self, command: Command) -> Reply {
        self.run_for_event(command).0
    }

    pub(crate) fn run_for_event(&mut self, command: Command) -> (Reply, Option<Arc<WatchEvent>>) {
        self.index += 1;
        let command = Command::decode(&command.encode()).unwrap();
        let (reply, event) = self.machine.apply(self.index, command);
        assert_eq!(Reply::decode(&reply.encode()).unwrap(), reply);
        (reply, event)
    }

    pub(crate) fn open_as(&mut self, open: Open) -> Reply {
        self.run(Command::OpenSession(open))
    }

    /// Opens a session that has not been renewed.
    pub(crate) fn open(&mut self, id: u64, types: Vec<TypeDecl>) -> SessionId {
        self.attempts += 1;
        let open = Open { incarnation: self.attempts, attempt: 1, node: node(id, types), ttl_ms: TTL };
        match self.open_as(open) {
            Reply::Opened(opened) => opened.session,
            other => panic!("{other:?}"),
        }
    }

    /// Opens a session and renews it.
    pub(crate) fn join(&mut self, id: u64) -> SessionId {
        let session = self.open(id, realm());
        self.tick(self.machine.time_ms(), &[session]);
        session
    }

    pub(crate) fn tick(&mut self, time_ms: u64, renewed: &[SessionId]) -> Ticked {
        let renewed =
            renewed.iter().map(|s| Renewed { session: *s, number: 1, reserve_ms: 0, load: 5 }).collect();
        match self.run(Command::Tick(Tick { time_ms, wall_ms: 0, renewed })) {
            Reply::Ticked(ticked) => ticked,
            other => panic!("{other:?}"),
        }
    }

    /// Time passes until every session but these is dead.
    pub(crate) fn outlive(&mut self, kept: &[SessionId]) {
        for _ in 0..3 {
            self.tick(self.machine.time_ms() + TTL / 2 + 1, kept);
        }
    }

    pub(crate) fn batch(&mut self, ops: Vec<Op>) -> Vec<OpResult> {
        match self.run(Command::Batch(ops)) {
            Reply::Batch(results) => results,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn op(&mut self, op: Op) -> OpResult {
        self.batch(vec![op]).pop().unwrap()
    }

    pub(crate) fn acquire(&mut self, n: u64, session: SessionId) -> OpResult {
        self.op(acquire(n, session))
    }

    pub(crate) fn granted(&mut self, n: u64, session: SessionId) -> Grant {
        match self.acquire(n, session) {
            OpResult::Granted { grant, .. } => grant,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn decide(&mut self, decisions: Vec<Decision>) -> Vec<bool> {
        match self.run(Command::ShardDecisions(decisions)) {
            Reply::Decided(applied) => applied,
            other => panic!("{other:?}"),
        }
    }

    /// One decision on a shard of `Rank`, made on the row as it is.
    pub(crate) fn rank(&mut self, shard: u32, set: ShardSet) -> bool {
        let decision = self.rank_decision(shard, set);
        self.decide(vec![decision])[0]
    }

    pub(crate) fn rank_decision(&self, shard: u32, set: ShardSet) -> Decision {
        let entry = self.machine.type_entry(ty("Rank")).unwrap();
        let expect = entry.shards()[shard as usize];
        Decision { ty: ty("Rank"), generation: entry.row().generation, shard: ShardId(shard), expect, set }
    }

    pub(crate) fn rank_row(&self, shard: u32) -> ShardState {
        self.machine.shard(ty("Rank"), ShardId(shard)).unwrap()
    }
}

pub(crate) fn key(n: u64) -> LeaseKey {
    LeaseKey::of(&Secret([7; 16]), &GrainId::new(GrainType::new("Player").unwrap(), n))
}
pub(crate) fn acquire(n: u64, session: SessionId) -> Op {
    Op::Acquire { key: key(n), ty: ty("Player"), session }
}
pub(crate) fn release(n: u64, session: SessionId, grant: Grant) -> Op {
    Op::Release { key: key(n), ty: ty("Player"), session, grant }
}
pub(crate) fn move_to(n: u64, session: SessionId, grant: Grant, to: SessionId) -> Op {
    Op::Move { key: key(n), ty: ty("Player"), session, grant, to }
}
pub(crate) fn ack(shard: u32, session: SessionId, grant: Grant, given_up: bool) -> Op {
    Op::AckShard { ty: ty("Rank"), shard: ShardId(shard), session, grant, given_up }
}
