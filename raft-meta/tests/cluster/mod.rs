//! Members over real sockets on 127.0.0.1 with real disks in temporary folders, all in one process.
#![allow(dead_code, clippy::unwrap_used)]

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use millet_core::{BootTime, Clock, GrainId, GrainType, KeyKind, NodeId, Revision, SessionId, model::*};
use millet_raft_meta::{
    Dial, EngineKind, Member, MemberOptions,
    client::{ClientOptions, KeeperClient, MetaClient, StateClient},
};
use millet_testkit::{SeededEntropy, StdThreads, TokioSpawner, until_some};
use tokio::net::TcpListener;
use tonic::transport::{Endpoint, server::TcpIncoming};

pub mod admin;

use crate::real::RealDisk;

pub const LIMIT: Duration = Duration::from_secs(20);

/// Real time.
pub struct Real(Instant);
impl Clock for Real {
    fn boottime(&self) -> BootTime {
        BootTime(u64::try_from(self.0.elapsed().as_nanos()).unwrap() + 1)
    }
    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
    fn wall_ms(&self) -> u64 {
        u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
    }
}

pub fn dial() -> Dial {
    Arc::new(|addr| {
        let endpoint = Endpoint::from_shared(format!("http://{addr}")).unwrap();
        endpoint.tcp_nodelay(true).connect_timeout(Duration::from_millis(500)).connect_lazy()
    })
}

/// One member and its listener.
pub struct Node {
    pub member: Arc<Member>,
    pub addr: String,
    pub dir: PathBuf,
    /// Its connections die with it, as with a process.
    server: Option<tokio::runtime::Runtime>,
}

pub struct Settings {
    pub snapshot_every: u64,
    pub cluster: Option<String>,
    pub engine: EngineKind,
}
impl Default for Settings {
    fn default() -> Self {
        Self { snapshot_every: MemberOptions::SNAPSHOT_EVERY, cluster: None, engine: EngineKind::Redb }
    }
}

pub async fn bind(addr: &str) -> TcpListener {
    let addr: SocketAddr = addr.parse().unwrap();
    until_some("the address is free", async || TcpListener::bind(addr).await.ok(), LIMIT).await
}

pub fn options(dir: PathBuf, addr: &str, settings: &Settings) -> MemberOptions {
    // Another one at every start: an empty directory at an old address is another directory.
    static STARTS: AtomicU64 = AtomicU64::new(0);
    let port = u64::from(addr.parse::<SocketAddr>().unwrap().port());
    let seed = u64::from(std::process::id()) << 40 | STARTS.fetch_add(1, Relaxed) << 16 | port;
    MemberOptions {
        dir,
        addr: addr.to_owned(),
        cluster: settings.cluster.clone(),
        clock: Arc::new(Real(Instant::now())),
        entropy: Arc::new(SeededEntropy::new(seed)),
        disk: Arc::new(RealDisk),
        threads: Arc::new(StdThreads),
        dial: dial(),
        engine: settings.engine,
        snapshot_every: settings.snapshot_every,
        log_segment_bytes: MemberOptions::LOG_SEGMENT_BYTES,
        timing: Default::default(),
        generation: 1,
    }
}

impl Node {
    pub async fn start(dir: PathBuf, addr: &str, settings: &Settings) -> Self {
        let listener = bind(addr).await.into_std().unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        // After a kill in the same process, locks go a moment later.
        let started = async || Member::start(options(dir.clone(), &addr, settings)).await.ok();
        let member = Arc::new(until_some("the member starts", started, LIMIT).await);
        let server =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let services = member.services();
        server.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            services.serve(incoming).await.unwrap();
        });
        Self { member, addr, dir, server: Some(server) }
    }

    /// Stops in order: leadership is handed over.
    pub async fn stop(mut self) {
        self.member.stop().await.unwrap();
        self.server.take().unwrap().shutdown_background();
    }
}

/// Some members and the folders they live in.
pub struct Cluster {
    pub nodes: Vec<Option<Node>>,
    pub dirs: Vec<tempfile::TempDir>,
    pub addrs: Vec<String>,
    pub id: String,
    pub settings: Settings,
}

impl Cluster {
    pub async fn of(n: usize, settings: Settings) -> Self {
        // RUST_LOG=info shows what the members do.
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
        let dirs: Vec<_> = (0..n).map(|_| tempfile::tempdir().unwrap()).collect();
        let mut nodes = Vec::new();
        for dir in &dirs {
            nodes.push(Some(Node::start(dir.path().to_owned(), "127.0.0.1:0", &settings).await));
        }
        let addrs: Vec<_> = nodes.iter().flatten().map(|n| n.addr.clone()).collect();
        let id = nodes[0].as_ref().unwrap().member.init(&addrs).await.unwrap().cluster;
        Self { nodes, dirs, addrs, id, settings }
    }

    pub fn member(&self, n: usize) -> &Member {
        &self.nodes[n].as_ref().unwrap().member
    }

    pub async fn stop(&mut self, n: usize) {
        self.nodes[n].take().unwrap().stop().await;
    }

    /// Stops one as a crash would.
    pub async fn kill(&mut self, n: usize) {
        self.nodes[n].take().unwrap().abandon().await;
    }

    pub async fn start(&mut self, n: usize) {
        let node = Node::start(self.dirs[n].path().to_owned(), &self.addrs[n], &self.settings).await;
        self.nodes[n] = Some(node);
    }

    /// Which member leads the `meta` group, by position, as a running member knows.
    pub async fn leader(&self) -> usize {
        let known = async || {
            let status = self.nodes.iter().flatten().find_map(|n| n.member.status())?;
            let leader = status.groups[0].leader;
            let addr = &status.members.iter().find(|m| m.id == leader)?.addr;
            let at = self.addrs.iter().position(|a| a == addr)?;
            self.nodes[at].as_ref().map(|_| at)
        };
        until_some("a leader among the running", known, LIMIT).await
    }

    pub fn options(&self) -> ClientOptions {
        ClientOptions {
            cluster: self.id.clone(),
            members: self.addrs.clone(),
            dial: dial(),
            spawner: Arc::new(TokioSpawner::current()),
        }
    }

    pub fn meta(&self) -> MetaClient {
        MetaClient::new(&self.options())
    }

    pub fn state(&self) -> StateClient {
        StateClient::new(&self.options())
    }

    pub fn keeper(&self) -> KeeperClient {
        KeeperClient::new(&self.id, &self.addrs, dial())
    }
}

pub fn player(n: u64) -> GrainId {
    GrainId::new(GrainType::new("realm.Player").unwrap(), n)
}

pub fn node_info(n: u64) -> NodeInfo {
    let players = TypeDecl {
        ty: GrainType::new("realm.Player").unwrap(),
        ownership: Ownership::Leased,
        keys: KeyKind::Int,
    };
    let rank = TypeDecl {
        ty: GrainType::new("realm.Rank").unwrap(),
        ownership: Ownership::Sharded { shards: 8 },
        keys: KeyKind::Int,
    };
    NodeInfo {
        id: NodeId(n),
        name: format!("node-{n}"),
        peer_addr: "127.0.0.1:1".into(),
        api_addr: String::new(),
        types: vec![players, rank],
    }
}

/// A node's session, kept alive by hand.
pub struct Held {
    pub session: SessionId,
    pub number: u64,
    pub heard: u64,
}

/// Opens a session and renews it once.
pub async fn open(keeper: &KeeperClient, node: u64, ttl: Duration) -> Held {
    let ask = OpenSession { incarnation: u128::from(node), attempt: 1, node: node_info(node), ttl };
    let opened = until_some("a session", async || keeper.open(ask.clone()).await.ok(), LIMIT).await;
    let mut held = Held { session: opened.session, number: 0, heard: 0 };
    assert_eq!(renew(keeper, &mut held).await, Verdict::Renewed);
    held
}

/// Sends keepalives until one is answered with a verdict.
pub async fn renew(keeper: &KeeperClient, held: &mut Held) -> Verdict {
    held.number += 1;
    let keepalive = Keepalive {
        session: held.session,
        number: held.number,
        heard: held.heard,
        revision: Revision(0),
        activations: 1,
        reserve_ms: 0,
    };
    let mut member = 0;
    let answer = until_some(
        "an answer to a keepalive",
        async || {
            member += 1;
            keeper.keepalive(member, keepalive.clone()).await.ok()
        },
        LIMIT,
    )
    .await;
    held.heard = answer.number;
    answer.verdict
}

impl Cluster {
    /// Stops whoever still runs.
    pub async fn end(mut self) {
        for n in 0..self.nodes.len() {
            if let Some(node) = self.nodes[n].take() {
                node.abandon().await;
            }
        }
    }
}

impl Node {
    /// Stops without a hand-over, as a crash would: its connections break, its threads end.
    pub async fn abandon(mut self) {
        self.server.take().unwrap().shutdown_background();
        self.member.abandon().await;
    }
}
