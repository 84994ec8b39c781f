//! Three members over real sockets: leases, sessions, watches, the loss and return of members.
#![allow(clippy::unwrap_used, reason = "helpers of tests may unwrap")]

mod cluster;
mod real;

use std::{
    collections::BTreeSet,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use cluster::{Cluster, LIMIT, Settings, open, player, renew};
use futures::StreamExt;
use millet_core::{
    BoxFuture, Revision,
    model::{Change, Verdict, Watched},
    world::Threads,
};
use millet_raft_meta::{
    Member,
    client::{Acquired, MetaClient, Watch},
};
use millet_testkit::{StdThreads, until_async, until_some};
use tokio::sync::watch;

const TTL: Duration = Duration::from_secs(4);

async fn acquired(meta: &MetaClient, n: u64, session: millet_core::SessionId) -> millet_core::Grant {
    let granted = async || match meta.acquire(&player(n), session).await {
        Ok(Acquired::Granted { grant, .. }) => Some(grant),
        _ => None,
    };
    until_some("a grant", granted, LIMIT).await
}

/// Acquire, held by another, release, free again: over the wire, through any member.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_are_granted_held_and_released_over_the_wire() {
    let cluster = Cluster::of(3, Settings::default()).await;
    let (keeper, meta) = (cluster.keeper(), cluster.meta());
    let (a, b) = (open(&keeper, 1, TTL).await, open(&keeper, 2, TTL).await);
    let Acquired::Granted { grant, .. } = meta.acquire(&player(1), a.session).await.unwrap() else {
        panic!("free")
    };
    let Acquired::Held(held) = meta.acquire(&player(1), b.session).await.unwrap() else {
        panic!("held by a")
    };
    assert_eq!((held.session, held.grant), (a.session, grant));
    assert_eq!(meta.lookup(&player(1)).await.unwrap().map(|h| h.session), Some(a.session));
    meta.release(&player(1), a.session, grant).await.unwrap();
    assert_eq!(meta.lookup(&player(1)).await.unwrap(), None);
    let Acquired::Granted { grant: second, .. } = meta.acquire(&player(1), b.session).await.unwrap() else {
        panic!("free")
    };
    assert!(second > grant);
    let moved = meta.move_to(&player(1), b.session, second, a.session).await.unwrap().unwrap();
    assert!(moved.session == a.session && moved.grant > second);
    cluster.end().await;
}

/// A sequential write costs a few round trips and syncs, not the 44 ms of a delayed acknowledgement: both
/// ends of every connection have `tcp_nodelay`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sequential_write_does_not_wait_for_delayed_acknowledgements() {
    let cluster = Cluster::of(3, Settings::default()).await;
    let (keeper, meta) = (cluster.keeper(), cluster.meta());
    let mut session = open(&keeper, 1, Duration::from_secs(60)).await;
    acquired(&meta, 0, session.session).await;
    let mut took: Vec<Duration> = Vec::new();
    for n in 1..=200 {
        let start = Instant::now();
        acquired(&meta, n, session.session).await;
        took.push(start.elapsed());
    }
    took.sort();
    println!("sequential acquire through three members: p50 {:?}, p99 {:?}", took[100], took[198]);
    assert!(took[100] < Duration::from_millis(20), "p50 {:?}", took[100]);
    assert_eq!(renew(&keeper, &mut session).await, Verdict::Renewed);
    cluster.end().await;
}

/// What was granted before the leader stopped is there after; the other two go on; the stopped member
/// comes back from its own disk and catches up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_survives_its_leader_and_the_leader_comes_back() {
    let mut cluster = Cluster::of(3, Settings::default()).await;
    let (keeper, meta) = (cluster.keeper(), cluster.meta());
    let session = open(&keeper, 1, Duration::from_secs(60)).await.session;
    let first = acquired(&meta, 1, session).await;
    let old = cluster.leader().await;
    cluster.stop(old).await;
    let second = acquired(&meta, 2, session).await;
    assert!(second > first);
    assert_ne!(cluster.leader().await, old);
    assert_eq!(meta.lookup(&player(1)).await.unwrap().map(|h| h.grant), Some(first));
    cluster.start(old).await;
    let applied = |n: usize| cluster.member(n).status().map_or(0, |s| s.groups[0].applied);
    let caught_up = async || applied(old) >= second.index;
    until_async("the old leader has caught up", caught_up, LIMIT).await;
    cluster.end().await;
}

/// All members stop; all come back from disk: leases, sessions and cluster time go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_members_restart_with_their_state_intact() {
    let mut cluster = Cluster::of(3, Settings::default()).await;
    let (keeper, meta) = (cluster.keeper(), cluster.meta());
    let mut session = open(&keeper, 1, Duration::from_secs(60)).await;
    let grant = acquired(&meta, 1, session.session).await;
    for n in 0..3 {
        cluster.stop(n).await;
    }
    for n in 0..3 {
        cluster.start(n).await;
    }
    cluster.member(0).ready(LIMIT).await.unwrap();
    let held = until_some("a holder", async || meta.lookup(&player(1)).await.ok().flatten(), LIMIT).await;
    assert_eq!((held.session, held.grant), (session.session, grant));
    assert_eq!(renew(&keeper, &mut session).await, Verdict::Renewed);
    cluster.end().await;
}

/// A session whose keepalives stop is ended after its TTL, and not much later; what it held is free.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_session_expires_after_its_ttl() {
    let cluster = Cluster::of(3, Settings::default()).await;
    let (keeper, meta) = (cluster.keeper(), cluster.meta());
    let ttl = Duration::from_secs(1);
    let (mut silent, lively) = (open(&keeper, 1, ttl).await, open(&keeper, 2, Duration::from_secs(60)).await);
    let renewed = Instant::now();
    assert_eq!(renew(&keeper, &mut silent).await, Verdict::Renewed);
    acquired(&meta, 1, silent.session).await;
    let free =
        async || matches!(meta.acquire(&player(1), lively.session).await, Ok(Acquired::Granted { .. }));
    until_async("the silent session's grain is free", free, LIMIT).await;
    let after = renewed.elapsed();
    assert!(after >= ttl, "ended {after:?} after the renewal, before its TTL");
    assert!(after < ttl * 3, "ended only {after:?} after the renewal");
    assert_eq!(renew(&keeper, &mut silent).await, Verdict::Dead);
    cluster.end().await;
}

/// R22: a holder that hears no answers is not renewed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r22_a_session_that_hears_nothing_is_not_renewed() {
    let cluster = Cluster::of(1, Settings::default()).await;
    let keeper = cluster.keeper();
    let mut deaf = open(&keeper, 1, TTL).await;
    deaf.number += 5;
    let heard = deaf.heard;
    assert_eq!(renew(&keeper, &mut deaf).await, Verdict::NotRenewed);
    assert!(deaf.heard > heard, "and it is told so");
    assert_eq!(renew(&keeper, &mut deaf).await, Verdict::Renewed);
    cluster.end().await;
}

async fn next(watch: &mut Watch) -> Watched {
    tokio::time::timeout(LIMIT, watch.next()).await.unwrap().unwrap().unwrap()
}

fn revision(w: &Watched) -> Revision {
    match w {
        Watched::Event(e) => e.revision,
        Watched::Resync(v) => v.revision,
        Watched::Progress(r) => *r,
    }
}

/// A watch tells of sessions that open and end; shards are assigned to a living session; one that starts
/// again from its revision misses nothing and never goes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r17_a_watch_tells_everything_once_and_never_goes_back() {
    let cluster = Cluster::of(3, Settings::default()).await;
    let (keeper, meta) = (cluster.keeper(), cluster.meta());
    let mut watch = meta.watch(Revision(0)).await.unwrap();
    let session = open(&keeper, 1, Duration::from_secs(1)).await.session;
    let (mut at, mut opened, mut shards, mut reconnected) = (Revision(0), false, 0, false);
    loop {
        let w = next(&mut watch).await;
        assert!(revision(&w) >= at, "{:?} after {at:?}", revision(&w));
        at = revision(&w);
        let Watched::Event(e) = w else { continue };
        for change in e.changes {
            match change {
                Change::Session(s) => opened |= s.id == session,
                Change::Shard { state, .. } => shards += usize::from(state.holder().is_some()),
                Change::Ended(id) if id == session => {
                    assert!(opened && reconnected, "told of the end without the beginning");
                    assert_eq!(shards, 8, "every shard of the type was assigned once");
                    return cluster.end().await;
                }
                Change::Ended(_) | Change::Type(_) => {}
            }
        }
        if shards == 8 && !reconnected {
            reconnected = true;
            watch = meta.watch(at).await.unwrap();
        }
    }
}

/// R17, G4: a watch that has to begin again begins at another member: the last one may answer well and yet be
/// cut off from the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r17_every_watch_begins_at_the_next_member() {
    let cluster = Cluster::of(3, Settings::default()).await;
    let mut options = cluster.options();
    let (dial, dialled) = (options.dial.clone(), Arc::new(Mutex::new(BTreeSet::new())));
    let seen = dialled.clone();
    options.dial = Arc::new(move |addr: &str| {
        seen.lock().unwrap().insert(addr.to_owned());
        dial(addr)
    });
    let meta = MetaClient::new(&options);
    for _ in 0..3 {
        drop(meta.watch(Revision(0)).await.unwrap());
    }
    assert_eq!(dialled.lock().unwrap().len(), 3);
    cluster.end().await;
}

/// Snapshots are taken, the log is purged, a member that was away longer than the log reaches gets a
/// snapshot over the wire, and its watchers are told to start anew (R17); a restart recovers from file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r19_the_log_is_purged_to_a_snapshot_from_which_members_come_back() {
    let mut cluster = Cluster::of(3, Settings { snapshot_every: 200, ..Settings::default() }).await;
    let (keeper, meta) = (cluster.keeper(), cluster.meta());
    let session = open(&keeper, 1, Duration::from_secs(60)).await.session;
    let first = acquired(&meta, 1, session).await;
    let away = (cluster.leader().await + 1) % 3;
    cluster.stop(away).await;
    for n in 0..1_000 {
        acquired(&meta, 2 + n % 50, session).await;
        if n % 50 == 49 {
            for grain in 0..50 {
                let held = meta.lookup(&player(2 + grain)).await.unwrap().unwrap();
                meta.release(&player(2 + grain), session, held.grant).await.unwrap();
            }
        }
    }
    let dirs: Vec<_> = cluster.dirs.iter().map(|d| d.path().join("snapshots")).collect();
    let files = |n: usize| {
        let dir = &dirs[n];
        let names = std::fs::read_dir(dir).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap());
        names.filter(|f| f.starts_with("snapshot-0-")).collect::<Vec<_>>()
    };
    let leader = cluster.leader().await;
    until_async("a snapshot file", async || !files(leader).is_empty(), LIMIT).await;
    cluster.start(away).await;
    let last = acquired(&meta, 1_000, session).await;
    let caught_up = async || cluster.member(away).status().is_some_and(|s| s.groups[0].applied >= last.index);
    until_async("the member that was away has caught up", caught_up, LIMIT).await;
    assert!(!files(away).is_empty(), "it was given a snapshot, or took one");
    for n in 0..3 {
        cluster.stop(n).await;
    }
    for n in 0..3 {
        cluster.start(n).await;
    }
    let held = until_some("a holder", async || meta.lookup(&player(1)).await.ok().flatten(), LIMIT).await;
    assert_eq!((held.session, held.grant), (session, first));
    cluster.end().await;
}

/// A graceful stop hands leadership over: the next write needs no election.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_graceful_stop_hands_leadership_over() {
    let mut cluster = Cluster::of(3, Settings::default()).await;
    let (keeper, meta) = (cluster.keeper(), cluster.meta());
    let session = open(&keeper, 1, Duration::from_secs(60)).await.session;
    acquired(&meta, 1, session).await;
    let old = cluster.leader().await;
    let node = cluster.nodes[old].take().unwrap();
    let start = Instant::now();
    node.stop().await;
    acquired(&meta, 2, session).await;
    let took = start.elapsed();
    println!("stop of the leader and the next write: {took:?}");
    assert!(took < Duration::from_millis(900), "an election takes longer than a hand-over: {took:?}");
    cluster.end().await;
}

/// Members are killed one after another, leaders too, and come back from their disks; every grant that
/// was answered is still there, and no grain has two.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_members_rejoin_and_nothing_answered_is_lost() {
    let mut cluster = Cluster::of(3, Settings::default()).await;
    let (keeper, meta) = (cluster.keeper(), cluster.meta());
    let session = open(&keeper, 1, Duration::from_secs(60)).await.session;
    let mut grants = Vec::new();
    for round in 0..6_u64 {
        for n in 0..10 {
            grants.push(acquired(&meta, round * 10 + n, session).await);
        }
        let victim = if round % 2 == 0 { cluster.leader().await } else { round as usize % 3 };
        cluster.kill(victim).await;
        grants.push(acquired(&meta, 1_000 + round, session).await);
        cluster.start(victim).await;
    }
    for round in 0..6_u64 {
        for n in 0..10 {
            let held = meta.lookup(&player(round * 10 + n)).await.unwrap().unwrap();
            assert_eq!((held.session, held.grant), (session, grants[(round * 11 + n) as usize]));
        }
    }
    cluster.end().await;
}

/// Threads on which the `state` group's machine does nothing until the gate opens; connections are counted.
struct Slow {
    gate: watch::Sender<bool>,
    dialled: Arc<AtomicU64>,
}

impl Threads for Slow {
    fn spawn(&self, name: &str, body: Box<dyn FnOnce() + Send>) -> io::Result<()> {
        StdThreads.spawn(name, body)
    }
    fn drive(&self, name: &str, task: BoxFuture<'static, ()>) -> io::Result<()> {
        let mut gate = self.gate.subscribe();
        let closed = name == "apply-1";
        let late = async move {
            if closed {
                let _ = gate.wait_for(|open| *open).await;
            }
            task.await;
        };
        StdThreads.drive(name, Box::pin(late))
    }
    fn run(
        &self,
        name: &str,
        task: BoxFuture<'static, ()>,
        gone: Box<dyn FnOnce() + Send>,
    ) -> io::Result<()> {
        StdThreads.run(name, task, gone)
    }
    fn cores(&self) -> usize {
        StdThreads.cores()
    }
}

/// A large state takes long to rebuild. Whoever does that serves nobody yet: were it to lead, it would hold
/// down those who can.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g4_a_member_that_rebuilds_its_state_stands_for_no_election() {
    let mut cluster = Cluster::of(3, Settings::default()).await;
    acquired(&cluster.meta(), 1, open(&cluster.keeper(), 1, TTL).await.session).await;
    for n in 0..3 {
        cluster.kill(n).await;
    }
    let slow = Arc::new(Slow { gate: watch::Sender::new(false), dialled: Arc::default() });
    let mut options =
        cluster::options(cluster.dirs[0].path().to_owned(), &cluster.addrs[0], &cluster.settings);
    let (dial, dialled) = (cluster::dial(), Arc::clone(&slow.dialled));
    options.threads = Arc::clone(&slow) as _;
    options.dial = Arc::new(move |addr| {
        dialled.fetch_add(1, Relaxed);
        dial(addr)
    });
    let starting = tokio::spawn(Member::start(options));
    let asks = async || slow.dialled.load(Relaxed) > 0;
    // Five times the longest election timeout.
    let early = tokio::time::timeout(Duration::from_secs(3), until_async("it asks for votes", asks, LIMIT));
    assert!(early.await.is_err(), "it stood for an election while nobody could reach it");
    assert!(!starting.is_finished(), "it waits for its state");
    slow.gate.send_replace(true);
    let member = starting.await.unwrap().unwrap();
    until_async("then it asks for votes", asks, LIMIT).await;
    member.abandon().await;
}
