//! Three members over real sockets: they elect, write, lose their leader, come back from disk.

mod cluster;
mod real;

use std::time::{Duration, Instant};

use cluster::{Cluster, LIMIT, Settings, open, player, renew};
use millet_core::model::Verdict;
use millet_raft_meta::client::Acquired;

const TTL: Duration = Duration::from_secs(4);

/// Acquire, held by another, release, free again: over the wire, through any member.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_are_granted_held_and_released_over_the_wire() {
    let cluster = Cluster::of(3, Settings::default()).await;
    let (keeper, meta) = (cluster.keeper(), cluster.meta());
    let (a, b) = (open(&keeper, 1, TTL).await, open(&keeper, 2, TTL).await);
    let Acquired::Granted { grant, .. } = meta.acquire(&player(1), a.session).await.unwrap() else { panic!("free") };
    let Acquired::Held(held) = meta.acquire(&player(1), b.session).await.unwrap() else { panic!("held by a") };
    assert_eq!((held.session, held.grant), (a.session, grant));
    assert_eq!(meta.lookup(&player(1)).await.unwrap().map(|h| h.session), Some(a.session));
    meta.release(&player(1), a.session, grant).await.unwrap();
    assert_eq!(meta.lookup(&player(1)).await.unwrap(), None);
    let Acquired::Granted { grant: second, .. } = meta.acquire(&player(1), b.session).await.unwrap() else { panic!("free") };
    assert!(second > grant);
    for n in 0..3 {
        cluster.member(n).stop().await;
    }
}
