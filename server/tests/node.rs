//! Whole nodes in this process, on real sockets, threads, clocks and disks.

mod cluster;

use std::time::{Duration, Instant};

use cluster::{BoardService, BumperService, Cluster, CounterService, LIMIT, builder, settings};
use millet::config::Config;
use millet_testkit::until_some;

#[tokio::test(flavor = "multi_thread")]
async fn one_node_in_memory_answers_and_leaves() {
    let start = Instant::now();
    let node = builder(Config::default()).in_memory().start().await.expect("starts");
    assert_eq!(node.get::<CounterService>(1).add(5).await, Ok(5));
    println!("first answer after {:?}", start.elapsed());
    assert_eq!(node.get::<CounterService>(1).add(2).await, Ok(7));
    assert_eq!(node.get::<CounterService>(1).total().await, Ok(7));
    let posts =
        node.get::<BoardService>(millet::Key::text("b").expect("a key")).post().await.expect("answered");
    assert_eq!(posts.0, 1);
    let left = node.shutdown().await;
    assert!(left.closed && left.activations == 0, "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_node_with_embedded_metadata_answers_and_comes_back_as_itself() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = settings(dir.path(), "127.0.0.1:0", &[]);
    let start = Instant::now();
    let node = builder(config.clone()).start().await.expect("starts");
    let (bumps, session) = node.get::<BumperService>(1).bump().await.expect("answered");
    println!("first answer after {:?}", start.elapsed());
    assert_eq!((bumps, session), (1, node.directory().session().expect("ready").id().0));
    let id = node.id();
    let left = node.shutdown().await;
    assert!(left.closed && left.activations == 0, "{left:?}");
    let node = builder(config).start().await.expect("starts again");
    assert_eq!(node.id(), id);
    let (bumps, newer) = node.get::<BumperService>(1).bump().await.expect("answered");
    assert_eq!(bumps, 1, "memory outlived the process's end");
    assert!(newer > session);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_from_any_node_reaches_the_one_activation() {
    let start = Instant::now();
    let cluster = Cluster::start().await;
    println!("three nodes ready after {:?}", start.elapsed());
    for key in 0..30 {
        let mut seen = Vec::new();
        for node in &cluster.nodes {
            seen.push(node.get::<BumperService>(key).bump().await.expect("answered"));
        }
        assert_eq!(seen.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [1, 2, 3], "grain {key} ran twice");
        assert!(seen.iter().all(|(_, session)| *session == seen[0].1), "{seen:?}");
    }
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn g3_the_grains_of_a_node_that_dies_answer_elsewhere() {
    let mut cluster = Cluster::start().await;
    cluster.join().await;
    let victim = cluster.nodes.pop().expect("four nodes");
    let (_, session) = victim.get::<BumperService>(77).bump().await.expect("answered");
    assert_eq!(session, victim.directory().session().expect("ready").id().0, "prefers its caller's node");
    let survivor = &cluster.nodes[0];
    assert_eq!(survivor.get::<BumperService>(77).bump().await.map(|(n, _)| n), Ok(2));
    let died = Instant::now();
    drop(victim);
    // A call that was surely not sent waits for the end of the dead node's session instead of failing (G3).
    let again = async || match survivor.get::<BumperService>(77).bump().await {
        Ok(answer) => Some(answer),
        Err(e) if e.ran() == millet::Ran::Unknown => None,
        Err(e) => panic!("a call failed though its deadline had not come: {e}"),
    };
    let (bumps, elsewhere) = until_some("the grain answers elsewhere", again, LIMIT).await;
    println!("answered elsewhere after {:?}", died.elapsed());
    assert_eq!(bumps, 1, "another node's memory");
    assert_ne!(elsewhere, session);
    // TTL + 1 s, one metadata failover (the dead node may have led), and room for a busy machine.
    let bound = Duration::from_millis(4_000 + 1_000 + 2_500 + 2_000);
    assert!(died.elapsed() < bound, "{:?}", died.elapsed());
    cluster.end().await;
}
