//! What tests of whole nodes share: two grain types, settings, clusters in this process.
#![allow(dead_code, reason = "every test file uses its part")]

use std::{
    net::Ipv4Addr,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use millet::{Node, NodeBuilder, config::Config, grain, prelude::*, world::World};

pub const LIMIT: Duration = Duration::from_secs(30);

/// Leased; counts in its stored state.
pub struct Counter {
    total: Persistent<u64>,
}

impl Grain for Counter {
    type Service = CounterService;
    millet::states!(total);
    fn create(c: &mut Create<'_, Self>) -> Self {
        Self { total: c.state("total") }
    }
}

#[grain(name = "test.Counter", key = int)]
impl Counter {
    /// Adds, saves, and says the total.
    async fn add(&mut self, _ctx: &Ctx<Self>, n: u64) -> u64 {
        *self.total += n;
        *self.total
    }
    /// Says the stored total.
    async fn total(&self, _ctx: &Ctx<Self>) -> u64 {
        *self.total
    }
}

/// Leased, without state: its memory tells activations apart.
pub struct Bumper {
    memory: u64,
}

impl Grain for Bumper {
    type Service = BumperService;
    fn create(_: &mut Create<'_, Self>) -> Self {
        Self { memory: 0 }
    }
}

#[grain(name = "test.Bumper", key = int)]
impl Bumper {
    /// Counts in memory, and says which session runs it.
    async fn bump(&mut self, ctx: &Ctx<Self>) -> (u64, u64) {
        self.memory += 1;
        (self.memory, ctx.session().0)
    }
}

/// Sharded; says who runs it.
pub struct Board {
    posts: u64,
}

impl Grain for Board {
    type Service = BoardService;
    fn options() -> GrainOptions {
        GrainOptions::sharded(8)
    }
    fn create(_: &mut Create<'_, Self>) -> Self {
        Self { posts: 0 }
    }
}

#[grain(name = "test.Board", key = text)]
impl Board {
    /// Counts in memory, and says which session runs it.
    async fn post(&mut self, ctx: &Ctx<Self>) -> (u64, u64) {
        self.posts += 1;
        (self.posts, ctx.session().0)
    }
}

pub fn builder(config: Config) -> NodeBuilder {
    Node::builder().config(config).grain::<Counter>().grain::<Bumper>().grain::<Board>()
}

/// Ports that were free a moment ago, at an address of loopback that no other test uses meanwhile.
pub async fn free_ports<const N: usize>() -> [String; N] {
    static TESTS: AtomicU32 = AtomicU32::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    let ip = Ipv4Addr::new(127, high.max(1), low, TESTS.fetch_add(1, Ordering::Relaxed) as u8);
    let mut held = Vec::new();
    for _ in 0..N {
        held.push(tokio::net::TcpListener::bind((ip, 0)).await.expect("a free port"));
    }
    std::array::from_fn(|n| held[n].local_addr().expect("bound").to_string())
}

pub fn settings(dir: &std::path::Path, peer: &str, members: &[String]) -> Config {
    let mut config = Config::default();
    config.node.data_dir = dir.display().to_string();
    config.node.peer_listen = peer.to_owned();
    config.node.api_listen = String::new();
    config.node.admin_listen = String::new();
    config.node.members = members.to_vec();
    config
}

/// Nodes of one cluster, each a metadata member and a worker.
pub struct Cluster {
    pub nodes: Vec<Node>,
    pub members: [String; 3],
    pub dirs: Vec<tempfile::TempDir>,
}

impl Cluster {
    pub async fn start() -> Self {
        let members: [String; 3] = free_ports().await;
        let dirs: Vec<_> = members.iter().map(|_| tempfile::tempdir().expect("a folder")).collect();
        let launches = members
            .iter()
            .zip(&dirs)
            .map(|(addr, dir)| builder(settings(dir.path(), addr, &members)).start());
        let (nodes, _) = tokio::join!(futures::future::join_all(launches), init(&members));
        let nodes = nodes.into_iter().map(|n| n.expect("starts")).collect();
        Self { nodes, members, dirs }
    }

    /// Adds a node that is no metadata member.
    pub async fn join(&mut self) {
        let dir = tempfile::tempdir().expect("a folder");
        let mut config = settings(dir.path(), "127.0.0.1:0", &self.members);
        config.node.roles = vec!["worker".into()];
        self.nodes.push(builder(config).start().await.expect("joins"));
        self.dirs.push(dir);
    }

    /// Ends every node without waiting for drains: the test is over.
    pub async fn end(self) {
        drop(self.nodes);
    }
}

/// Runs `init` until the first member listens.
pub async fn init(members: &[String]) -> String {
    let start = Instant::now();
    loop {
        match millet::node::init_cluster(&World::here(), members).await {
            Ok(cluster) => return cluster,
            Err(why) => assert!(start.elapsed() < LIMIT, "{why}"),
        }
        // tidy: sleep: between two tries of a bounded wait
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
