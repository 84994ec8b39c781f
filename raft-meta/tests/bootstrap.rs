//! Making a cluster, and the refusals around it.
#![allow(clippy::unwrap_used, reason = "helpers of tests may unwrap")]

mod cluster;
mod real;

use std::{path::Path, time::Duration};

use cluster::{Cluster, LIMIT, Node, Settings, dial, open, options};
use millet_raft_meta::{Member, MemberError, client::MetaClient};
use xxhash_rust::xxh3::xxh3_64;

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// One call makes a cluster of one, and it serves; a restart needs no flags.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_voter_starts_in_one_call_and_restarts_without_flags() {
    let dir = folder();
    let node = Node::start(dir.path().to_owned(), "127.0.0.1:0", &Settings::default()).await;
    assert_eq!(node.member.membership(), None);
    let start = std::time::Instant::now();
    let place = node.member.init(std::slice::from_ref(&node.addr)).await.unwrap();
    println!("init of a single voter: {:?}", start.elapsed());
    let (id, addr) = (node.member.node(), node.addr.clone());
    node.stop().await;
    let again = Node::start(dir.path().to_owned(), &addr, &Settings::default()).await;
    again.member.ready(LIMIT).await.unwrap();
    assert_eq!((again.member.membership(), again.member.node()), (Some(place), id));
    again.stop().await;
}

/// The same list again is harmless, from any founder; another list is refused and says why.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn init_is_idempotent_for_the_same_list_and_refused_for_another() {
    let cluster = Cluster::of(3, Settings::default()).await;
    for n in 0..3 {
        assert_eq!(cluster.member(n).init(&cluster.addrs).await.unwrap().cluster, cluster.id);
    }
    let dir = folder();
    let fresh = Node::start(dir.path().to_owned(), "127.0.0.1:0", &Settings::default()).await;
    let larger: Vec<_> = cluster.addrs.iter().chain([&fresh.addr]).cloned().collect();
    let refused = cluster.member(0).init(&larger).await.unwrap_err().to_string();
    assert!(refused.contains(&cluster.id) && refused.contains("init is run once"), "{refused}");
    let refused = fresh.member.init(&larger).await.unwrap_err().to_string();
    assert!(refused.contains("is already member") && refused.contains(&cluster.id), "{refused}");
    assert_eq!(fresh.member.membership(), None, "nothing was changed");
    let stranger = fresh.member.init(&cluster.addrs).await.unwrap_err().to_string();
    assert!(stranger.contains(&fresh.addr), "{stranger}");
    fresh.stop().await;
    cluster.end().await;
}

/// R34: once any founder's groups have started, founders vote. One that lost its disk is not given its id
/// again, also by a founder that knows nothing of it yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r34_an_empty_founder_is_not_given_its_id_again_once_any_founder_has_started() {
    let mut cluster = Cluster::of(3, Settings::default()).await;
    cluster.kill(1).await;
    cluster.kill(2).await;
    // A leader that remembers how far the others were would stop over a log that has gone back.
    cluster.kill(0).await;
    cluster.start(0).await;
    // Founder 2 as it was between its adoption and the first message of another.
    for part in ["log", "snapshots", "state"] {
        std::fs::remove_dir_all(cluster.dirs[1].path().join(part)).unwrap();
    }
    never_started(&cluster.dirs[1].path().join("identity"));
    cluster.start(1).await;
    let empty = folder();
    let fresh = Node::start(empty.path().to_owned(), &cluster.addrs[2], &Settings::default()).await;
    let refused = cluster.member(1).init(&cluster.addrs).await.unwrap_err().to_string();
    assert!(refused.contains("was member 3 of this cluster and is empty now"), "{refused}");
    assert_eq!(fresh.member.membership(), None);
    fresh.stop().await;
    cluster.end().await;
}

/// Takes back that the member's log was ever opened.
fn never_started(identity: &Path) {
    let text = std::fs::read_to_string(identity).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with("checksum=") && *line != "started=1");
    let body: String = lines.map(|line| format!("{line}\n")).collect();
    assert!(body.len() + "started=1\n".len() < text.len(), "it was noted that it had started");
    std::fs::write(identity, format!("{body}checksum={:016x}\n", xxh3_64(body.as_bytes()))).unwrap();
}

/// A founder that does not answer stops `init` before anything is written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn init_with_an_unreachable_founder_changes_nothing() {
    let dir = folder();
    let node = Node::start(dir.path().to_owned(), "127.0.0.1:0", &Settings::default()).await;
    let list = [node.addr.clone(), "127.0.0.1:1".to_owned()];
    let failed = node.member.init(&list).await.unwrap_err();
    assert!(matches!(&failed, MemberError::Unavailable(text) if text.contains("127.0.0.1:1")), "{failed}");
    assert_eq!(node.member.membership(), None);
    node.stop().await;
}

/// A second process (here: a second member) on the same directory is told who has it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_directory_is_refused_naming_the_process() {
    let dir = folder();
    let node = Node::start(dir.path().to_owned(), "127.0.0.1:0", &Settings::default()).await;
    let second = Member::start(options(dir.path().to_owned(), "127.0.0.1:9", &Settings::default())).await;
    let text = second.err().expect("locked").to_string();
    let said = format!("is locked by process {}", std::process::id());
    assert!(text.contains(&said) && text.contains(&dir.path().display().to_string()), "{text}");
    node.stop().await;
}

/// The directory of another cluster is refused naming both; so is a request for another cluster.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_clusters_directory_and_requests_are_refused() {
    let mut cluster = Cluster::of(1, Settings::default()).await;
    let session = open(&cluster.keeper(), 1, Duration::from_secs(60)).await.session;
    let stranger = MetaClient::new(&millet_raft_meta::client::ClientOptions {
        cluster: "other".into(),
        dial: dial(),
        ..cluster.options()
    });
    let refused = stranger.drain(session).await.unwrap_err().to_string();
    assert!(refused.contains("other") && refused.contains(&cluster.id), "{refused}");
    cluster.stop(0).await;
    let wrong = Settings { cluster: Some("other".into()), ..Settings::default() };
    let opened = Member::start(options(cluster.dirs[0].path().to_owned(), &cluster.addrs[0], &wrong)).await;
    let text = opened.err().expect("another cluster").to_string();
    assert!(text.contains("other") && text.contains(&cluster.id), "{text}");
}

/// An address that now belongs to a member of another cluster, or to another member, is noticed: Raft
/// messages name cluster and member.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_raft_message_for_another_member_is_refused() {
    use millet_proto::wire::{RaftMessage, raft_client::RaftClient};
    let cluster = Cluster::of(1, Settings::default()).await;
    let mut client = RaftClient::new(dial()(&cluster.addrs[0]));
    let message = |cluster: &str, to| RaftMessage {
        cluster: cluster.into(),
        from: 2,
        to,
        group: 0,
        payload: bytes::Bytes::new(),
    };
    let wrong_member = client.vote(message(&cluster.id, 7)).await.unwrap_err();
    assert!(wrong_member.message().contains("for member 7"), "{wrong_member}");
    let wrong_cluster = client.vote(message("other", 1)).await.unwrap_err();
    assert!(wrong_cluster.message().contains("for cluster \"other\""), "{wrong_cluster}");
    cluster.end().await;
}
