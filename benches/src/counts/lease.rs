//! A lease in the pure state machine of the metadata store: what every member does with an entry once Raft
//! has agreed on it.

use anyhow::{Error, Result, bail, ensure};
use millet_core::{
    GrainType, KeyKind, NodeId, SessionId,
    model::{NodeInfo, Ownership, TypeDecl},
    world::Entropy,
};
use millet_raft_meta::machine::{
    Command, Init, LeaseKey, Machine, Op, OpResult, Open, Renewed, Reply, Secret, Tick,
};
use millet_testkit::SeededEntropy;

use super::Count;

/// Acquire and release.
pub const LEASE: Count = Count {
    name: "lease",
    work: "two entries applied by the state machine of the metadata store: one lease acquired, and released \
           again; 10,000 other leases are held",
    run,
};

const HELD: u64 = 10_000;

fn run(ops: u64) -> Result<()> {
    let mut store = Store::open()?;
    for _ in 0..HELD {
        store.acquire()?;
    }
    for _ in 0..ops {
        let release = store.acquire()?;
        let OpResult::Done = store.op(release)? else { bail!("a lease could not be released") };
    }
    let rows = store.machine.lease_rows();
    ensure!(rows == HELD, "{rows} leases are left of {HELD}");
    Ok(())
}

/// The machine, one session, and where the log stands.
struct Store {
    machine: Machine,
    index: u64,
    session: SessionId,
    ty: u64,
    keys: SeededEntropy,
}

impl Store {
    /// With a session that may acquire.
    fn open() -> Result<Self> {
        let ty = GrainType::new("bench.Leased").map_err(Error::msg)?;
        let (keys, session) = (SeededEntropy::new(1), SessionId(2));
        let mut store = Self { machine: Machine::new(), index: 0, session, ty: ty.id(), keys };
        store.apply(Command::Init(Init { cluster: "counts".into(), secret: Secret([7; 16]), generation: 1 }));
        let types = vec![TypeDecl { ty, ownership: Ownership::Leased, keys: KeyKind::Int }];
        let node = NodeInfo {
            id: NodeId(1),
            name: "node-1".into(),
            peer_addr: "127.0.0.1:1".into(),
            api_addr: String::new(),
            types,
        };
        let open = Open { incarnation: 1, attempt: 1, node, ttl_ms: 4_000 };
        let Reply::Opened(opened) = store.apply(Command::OpenSession(open)) else {
            bail!("the session did not open")
        };
        ensure!(opened.session == session, "the second entry opened session {}", opened.session);
        let renewed = vec![Renewed { session, number: 1, reserve_ms: 0, load: 0 }];
        store.apply(Command::Tick(Tick { time_ms: 1, wall_ms: 0, renewed }));
        Ok(store)
    }

    fn apply(&mut self, command: Command) -> Reply {
        self.index += 1;
        self.machine.apply(self.index, command).0
    }

    fn op(&mut self, op: Op) -> Result<OpResult> {
        match self.apply(Command::Batch(vec![op])) {
            Reply::Batch(mut results) if results.len() == 1 => Ok(results.remove(0)),
            other => bail!("a batch of one was answered with {other:?}"),
        }
    }

    /// Acquires a lease that nobody has; what releases it.
    fn acquire(&mut self) -> Result<Op> {
        let mut row = [0; 16];
        row[..8].copy_from_slice(&self.keys.next_u64().to_le_bytes());
        row[8..].copy_from_slice(&self.keys.next_u64().to_le_bytes());
        let (key, ty, session) = (LeaseKey(row), self.ty, self.session);
        match self.op(Op::Acquire { key, ty, session })? {
            OpResult::Granted { grant, .. } => Ok(Op::Release { key, ty, session, grant }),
            other => bail!("a free lease was answered with {other:?}"),
        }
    }
}
