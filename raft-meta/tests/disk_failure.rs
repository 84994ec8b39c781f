//! A member whose disk fails says so with path and error, and never carries on.
#![allow(clippy::unwrap_used, reason = "helpers of tests may unwrap")]

mod cluster;
mod real;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use cluster::{Settings, bind, open, options, player};
use millet_core::{SessionId, world::Disk};
use millet_raft_meta::{
    Member, MemberOptions,
    client::{ClientOptions, KeeperClient, MetaClient},
};
use millet_testkit::{SimDisk, TokioSpawner};
use tonic::transport::server::TcpIncoming;

/// A cluster of one on a simulated disk, and a session on it.
struct Alone {
    member: Member,
    meta: MetaClient,
    session: SessionId,
}

async fn alone(disk: &SimDisk, settings: Settings) -> Alone {
    let listener = bind("127.0.0.1:0").await;
    let addr = listener.local_addr().unwrap().to_string();
    let on_sim =
        MemberOptions { disk: Arc::new(disk.clone()), ..options(PathBuf::from("/data"), &addr, &settings) };
    let member = Member::start(on_sim).await.unwrap();
    let services = member.services();
    tokio::spawn(services.serve(TcpIncoming::from(listener).with_nodelay(Some(true))));
    let cluster = member.init(std::slice::from_ref(&addr)).await.unwrap().cluster;
    let members = vec![addr];
    let keeper = KeeperClient::new(&cluster, &members, cluster::dial());
    let session = open(&keeper, 1, Duration::from_secs(60)).await.session;
    let spawner = Arc::new(TokioSpawner::current());
    let meta = MetaClient::new(&ClientOptions { cluster, members, dial: cluster::dial(), spawner });
    Alone { member, meta, session }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_whose_disk_fails_says_so_and_answers_no_write() {
    let disk = SimDisk::new();
    let Alone { member, meta, session } = alone(&disk, Settings::default()).await;
    meta.acquire(&player(1), session).await.unwrap();
    disk.fail_sync_after(0);
    let refused = tokio::time::timeout(Duration::from_secs(3), meta.acquire(&player(2), session)).await;
    assert!(!matches!(refused, Ok(Ok(_))), "a write was answered though it is not durable: {refused:?}");
    let why = tokio::time::timeout(cluster::LIMIT, member.failed()).await.unwrap();
    assert!(why.contains("/data/log"), "{why}");
    member.abandon().await;
}

/// The leader's thread saw that Raft had ended, ended too, and took along the look-out for why: the member
/// neither led nor stopped, and nobody was told. Found by the full disk at every write.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_whose_meta_group_cannot_write_its_snapshot_stops_and_says_so() {
    let disk = SimDisk::new();
    let Alone { member, meta, session } =
        alone(&disk, Settings { snapshot_every: 40, ..Settings::default() }).await;
    // The name of its first snapshot while it is written.
    let blocked = "/data/snapshots/writing-0-0";
    disk.create(Path::new(blocked), 0).unwrap();
    let working = async {
        let mut grain = 0;
        loop {
            grain += 1;
            // Whether it is answered does not matter here.
            let _ = meta.acquire(&player(grain), session).await;
        }
    };
    let why = tokio::select! {
        why = tokio::time::timeout(cluster::LIMIT, member.failed()) => why.expect("the member says that it has failed"),
        () = working => unreachable!("it goes on for ever"),
    };
    assert!(why.contains(blocked), "{why}");
    member.abandon().await;
}
