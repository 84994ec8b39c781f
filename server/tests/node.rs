//! Whole nodes in this process, on real sockets, threads, clocks and disks.

use std::time::{Duration, Instant};

use millet::{Node, config::Config, world::World};

const LIMIT: Duration = Duration::from_secs(30);

/// Ports that were free a moment ago.
async fn free_ports<const N: usize>() -> [String; N] {
    let mut held = Vec::new();
    for _ in 0..N {
        held.push(tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port"));
    }
    std::array::from_fn(|n| held[n].local_addr().expect("bound").to_string())
}

fn settings(dir: &std::path::Path, peer: &str, members: &[String]) -> Config {
    let mut config = Config::default();
    config.node.data_dir = dir.display().to_string();
    config.node.peer_listen = peer.to_owned();
    config.node.api_listen = String::new();
    config.node.admin_listen = String::new();
    config.node.members = members.to_vec();
    config
}

#[tokio::test(flavor = "multi_thread")]
async fn one_node_in_memory_is_ready_within_half_a_second() {
    let start = Instant::now();
    let node = Node::builder().in_memory().config(Config::default()).start().await.expect("starts");
    assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
    let left = node.shutdown().await;
    assert!(left.closed, "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_node_with_embedded_metadata_makes_its_cluster_and_comes_back_as_itself() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = settings(dir.path(), "127.0.0.1:0", &[]);
    let start = Instant::now();
    let node = Node::builder().config(config.clone()).start().await.expect("starts");
    let ready = start.elapsed();
    let (id, session) = (node.id(), node.directory().session().expect("ready").id());
    assert!(node.shutdown().await.closed);
    println!("ready after {ready:?}");
    let node = Node::builder().config(config).start().await.expect("starts again");
    assert_eq!(node.id(), id);
    assert!(node.directory().session().expect("ready").id() > session);
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_with_real_raft_get_ready_after_init() {
    let members: [String; 3] = free_ports().await;
    let dirs: Vec<_> = members.iter().map(|_| tempfile::tempdir().expect("a folder")).collect();
    let start = Instant::now();
    let launches = members
        .iter()
        .zip(&dirs)
        .map(|(addr, dir)| Node::builder().config(settings(dir.path(), addr, &members)).start());
    let init = async {
        loop {
            match millet::node::init_cluster(&World::here(), &members).await {
                Ok(cluster) => return cluster,
                Err(_) if start.elapsed() < LIMIT => tokio::time::sleep(Duration::from_millis(10)).await,
                Err(why) => panic!("{why}"),
            }
        }
    };
    let (nodes, _) = tokio::join!(futures::future::join_all(launches), init);
    println!("ready after {:?}", start.elapsed());
    let nodes: Vec<_> = nodes.into_iter().map(|n| n.expect("starts")).collect();
    for node in nodes {
        let left = node.shutdown().await;
        println!("{left:?}");
    }
}
