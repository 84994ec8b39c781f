//! The metadata store's state machine, driven by hand for the sweeps: one replica that is its own log. Every
//! entry passes through its bytes, as in a log.

use anyhow::{Result, bail};
use millet_core::{
    GrainType, KeyKind, NodeId, SessionId, limits,
    model::{NodeInfo, Ownership, TypeDecl},
};
use millet_raft_meta::machine::{Command, Init, Machine, Open, Renewed, Reply, Secret, Tick};

/// A cluster's id, as long as one that was drawn.
pub const CLUSTER: &str = "0123456789abcdef0123456789abcdef";

/// A grain type with integer keys, as a node declares it.
pub fn declares(name: &str, ownership: Ownership) -> Result<TypeDecl> {
    Ok(TypeDecl { ty: GrainType::new(name)?, ownership, keys: KeyKind::Int })
}

/// How rows and decisions name a type.
pub fn type_id(name: &str) -> Result<u64> {
    Ok(GrainType::new(name)?.id())
}

/// A machine, how far its log is, and what went into it.
pub struct Replica {
    /// The machine.
    pub machine: Machine,
    /// Commands in the log, in bytes, without what the log puts around each.
    pub log_bytes: u64,
    /// Entries in the log.
    pub log_entries: u64,
}

impl Replica {
    /// A cluster that nobody has joined.
    pub fn new() -> Result<Self> {
        let mut replica = Self { machine: Machine::new(), log_bytes: 0, log_entries: 0 };
        let init = Init { cluster: CLUSTER.into(), secret: Secret([7; 16]), generation: 1 };
        replica.apply(&Command::Init(init))?;
        Ok(replica)
    }

    /// Applies the next entry, by its bytes.
    pub fn apply(&mut self, command: &Command) -> Result<Reply> {
        let bytes = command.encode();
        self.log_entries += 1;
        self.log_bytes += bytes.len() as u64;
        let (reply, _) = self.machine.apply(self.log_entries, Command::decode(&bytes)?);
        Ok(Reply::decode(&reply.encode())?)
    }

    /// Opens a session that is not renewed yet.
    pub fn open(&mut self, node: u64, types: &[TypeDecl]) -> Result<SessionId> {
        let node_info = NodeInfo {
            id: NodeId(node),
            name: format!("node-{node}"),
            peer_addr: "192.168.100.100:10000".into(),
            api_addr: "192.168.100.100:10001".into(),
            types: types.to_vec(),
        };
        let ttl_ms = u64::try_from(limits::SESSION_TTL.as_millis())?;
        let open = Open { incarnation: node.into(), attempt: 1, node: node_info, ttl_ms };
        match self.apply(&Command::OpenSession(open))? {
            Reply::Opened(opened) => Ok(opened.session),
            other => bail!("opening a session was answered with {other:?}"),
        }
    }

    /// Opens a session and renews it.
    pub fn join(&mut self, node: u64, types: &[TypeDecl]) -> Result<SessionId> {
        let session = self.open(node, types)?;
        let renewed = vec![Renewed { session, number: 1, reserve_ms: 0, load: 0 }];
        self.apply(&Command::Tick(Tick { time_ms: 0, wall_ms: 0, renewed }))?;
        Ok(session)
    }
}
