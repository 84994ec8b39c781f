//! Where a grain of a sharded type is, as every call to another node asks.

use std::hint::black_box;

use anyhow::{Context, Result};
use millet_core::{
    GrainId, GrainType, Grant, KeyKind, NodeId, Revision, SessionId, ShardId,
    hash::{grain_hash, shard_of},
    model::{NodeInfo, Ownership, SessionInfo, SessionState, ShardState, TypeRow, ViewSnapshot, Watched},
};
use millet_directory::View;

use super::Count;

/// The look-up.
pub const SHARD_OWNER: Count = Count {
    name: "shard-owner",
    work: "from a grain with an integer key to the session that holds its shard: hash, shard, row, session; \
           640 shards on 10 nodes",
    run,
};

const NODES: u64 = 10;
const SHARDS: u32 = 640;
/// Where sessions begin to be numbered.
const FIRST: u64 = 100;

fn run(ops: u64) -> Result<()> {
    let ty = GrainType::new("bench.Counter").map_err(anyhow::Error::msg)?;
    let mut view = View::default();
    view.apply(&Watched::Resync(cluster(&ty)));
    let mut grain = GrainId::new(ty, 0);
    for n in 0..ops {
        grain.key = n.into();
        let shard = shard_of(grain_hash(&grain), SHARDS);
        let (holder, grant) = view.shard_holder(&grain.ty, shard).context("every shard has a holder")?;
        black_box((holder.node.id, grant));
    }
    Ok(())
}

fn cluster(ty: &GrainType) -> ViewSnapshot {
    let row = |shard: u32| {
        let session = SessionId(FIRST + u64::from(shard) % NODES);
        let grant = Grant { generation: 1, index: 1 + u64::from(shard) };
        (ty.clone(), ShardId(shard), ShardState::Assigned { session, grant })
    };
    ViewSnapshot {
        revision: Revision(1000),
        sessions: (0..NODES).map(session).collect(),
        types: vec![TypeRow {
            ty: ty.clone(),
            ownership: Ownership::Sharded { shards: SHARDS },
            keys: KeyKind::Int,
            generation: 1,
        }],
        shards: (0..SHARDS).map(row).collect(),
    }
}

fn session(n: u64) -> SessionInfo {
    SessionInfo {
        id: SessionId(FIRST + n),
        node: NodeInfo {
            id: NodeId(1 + n),
            name: format!("node-{n}"),
            peer_addr: "127.0.0.1:1".into(),
            api_addr: String::new(),
            types: Vec::new(),
        },
        state: SessionState::Alive,
    }
}
