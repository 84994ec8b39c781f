//! Whole nodes with their state in the cluster's own store, and sharded grains.

mod cluster;

use std::sync::Arc;

use cluster::{BoardService, Cluster, CounterService, LIMIT, builder, settings};
use millet::{
    Ran,
    config::Config,
    core::{
        Epoch, GrainId, GrainType, Grant, MemoryStore, hash,
        store::{StateStore, StoreError, Token, Version, Write},
    },
    grain,
    prelude::*,
};
use millet_testkit::until_some;

#[tokio::test(flavor = "multi_thread")]
async fn state_survives_every_node_being_stopped_and_started() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = settings(dir.path(), "127.0.0.1:0", &[]);
    for round in 1..=3 {
        // A node that crashed in this process lets go of its directory a moment later.
        let start = async || builder(config.clone()).start().await.ok();
        let node = until_some("the directory is free", start, LIMIT).await;
        // After the crash the grain is held by the session that crashed until that ends: refused, not run.
        let add = async || match node.get::<CounterService>(1).add(1).await {
            Ok(total) => Some(total),
            Err(e) if e.ran() == Ran::No => None,
            Err(e) => panic!("{e}"),
        };
        assert_eq!(until_some("the grain answers", add, LIMIT).await, round);
        // The second time it is a crash.
        if round != 2 {
            node.shutdown().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_move_to_a_joiner_and_back_when_it_leaves() {
    let mut cluster = Cluster::start().await;
    cluster.join().await;
    let joiner = cluster.nodes[3].directory().session().expect("ready").id();
    let view = |node: usize| cluster.nodes[node].directory().view();
    let held = async || (!view(0).shards_of(joiner).is_empty()).then_some(());
    until_some("the joiner holds a shard", held, LIMIT).await;
    for n in 0..16 {
        let key = millet::Key::text(&format!("board-{n}")).expect("a key");
        cluster.nodes[n % 4].get::<BoardService>(key).post().await.expect("answered");
    }
    let leaver = cluster.nodes.pop().expect("four nodes");
    let left = leaver.shutdown().await;
    assert!(left.closed && left.shards == 0, "{left:?}");
    for n in 0..16 {
        let key = millet::Key::text(&format!("board-{n}")).expect("a key");
        let (_, session) = cluster.nodes[n % 3].get::<BoardService>(key).post().await.expect("no call fails");
        assert_ne!(session, joiner.0);
    }
    cluster.end().await;
}
#[tokio::test(flavor = "multi_thread")]
async fn a_call_to_a_sharded_grain_from_any_node_reaches_the_one_activation() {
    let cluster = Cluster::start().await;
    // Boards count in memory: first the nodes that came later must have got their share of the shards.
    let view = cluster.nodes[0].directory().view();
    let sessions: Vec<_> = view.sessions().map(|s| s.id).collect();
    let settled = async || {
        let view = cluster.nodes[0].directory().view();
        sessions.iter().all(|s| view.shards_of(*s).len() >= 2).then_some(())
    };
    until_some("every node holds its share of the 8 shards", settled, LIMIT).await;
    let mut owners = std::collections::BTreeSet::new();
    for key in 0..30 {
        let key = millet::Key::text(&format!("board-{key}")).expect("a key");
        let mut posts = Vec::new();
        for node in &cluster.nodes {
            posts.push(node.get::<BoardService>(key.clone()).post().await.expect("answered"));
        }
        assert_eq!(posts.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [1, 2, 3], "{key} ran twice");
        owners.insert(posts[0].1);
    }
    assert_eq!(owners.len(), 3, "shards sit on every node");
    cluster.end().await;
}

/// Sharded, with its state in a store of its own.
struct Ledger {
    sum: Persistent<u64>,
}

impl Grain for Ledger {
    type Service = LedgerService;
    millet::states!(sum);
    fn options() -> GrainOptions {
        GrainOptions::sharded(4)
    }
    fn create(c: &mut Create<'_, Self>) -> Self {
        Self { sum: c.state_in("books", "sum") }
    }
}

#[grain(name = "test.Ledger", key = int)]
impl Ledger {
    /// Adds, saves, and says the sum.
    async fn add(&mut self, _ctx: &Ctx<Self>, n: u64) -> u64 {
        *self.sum += n;
        *self.sum
    }
}

/// R25: a shard's floor is raised in every store that its grains may write to, not in the cluster's own
/// alone: a late write of the shard's last owner is refused there too.
#[tokio::test(flavor = "multi_thread")]
async fn r25_a_shard_is_opened_in_every_store() {
    let books = Arc::new(MemoryStore::new());
    let node = builder(Config::default()).grain::<Ledger>().store("books", books.clone()).in_memory();
    let node = node.start().await.expect("starts");
    assert_eq!(node.get::<LedgerService>(7).add(5).await, Ok(5));
    let grain = GrainId::new(GrainType::new("test.Ledger").expect("a name"), 7);
    let session = node.directory().session().expect("ready").id();
    let generation = node.directory().view().type_row(&grain.ty).expect("known").generation;
    let epoch = Epoch { grant: Grant { generation, index: 1 }, activation: u32::MAX };
    let shard = Some(hash::shard_of(hash::grain_hash(&grain), 4));
    let token = Token { epoch, session };
    let late = Write { grain: &grain, slot: "audit", shard, token, version: Version(0) };
    let answer = books.save(late, "late".into()).await;
    assert!(matches!(answer, Err(StoreError::Fenced { .. })), "{answer:?}");
    node.shutdown().await;
}
