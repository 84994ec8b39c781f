//! Members that join, are replaced, leave and hand leadership over, over real sockets, while nodes write.
#![allow(clippy::unwrap_used, reason = "helpers of tests may unwrap")]

mod cluster;
#[path = "changes/half_way.rs"]
mod half_way;
mod real;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use cluster::{Cluster, LIMIT, Settings, open, player};
use millet_core::{
    Epoch, Grant, SessionId,
    store::{StateStore, Token, Version, Write},
};
use millet_proto::wire;
use millet_raft_meta::client::{ClientOptions, StateClient};
use millet_testkit::{TokioSpawner, until_async};
use tokio::task::JoinHandle;
use tonic::Code;

const TTL: Duration = Duration::from_secs(60);

fn token(session: SessionId) -> Token {
    Token { epoch: Epoch { grant: Grant { generation: 1, index: 5 }, activation: 1 }, session }
}

/// Writes to some grains until told to stop; what was acknowledged.
struct Writer {
    stop: Arc<AtomicBool>,
    done: JoinHandle<BTreeMap<u64, (Version, Bytes)>>,
}

impl Writer {
    fn start(store: StateClient, session: SessionId, grains: u64, bytes: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let done = tokio::spawn(async move {
            let (mut kept, mut n) = (BTreeMap::<u64, (Version, Bytes)>::new(), 0u64);
            let mut versions = BTreeMap::new();
            while !stopped.load(Ordering::Relaxed) {
                n += 1;
                let key = n % grains;
                let grain = player(key);
                let version = match versions.get(&key) {
                    Some(version) => *version,
                    None => match store.open(&grain, "main", token(session)).await {
                        Ok(found) => found.version,
                        Err(_) => continue,
                    },
                };
                let write =
                    Write { grain: &grain, slot: "main", shard: None, token: token(session), version };
                let mut value = vec![0; bytes];
                value[..8].copy_from_slice(&n.to_le_bytes());
                match store.save(write, value.clone().into()).await {
                    Ok(version) => {
                        versions.insert(key, version);
                        kept.insert(key, (version, value.into()));
                    }
                    // Unknown: read back before the next write.
                    Err(_) => drop(versions.remove(&key)),
                }
            }
            kept
        });
        Self { stop, done }
    }

    /// Stops, and checks that everything acknowledged is there; how many writes that were.
    async fn check(self, store: &StateClient, session: SessionId) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let kept = self.done.await.unwrap();
        let mut writes = 0;
        for (key, (version, value)) in kept {
            let found = store.open(&player(key), "main", token(session)).await.unwrap();
            assert!(
                found.version >= version,
                "grain {key}: version {version:?} is lost: {:?}",
                found.version
            );
            if found.version == version {
                assert_eq!(found.value, Some(value), "grain {key} at {version:?}");
            }
            writes += version.0;
        }
        writes
    }
}

/// A client that knows these members only.
fn client(cluster: &Cluster, of: &[usize]) -> StateClient {
    let members = of.iter().map(|n| cluster.addrs[*n].clone()).collect();
    let spawner = Arc::new(TokioSpawner::current());
    StateClient::new(&ClientOptions { cluster: cluster.id.clone(), members, dial: cluster::dial(), spawner })
}

/// R34: a member is lost, a fresh one takes its place in both groups by one request, while nodes write; no
/// acknowledged write is lost, the newcomer has them all, and the lost one's id never comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r34_a_lost_member_is_replaced_in_every_group_while_nodes_write() {
    let mut cluster = Cluster::of(3, Settings::default()).await;
    let session = open(&cluster.keeper(), 1, TTL).await.session;
    let store = cluster.state();
    let writer = Writer::start(store.clone(), session, 20, 100);
    cluster.kill(2).await;
    let by = cluster.fresh().await;
    let start = Instant::now();
    let changed = cluster.replace(0, 3, by).await.unwrap();
    println!("replaced after {:?}: {}", start.elapsed(), changed.text);
    assert_eq!((changed.member, changed.done), (4, true));
    assert_eq!(cluster.voters(0).await, [[1, 2, 4], [1, 2, 4]]);
    assert_eq!(cluster.groups(1).await.change, None);
    assert!(writer.check(&store, session).await > 0);
    // Asked again it has nothing to do; the one that is gone cannot be replaced by another.
    assert!(cluster.replace(1, 3, by).await.unwrap().text.contains("already"));
    let other = cluster.fresh().await;
    let refused = cluster.replace(1, 3, other).await.unwrap_err();
    assert!(refused.message().contains("there is no member 3; members are [1, 2, 4]"), "{refused}");
    // The newcomer counts: with one of the old ones gone it makes the majority.
    cluster.kill(0).await;
    let store = client(&cluster, &[1, by]);
    assert!(store.open(&player(0), "main", token(session)).await.unwrap().version > Version(0));
    cluster.end().await;
}

/// R34: the coordinator dies in the middle. Whoever leads next finds the change in the log and ends it; the
/// same request through another member waits for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r34_a_replacement_goes_on_when_its_coordinator_dies_half_way() {
    let mut cluster = Cluster::of(3, Settings { snapshot_every: 200, ..Settings::default() }).await;
    let session = open(&cluster.keeper(), 1, TTL).await.session;
    let store = cluster.state();
    // A state that takes a moment to copy, so that there is a half way.
    let filler = Writer::start(store.clone(), session, 24, 256 * 1024);
    let grown = async || store.open(&player(23), "main", token(session)).await.is_ok_and(|s| s.version.0 > 0);
    until_async("the state has grown", grown, LIMIT).await;
    assert!(filler.check(&store, session).await >= 24);
    let (leader, by) = (cluster.leader().await, cluster.fresh().await);
    let others: Vec<usize> = (0..3).filter(|n| *n != leader).collect();
    let (gone, through) = (others[0], others[1]);
    let old = cluster.id_of(gone);
    let ask = wire::ReplaceMemberRequest {
        cluster: cluster.id.clone(),
        member: old,
        addr: cluster.addrs[by].clone(),
        limit_ms: 60_000,
    };
    let mut admin = cluster.admin(through);
    let asked = tokio::spawn(async move { admin.replace(ask).await });
    let noted = async || cluster.groups(through).await.change.is_some();
    until_async("the change is noted", noted, LIMIT).await;
    let half_way = cluster.groups(through).await;
    cluster.kill(leader).await;
    println!("killed member {} when: {:?} {}", leader + 1, half_way.change, half_way.stage);
    let first = asked.await.unwrap();
    let again = cluster.replace(through, old, by).await.unwrap();
    assert_eq!((again.member, again.done), (4, true), "after {first:?}");
    let mut voters = vec![cluster.id_of(through), leader as u64 + 1, 4];
    voters.sort_unstable();
    assert_eq!(cluster.voters(through).await, [voters.clone(), voters]);
    let store = client(&cluster, &[through, by]);
    for key in 0..24 {
        let found = store.open(&player(key), "main", token(session)).await.unwrap();
        assert!(found.value.is_some_and(|v| v.len() == 256 * 1024), "grain {key}");
    }
    cluster.end().await;
}

/// A state of many MiB, a hundred times the snapshots of every day, goes to a newcomer in pieces while nodes
/// write; it then votes in both groups and can lead them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newcomer_catches_up_by_snapshot_while_nodes_write_and_can_lead() {
    let mut cluster = Cluster::of(3, Settings { snapshot_every: 300, ..Settings::default() }).await;
    let session = open(&cluster.keeper(), 1, TTL).await.session;
    let store = cluster.state();
    let filler = Writer::start(store.clone(), session, 64, 256 * 1024);
    let grown = async || store.open(&player(63), "main", token(session)).await.is_ok_and(|s| s.version.0 > 0);
    until_async("the state is 16 MiB", grown, LIMIT).await;
    filler.check(&store, session).await;
    let writer = Writer::start(store.clone(), session, 1_000, 2_000);
    let purged = async || cluster.member(0).status().is_some_and(|s| s.groups[1].applied > 700);
    until_async("the log no longer has the beginning", purged, LIMIT).await;
    let by = cluster.fresh().await;
    let (start, before) = (Instant::now(), cluster.groups(0).await.groups[1].last_log);
    let added = cluster.add(1, by).await.unwrap();
    let during = cluster.groups(0).await.groups[1].last_log - before;
    println!("joined after {:?}, {during} entries were written meanwhile", start.elapsed());
    assert_eq!((added.member, added.done), (4, true));
    assert!(during > 0, "nobody wrote");
    assert_eq!(cluster.voters(by).await, [[1, 2, 3, 4], [1, 2, 3, 4]]);
    let ask = wire::TransferLeadershipRequest { cluster: cluster.id.clone(), to: 4, ..Default::default() };
    let leads = async || {
        let answer = cluster.admin(0).transfer(ask.clone()).await;
        answer.is_ok_and(|a| a.into_inner().leaders.iter().all(|l| l.leader == 4))
    };
    until_async("the newcomer leads", leads, LIMIT).await;
    writer.check(&store, session).await;
    let found = store.open(&player(40), "main", token(session)).await.unwrap();
    assert!(found.value.is_some(), "the newcomer has what was written before it came");
    cluster.end().await;
}

/// A removal that would break a quorum is refused with the arithmetic; one after which no loss could be borne
/// needs the cluster's name. Who has left never takes part again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_that_breaks_the_quorum_is_refused_with_the_arithmetic() {
    let mut cluster = Cluster::of(3, Settings { cluster: Some("realm".into()), ..Settings::default() }).await;
    let refused = cluster.remove(0, 3, "").await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("3 voters, 3 answer, 2 must: it bears the loss of 1"), "{refused}");
    assert!(cluster.remove(0, 3, "wrong").await.is_err(), "another name");
    assert!(cluster.remove(0, 9, "realm").await.unwrap_err().message().contains("no member 9"));
    let leader = cluster.leader().await;
    let (gone, left) = (cluster.id_of(leader), (leader + 1) % 3);
    let removed = cluster.remove(left, gone, "realm").await.unwrap();
    assert_eq!((removed.member, removed.done), (gone, true), "also the leader itself");
    let voters = cluster.voters(left).await;
    assert!(voters.iter().all(|v| v.len() == 2 && !v.contains(&gone)), "{voters:?}");
    let retired = async || cluster.member(leader).status().is_none();
    until_async("the removed one has stopped taking part", retired, LIMIT).await;
    cluster.nodes[leader].take().unwrap().abandon().await;
    let dir = cluster.dirs[leader].path().to_owned();
    let started = async || {
        let options = cluster::options(dir.clone(), &cluster.addrs[leader], &cluster.settings);
        match millet_raft_meta::Member::start(options).await {
            Err(e) if e.to_string().contains("has left it for good") => true,
            Err(_) => false,
            Ok(_) => panic!("who has left takes part again"),
        }
    };
    until_async("its directory is refused", started, LIMIT).await;
    let other = (0..3).find(|n| *n != leader && *n != left).unwrap();
    cluster.kill(other).await;
    // No quorum: nothing can be committed, and it says so.
    let asked = async || {
        let refused = cluster.remove(left, other as u64 + 1, "realm").await;
        refused.is_err_and(|e| e.code() == Code::Unavailable)
    };
    until_async("a removal without quorum is unavailable", asked, LIMIT).await;
    cluster.end().await;
}

/// With one of three silent, removing another one cannot be committed, whatever is typed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_with_a_silent_member_left_is_refused_whatever_is_typed() {
    let mut cluster = Cluster::of(3, Settings { cluster: Some("realm".into()), ..Settings::default() }).await;
    cluster.kill(2).await;
    let refused = async || {
        let refused = cluster.remove(0, 2, "realm").await.err();
        refused.is_some_and(|e| e.message().contains("2 voters, of which 2 must answer and 1 do (silent: 3)"))
    };
    until_async("the silent one is counted", refused, LIMIT).await;
    // The silent one itself may go: two of two are as good as two of three.
    assert!(cluster.remove(0, 3, "").await.unwrap().done);
    assert_eq!(cluster.voters(0).await, [[1, 2], [1, 2]]);
    // Its id never comes back, though nobody has it.
    let by = cluster.fresh_at(&cluster.addrs[2].clone()).await;
    assert_eq!(cluster.add(0, by).await.unwrap().member, 4);
    cluster.end().await;
}

/// A fresh directory at the old address: another id, and messages for the old one are refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_member_comes_back_at_its_address_as_another() {
    let mut cluster = Cluster::of(3, Settings::default()).await;
    let session = open(&cluster.keeper(), 1, TTL).await.session;
    let store = cluster.state();
    let writer = Writer::start(store.clone(), session, 5, 64);
    cluster.kill(1).await;
    let by = cluster.fresh_at(&cluster.addrs[1].clone()).await;
    assert_eq!(cluster.replace(0, 2, by).await.unwrap().member, 4);
    assert_eq!(cluster.voters(0).await, [[1, 3, 4], [1, 3, 4]]);
    writer.check(&store, session).await;
    cluster.end().await;
}

/// Who is no fresh member, or is not there, is not let in, and nothing is left behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_not_fresh_or_not_there_is_not_let_in() {
    let mut cluster = Cluster::of(1, Settings::default()).await;
    let mut other = Cluster::of(1, Settings::default()).await;
    cluster.addrs.push(other.addrs[0].clone());
    let refused = cluster.add(0, 1).await.unwrap_err();
    assert!(refused.message().contains(&other.id) && refused.message().contains("empty"), "{refused}");
    other.kill(0).await;
    let silent = cluster.add(0, 1).await.unwrap_err();
    assert_eq!(silent.code(), Code::Unavailable);
    assert!(silent.message().contains("does not answer"), "{silent}");
    cluster.addrs[1] = "nowhere".into();
    assert!(cluster.add(0, 1).await.unwrap_err().message().contains("HOST:PORT"));
    assert!(cluster.add(0, 0).await.unwrap().text.contains("already"), "a member is a member");
    // A request for another cluster changes nothing.
    let ask = wire::RemoveMemberRequest { cluster: other.id.clone(), member: 1, ..Default::default() };
    let refused = cluster.admin(0).remove(ask).await.unwrap_err();
    assert!(refused.message().contains(&other.id) && refused.message().contains(&cluster.id), "{refused}");
    assert_eq!((cluster.groups(0).await.change, cluster.voters(0).await), (None, vec![vec![1], vec![1]]));
    cluster.end().await;
    other.end().await;
}

/// The two groups' leaders move to two members, and off a member that is to be stopped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_are_spread_and_taken_off_a_member() {
    let cluster = Cluster::of(3, Settings::default()).await;
    let ask = |from, to, spread| wire::TransferLeadershipRequest {
        cluster: cluster.id.clone(),
        group: None,
        from,
        to,
        spread,
    };
    let asked = async |request: wire::TransferLeadershipRequest| {
        let answer = cluster.admin(1).transfer(request).await.ok()?.into_inner();
        Some(answer.leaders.iter().map(|l| l.leader).collect::<Vec<_>>())
    };
    let all_at_2 = async || asked(ask(0, 2, false)).await == Some(vec![2, 2]);
    until_async("member 2 leads both", all_at_2, LIMIT).await;
    let spread = async || asked(ask(0, 0, true)).await.is_some_and(|l| l[0] != l[1]);
    until_async("two members lead", spread, LIMIT).await;
    let led: Vec<u64> = cluster.groups(0).await.groups.iter().map(|g| g.leader).collect();
    let off = async || asked(ask(led[0], 0, false)).await.is_some_and(|l| !l.contains(&led[0]));
    until_async("it leads nothing", off, LIMIT).await;
    cluster.end().await;
}
