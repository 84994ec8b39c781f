//! A member whose disk fails says so with path and error, and never carries on.
#![allow(clippy::unwrap_used, reason = "helpers of tests may unwrap")]

mod cluster;
mod real;

use std::{sync::Arc, time::Duration};

use cluster::{Settings, bind, open, options, player};
use millet_raft_meta::{
    Member, MemberOptions,
    client::{ClientOptions, KeeperClient, MetaClient},
};
use millet_testkit::{SimDisk, TokioSpawner};
use tonic::transport::server::TcpIncoming;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_whose_disk_fails_says_so_and_answers_no_write() {
    let (disk, listener) = (SimDisk::new(), bind("127.0.0.1:0").await);
    let addr = listener.local_addr().unwrap().to_string();
    let dir = std::path::PathBuf::from("/data");
    let on_sim = MemberOptions { disk: Arc::new(disk.clone()), ..options(dir, &addr, &Settings::default()) };
    let member = Member::start(on_sim).await.unwrap();
    let services = member.services();
    tokio::spawn(services.serve(TcpIncoming::from(listener).with_nodelay(Some(true))));
    let cluster = member.init(std::slice::from_ref(&addr)).await.unwrap().cluster;
    let members = vec![addr];
    let keeper = KeeperClient::new(&cluster, &members, cluster::dial());
    let session = open(&keeper, 1, Duration::from_secs(60)).await.session;
    let spawner = Arc::new(TokioSpawner::current());
    let meta = MetaClient::new(&ClientOptions { cluster, members, dial: cluster::dial(), spawner });
    meta.acquire(&player(1), session).await.unwrap();
    disk.fail_sync_after(0);
    let refused = tokio::time::timeout(Duration::from_secs(3), meta.acquire(&player(2), session)).await;
    assert!(!matches!(refused, Ok(Ok(_))), "a write was answered though it is not durable: {refused:?}");
    let why = tokio::time::timeout(cluster::LIMIT, member.failed()).await.unwrap();
    assert!(why.contains("/data/log"), "{why}");
    member.abandon().await;
}
