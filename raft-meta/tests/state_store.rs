//! The state store over the wire: the conformance suite through three members, and what a lost quorum
//! answers.
#![allow(clippy::unwrap_used, reason = "helpers of tests may unwrap")]

mod cluster;
mod real;

use std::time::Duration;

use bytes::Bytes;
use cluster::{Cluster, LIMIT, Settings, open, player};
use millet_core::{
    Epoch, Grant,
    store::{StateStore, Token, Version, Write},
};
use millet_raft_meta::EngineKind;
use millet_testkit::until_async;

/// Every rule of `StateStore`, through the client, three members, Raft and the engine.
#[test]
fn the_conformance_suite_passes_over_the_wire() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let clusters = tokio::sync::Mutex::new(Vec::new());
        millet_testkit::store_suite::run(async || {
            let cluster = Cluster::of(1, Settings::default()).await;
            let store = cluster.state();
            clusters.lock().await.push(cluster);
            store
        })
        .await;
        for cluster in clusters.into_inner() {
            cluster.end().await;
        }
    });
}

fn token(session: millet_core::SessionId, index: u64) -> Token {
    Token { epoch: Epoch { grant: Grant { generation: 1, index }, activation: 1 }, session }
}

/// A saved value outlives the leader, and all members at once; a value of 1 MiB too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn saved_state_outlives_the_leader_and_a_restart_of_all_on_sled() {
    saved_state_outlives_the_leader_and_a_restart_of_all(EngineKind::Sled).await;
}

/// The same on the second engine.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn saved_state_outlives_the_leader_and_a_restart_of_all_on_redb() {
    saved_state_outlives_the_leader_and_a_restart_of_all(EngineKind::Redb).await;
}

async fn saved_state_outlives_the_leader_and_a_restart_of_all(engine: EngineKind) {
    let mut cluster = Cluster::of(3, Settings { snapshot_every: 50, engine, ..Settings::default() }).await;
    let session = open(&cluster.keeper(), 1, Duration::from_secs(60)).await.session;
    let store = cluster.state();
    let (grain, token) = (player(1), token(session, 5));
    let big = Bytes::from(vec![7; 1 << 20]);
    let mut version = store.open(&grain, "main", token).await.unwrap().version;
    for _ in 0..60 {
        let write = Write { grain: &grain, slot: "main", shard: None, token, version };
        version = store.save(write, Bytes::from_static(b"gold")).await.unwrap();
    }
    let write = Write { grain: &grain, slot: "main", shard: None, token, version };
    version = store.save(write, big.clone()).await.unwrap();
    let leader = cluster.leader().await;
    cluster.stop(leader).await;
    let found = store.open(&grain, "main", token).await.unwrap();
    assert_eq!((found.version, found.value), (version, Some(big.clone())));
    for n in (0..3).filter(|n| *n != leader) {
        cluster.stop(n).await;
    }
    for n in 0..3 {
        cluster.start(n).await;
    }
    let found = store.open(&grain, "main", token).await.unwrap();
    assert_eq!((found.version, found.value), (version, Some(big)));
    assert_eq!(version, Version(61));
    cluster.end().await;
}

/// R2: once a session has ended and a younger one is the oldest, the store refuses the ended one's writes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r2_the_store_learns_of_the_oldest_living_session() {
    let cluster = Cluster::of(3, Settings::default()).await;
    let (keeper, meta, store) = (cluster.keeper(), cluster.meta(), cluster.state());
    let old = open(&keeper, 1, Duration::from_secs(60)).await.session;
    let young = open(&keeper, 2, Duration::from_secs(60)).await.session;
    store.open(&player(1), "main", token(old, 5)).await.unwrap();
    meta.close(old).await.unwrap();
    let mut n = 5;
    let refused = async || {
        n += 1;
        matches!(store.open(&player(1), "main", token(old, n)).await, Err(millet_core::store::StoreError::SessionEnded(s)) if s == old)
    };
    until_async("the ended session is refused", refused, LIMIT).await;
    store.open(&player(1), "main", token(young, 1_000)).await.unwrap();
    cluster.end().await;
}
