//! The whole workload on three nodes of this process, one of which is killed and comes back: the oracle
//! passes, and the figures are printed. Metadata and state are on real disks, in the nodes.

use std::{
    net::Ipv4Addr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use millet::{
    Node,
    adapters::meta::{Clients, ClusterStore},
    config::Config,
    world::{Dial, OsClock, OsEntropy, Tasks, World},
};
use millet_oracle::{
    Header, Invariant, Standing, check_history,
    history::{Fault, Workload},
};
use millet_raft_meta::client::ClientOptions;
use millet_testkit::until_some;
use millet_workload::{
    Buffer, Door, Host, InProcess, Recorder, Settings, StoreRegisters, client, converge, install, read_back,
    store_client,
};
use tokio::{sync::watch, task::JoinSet};

const LIMIT: Duration = Duration::from_secs(60);
const TTL: Duration = Duration::from_secs(4);
/// What convergence is given: 2 TTL + 5 s.
const BOUND: Duration = Duration::from_secs(13);

fn settings(dir: &Path, peer: &str, members: &[String]) -> Config {
    let mut config = Config::default();
    config.node.data_dir = dir.display().to_string();
    config.node.peer_listen = peer.to_owned();
    config.node.api_listen = String::new();
    config.node.admin_listen = String::new();
    config.node.members = members.to_vec();
    config
}

/// Three members, each a worker behind a door.
struct Cluster {
    nodes: Vec<Option<Node>>,
    doors: Arc<[Door]>,
    dirs: Vec<tempfile::TempDir>,
    members: Vec<String>,
    cluster: String,
    /// Every start of every node has its own.
    hosts: u32,
}

impl Cluster {
    async fn start() -> Self {
        // An address of loopback that no other test uses.
        let [.., high, low] = std::process::id().to_be_bytes();
        let ip = Ipv4Addr::new(127, high.max(1), low, 77);
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push(tokio::net::TcpListener::bind((ip, 0)).await.expect("a free port"));
        }
        let members: Vec<String> =
            held.iter().map(|port| port.local_addr().expect("bound").to_string()).collect();
        drop(held);
        let dirs: Vec<_> = members.iter().map(|_| tempfile::tempdir().expect("a folder")).collect();
        let doors: Arc<[Door]> = members.iter().map(|_| Door::default()).collect();
        let mut me =
            Self { nodes: vec![None, None, None], doors, dirs, members, cluster: String::new(), hosts: 0 };
        for n in 0..3 {
            let (builder, host) = me.builder(n);
            let node = builder.launch().await.expect("listens");
            host.started(&node);
            me.nodes[n] = Some(node);
        }
        let form = async || millet::node::init_cluster(&World::here(), &me.members).await.ok();
        me.cluster = until_some("the cluster is made", form, LIMIT).await;
        for n in 0..3 {
            let node = me.nodes[n].as_ref().expect("launched");
            node.ready().await;
            me.doors[n].open(way(node));
        }
        me
    }

    /// Registers straight in the cluster's state store.
    fn stores(&self) -> Arc<StoreRegisters> {
        let clients = Arc::new(Clients::default());
        clients.join(&ClientOptions {
            cluster: self.cluster.clone(),
            members: self.members.clone(),
            dial: Dial::new(World::here().net).or_failing(),
            spawner: Arc::new(Tasks::new(tokio::runtime::Handle::current())),
        });
        StoreRegisters::new(Arc::new(ClusterStore(clients)))
    }

    fn builder(&mut self, n: usize) -> (millet::NodeBuilder, Host) {
        self.hosts += 1;
        let host = Host::new(self.hosts);
        let config = settings(self.dirs[n].path(), &self.members[n], &self.members);
        (install(Node::builder().config(config), &host), host)
    }

    fn session(&self, n: usize) -> Option<u64> {
        self.nodes[n].as_ref()?.directory().session().map(|s| s.id().0)
    }

    /// Dropping a node is a crash.
    fn kill(&mut self, n: usize) {
        self.doors[n].close();
        self.nodes[n] = None;
    }

    async fn restart(&mut self, n: usize) {
        let mut tries = Vec::new();
        // A node that crashed in this process lets go of its directory a moment later.
        for _ in 0..50 {
            let (builder, host) = self.builder(n);
            match builder.start().await {
                Ok(node) => {
                    host.started(&node);
                    self.doors[n].open(way(&node));
                    self.nodes[n] = Some(node);
                    return;
                }
                Err(why) => tries.push(why.to_string()),
            }
            // tidy: sleep: between two tries of a bounded wait
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("node {n} does not come back: {:?}", tries.last());
    }
}

fn way(node: &Node) -> InProcess {
    InProcess { caller: node.caller(), clock: Arc::new(OsClock), entropy: Arc::new(OsEntropy::default()) }
}

#[tokio::test(flavor = "multi_thread")]
async fn g1_g2_g3_the_workload_passes_while_nodes_are_killed_and_come_back() {
    let mut cluster = Cluster::start().await;
    let mut header = Header::new("cluster", 7, TTL.as_micros() as u64);
    header.limits.effects.insert("kill_node".into(), 2);
    header.limits.requires = vec![
        Invariant::SingleActivation,
        Invariant::NoLostWrite,
        Invariant::ExactlyOnce,
        Invariant::MonotoneEpochs,
        Invariant::Linearizable,
        Invariant::Routing,
        Invariant::Ids,
        Invariant::HonestFailure,
        Invariant::Convergence,
        Invariant::Conservation,
        Invariant::AtMostOne,
        Invariant::IdleReturn,
    ];
    let mut settings = Settings { seed: 7, pause: Duration::from_millis(40), ..Settings::default() };
    settings.clients.push((Workload::Store, 3));
    let (settings, stores) = (Arc::new(settings), cluster.stores());
    let buffer = Buffer::default();
    let recorder = Recorder::new(Arc::new(OsClock), buffer.clone(), &header).expect("memory");
    let (stop, stopped) = watch::channel(false);
    let mut clients = JoinSet::new();
    for role in settings.roles() {
        let (settings, recorder, stopped) = (settings.clone(), recorder.clone(), stopped.clone());
        if role.workload == Workload::Store {
            clients.spawn(store_client(role, stores.clone(), settings, recorder, stopped));
        } else {
            clients.spawn(client(role, cluster.doors.clone(), settings, recorder, stopped));
        }
    }
    for victim in [2, 0] {
        // tidy: sleep: the load's length before a fault
        tokio::time::sleep(Duration::from_secs(3)).await;
        let (session, start) = (cluster.session(victim), recorder.now());
        assert!(session.is_some(), "the victim serves");
        cluster.kill(victim);
        // tidy: sleep: the fault's length, above the TTL
        tokio::time::sleep(TTL + Duration::from_secs(2)).await;
        let (kind, target) = ("kill_node".to_owned(), format!("n{victim}"));
        let end = recorder.now();
        recorder.fault(Fault { kind, target, session, start, end, took_effect: true });
        cluster.restart(victim).await;
    }
    let began = Instant::now();
    let silent = converge(cluster.doors.clone(), Some(stores.clone()), recorder.clone(), BOUND).await;
    println!("converged after {:?}, {silent} silent", began.elapsed());
    stop.send_replace(true);
    while let Some(ended) = clients.join_next().await {
        ended.expect("no client panics");
    }
    let unread = read_back(cluster.doors.clone(), Some(stores), recorder.clone(), BOUND).await;
    recorder.finish().expect("memory");
    drop(cluster);

    let verdict = check_history(buffer.bytes().as_slice()).expect("a history");
    println!("{}{}", verdict.screen(), verdict.summary());
    assert_eq!((silent, unread), (0, 0), "{}", verdict.screen());
    assert_eq!(verdict.standing(), Standing::Pass, "{}", verdict.screen());
    assert!(verdict.failover_ms.count() > 0, "{}", verdict.screen());
}
