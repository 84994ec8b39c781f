//! Whole nodes in this process, on real sockets, threads and clocks.

use std::time::{Duration, Instant};

use millet::{Node, config::Config};

#[tokio::test(flavor = "multi_thread")]
async fn one_node_in_memory_is_ready_within_half_a_second() {
    let start = Instant::now();
    let node = Node::builder().in_memory().config(Config::default()).start().await.expect("starts");
    assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
    let left = node.shutdown().await;
    assert!(left.closed, "{left:?}");
}
