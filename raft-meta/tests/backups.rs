//! Backups of clusters that run, and new clusters made of them or of what a lost one has left (R16).
#![allow(clippy::unwrap_used, reason = "helpers of tests may unwrap")]

#[path = "backups/broken.rs"]
mod broken;
mod cluster;
mod real;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use cluster::{Cluster, LIMIT, Node, Settings, node_info, open, player, renew};
use millet_core::{
    BootTime, Clock, Epoch, GrainType, Grant, SessionId, ShardId,
    model::{OpenSession, Verdict},
    store::{StateStore, StoreError, Stored, Token, Write},
    world::Disk,
};
use millet_proto::wire;
use millet_raft_meta::{
    EngineKind,
    backup::{NewMember, Recovered, force_new_cluster, restore, verify},
    client::{Acquired, ClientError},
};
use millet_testkit::{SeededEntropy, StdThreads, until_some};
use real::disk::RealDisk;

const TTL: Duration = Duration::from_secs(2);

/// A wall clock that stands still.
struct Wall(u64);
impl Clock for Wall {
    fn boottime(&self) -> BootTime {
        BootTime(1)
    }
    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }
    fn wall_ms(&self) -> u64 {
        self.0
    }
}

fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

fn new_member(dir: &Path, addr: &str, wall_ms: u64) -> NewMember {
    NewMember {
        dir: dir.to_owned(),
        addr: addr.to_owned(),
        name: String::new(),
        ttl: Duration::ZERO,
        disk: Arc::new(RealDisk),
        threads: Arc::new(StdThreads),
        entropy: Arc::new(SeededEntropy::new(wall_ms)),
        clock: Arc::new(Wall(wall_ms)),
    }
}

async fn free_addr() -> String {
    cluster::bind("127.0.0.1:0").await.local_addr().unwrap().to_string()
}

fn token(generation: u32, index: u64, session: SessionId) -> Token {
    Token { epoch: Epoch { grant: Grant { generation, index }, activation: 1 }, session }
}

fn named(engine: EngineKind) -> Settings {
    Settings { cluster: Some("realm".into()), snapshot_every: 40, engine }
}

/// Grains with values of 1 byte to 1 MiB, and one that was cleared.
async fn fill(cluster: &Cluster, session: SessionId) -> Vec<Stored> {
    let store = cluster.state();
    let mut kept = Vec::new();
    for n in 0..50u64 {
        let (grain, token) = (player(n), token(1, 5, session));
        let mut version = store.open(&grain, "main", token).await.unwrap().version;
        let value = Bytes::from(vec![u8::try_from(n).unwrap(); if n == 7 { 1 << 20 } else { 1 << (n % 12) }]);
        for _ in 0..=n % 3 {
            let write = Write { grain: &grain, slot: "main", shard: None, token, version };
            version = store.save(write, value.clone()).await.unwrap();
        }
        kept.push(Stored { version, value: Some(value) });
    }
    let write = Write {
        grain: &player(49),
        slot: "main",
        shard: None,
        token: token(1, 5, session),
        version: kept[49].version,
    };
    kept[49] = Stored { version: store.clear(write).await.unwrap(), value: None };
    kept
}

async fn backup(cluster: &Cluster, through: usize) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("realm.backup");
    let ask = wire::BackupRequest { cluster: cluster.id.clone() };
    let mut pieces = cluster.admin(through).backup(ask).await.unwrap().into_inner();
    let (mut bytes, mut longest) = (Vec::new(), 0);
    while let Some(piece) = pieces.message().await.unwrap() {
        longest = longest.max(piece.data.len());
        bytes.extend_from_slice(&piece.data);
    }
    assert!(longest <= 256 * 1024, "pieces are small: {longest}");
    std::fs::write(&path, bytes).unwrap();
    (dir, path)
}

/// The new cluster, running.
async fn start(made: &Recovered, dir: tempfile::TempDir, addr: &str, settings: Settings) -> Cluster {
    let node = Node::start(dir.path().to_owned(), addr, &settings).await;
    let (addrs, id) = (vec![addr.to_owned()], made.cluster.clone());
    Cluster { nodes: vec![Some(node)], dirs: vec![dir], addrs, id, settings }
}

/// What every recovery promises, on a running new cluster: the state is there, nobody of the old cluster can
/// do anything, and nothing is granted too early.
async fn r16_holds(
    new: &Cluster,
    old: &str,
    made: &Recovered,
    kept: &[Stored],
    old_session: SessionId,
    wall_ms: u64,
) {
    assert!(made.generation >= u32::try_from(wall_ms / 1_000).unwrap(), "{made:?}");
    assert!(made.cluster.starts_with("realm-") && made.cluster != old, "{made:?}");
    let (keeper, meta, store) = (new.keeper(), new.meta(), new.state());
    let ask = OpenSession { incarnation: 77, attempt: 1, node: node_info(77), ttl: TTL };
    let opened = until_some("a session", async || keeper.open(ask.clone()).await.ok(), LIMIT).await;
    let reserved = opened.worker.unwrap().after_ms;
    assert!(reserved >= wall_ms + 60_000, "snowflakes of the lost part may lie up to there: {reserved}");
    assert!(opened.session > old_session, "session ids never come again");
    // One TTL of cluster time, the longest of the old cluster's and the default: nothing is granted.
    let mut held = cluster::Held { session: opened.session, number: 0, heard: 0 };
    assert_eq!(renew(&keeper, &mut held).await, Verdict::Renewed);
    let quiet = Instant::now();
    let first = meta.acquire(&player(1), held.session).await.unwrap();
    assert_eq!(first, Acquired::Retry, "{first:?}");
    let granted = loop {
        assert_eq!(renew(&keeper, &mut held).await, Verdict::Renewed);
        if let Acquired::Granted { grant, .. } = meta.acquire(&player(1), held.session).await.unwrap() {
            break grant;
        }
        assert!(quiet.elapsed() < LIMIT, "nothing is granted at all");
    };
    let waited = quiet.elapsed();
    println!("granted after {waited:?}");
    assert!(waited > Duration::from_millis(3_500), "{waited:?}");
    assert_eq!(granted.generation, made.generation);
    // The old cluster's tokens are refused, whatever they claim (G1a).
    let grain = player(3);
    for index in [5, 1 << 40] {
        let write = |session| Write {
            grain: &grain,
            slot: "main",
            shard: None,
            token: token(1, index, session),
            version: kept[3].version,
        };
        let fenced = store.save(write(held.session), Bytes::from_static(b"old")).await;
        assert!(matches!(fenced, Err(StoreError::Fenced { .. })), "{fenced:?}");
        let ended = store.save(write(old_session), Bytes::from_static(b"old")).await;
        assert!(matches!(ended, Err(StoreError::SessionEnded(s)) if s == old_session), "{ended:?}");
    }
    // Also for types that had no row: the old cluster went on granting after the copy was made.
    let rank = GrainType::new("realm.Rank").unwrap();
    for index in [5, 1 << 40] {
        let old = Grant { generation: 1, index };
        let fenced = store.open_shard(&rank, ShardId(1), old, held.session).await;
        assert!(matches!(fenced, Err(StoreError::Fenced { .. })), "{fenced:?}");
    }
    for (n, kept) in (0..).zip(kept) {
        let found = store.open(&player(n), "main", token(made.generation, granted.index, held.session)).await;
        match &kept.value {
            Some(_) => assert_eq!(found.as_ref(), Ok(kept), "grain {n}"),
            // Every token below its floor is refused now, so the sweep may have taken the row (R2).
            None => assert_eq!(found.unwrap().value, None, "grain {n}"),
        }
    }
    // Whoever still names the old cluster is told so.
    let options = millet_raft_meta::client::ClientOptions { cluster: old.to_owned(), ..new.options() };
    let refused = millet_raft_meta::client::MetaClient::new(&options).status().await.unwrap_err();
    assert!(
        matches!(&refused, ClientError::Refused(why) if why.contains(old) && why.contains(&made.cluster)),
        "{refused}"
    );
}

async fn restored(engine: EngineKind) {
    let mut cluster = Cluster::of(3, named(engine)).await;
    let session = open(&cluster.keeper(), 1, TTL).await.session;
    let kept = fill(&cluster, session).await;
    let started = Instant::now();
    let (_home, file) = backup(&cluster, 1).await;
    println!("a backup of {} bytes in {:?}", std::fs::metadata(&file).unwrap().len(), started.elapsed());
    // What comes later is not in it.
    let store = cluster.state();
    let late = store.open(&player(60), "main", token(1, 5, session)).await;
    assert!(late.is_ok() || matches!(late, Err(StoreError::SessionEnded(_))), "{late:?}");
    let found = verify(&RealDisk, &file).unwrap();
    assert_eq!(found.header.cluster, cluster.id);
    assert_eq!((found.header.members.len(), found.state.values), (3, 49));
    assert_eq!(found.bytes, std::fs::metadata(&file).unwrap().len());
    for n in 0..3 {
        cluster.kill(n).await;
    }
    let (dir, addr, wall_ms) = (tempfile::tempdir().unwrap(), free_addr().await, now_ms());
    let made = restore(&file, &new_member(dir.path(), &addr, wall_ms)).unwrap();
    assert_eq!((made.old.as_str(), made.values), (cluster.id.as_str(), 49));
    // The directory is taken now: a second restore into it would mix two clusters.
    let twice = restore(&file, &new_member(dir.path(), &addr, wall_ms)).unwrap_err().to_string();
    assert!(twice.contains(&made.cluster) && twice.contains("empty"), "{twice}");
    let mut new = start(&made, dir, &addr, named(engine)).await;
    r16_holds(&new, &cluster.id, &made, &kept, session, wall_ms).await;
    // It grows like any other cluster, and starts again from its own disk.
    let by = new.fresh().await;
    assert_eq!(new.add(0, by).await.unwrap().member, 2);
    assert_eq!(new.voters(by).await, [[1, 2], [1, 2]]);
    for n in [0, 1] {
        new.stop(n).await;
    }
    for n in [0, 1] {
        new.start(n).await;
    }
    assert_eq!(new.voters(0).await, [[1, 2], [1, 2]]);
    new.end().await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r16_a_backup_becomes_a_new_cluster_that_takes_no_old_token_on_redb() {
    restored(EngineKind::Redb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r16_a_backup_becomes_a_new_cluster_that_takes_no_old_token_on_sled() {
    restored(EngineKind::Sled).await;
}

/// R16: the same backup twice, or a backup of what was restored: no two clusters share a generation.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r16_every_recovery_has_a_generation_of_its_own() {
    let cluster = Cluster::of(1, named(EngineKind::Redb)).await;
    let session = open(&cluster.keeper(), 1, TTL).await.session;
    cluster.state().open(&player(1), "main", token(1, 5, session)).await.unwrap();
    let (_home, file) = backup(&cluster, 0).await;
    cluster.end().await;
    let taken = verify(&RealDisk, &file).unwrap().header.taken_ms;
    let made = |wall_ms| {
        let dir = tempfile::tempdir().unwrap();
        (restore(&file, &new_member(dir.path(), "127.0.0.1:1", wall_ms)).unwrap(), dir)
    };
    let ((first, one), (second, _two)) = (made(taken), made(taken + 1_000));
    let seconds = u32::try_from(taken / 1_000).unwrap();
    assert_eq!((first.generation, second.generation), (seconds, seconds + 1));
    assert_ne!(first.cluster, second.cluster);
    // What was restored has its own generation for all types: what is made of it is above that.
    let third = tempfile::tempdir().unwrap();
    let forced = |wall_ms| {
        let new = new_member(third.path(), "127.0.0.1:1", wall_ms);
        force_new_cluster(one.path(), &first.cluster, &new)
    };
    // A directory knows when it was made, and the times that were reserved in it.
    let why = forced(taken - 1).unwrap_err().to_string();
    assert!(why.contains(&taken.to_string()) && why.contains("set this machine's clock right"), "{why}");
    assert_eq!(forced(taken).unwrap().generation, seconds + 1);
}

/// R16, R33: a wall clock behind the backup's own time would give out snowflakes and generations again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r16_a_wall_clock_behind_the_backup_is_refused_with_both_times() {
    let cluster = Cluster::of(1, named(EngineKind::Redb)).await;
    let (_home, file) = backup(&cluster, 0).await;
    cluster.end().await;
    let (taken, dir) = (verify(&RealDisk, &file).unwrap().header.taken_ms, tempfile::tempdir().unwrap());
    let early = taken - 61_500;
    let why = restore(&file, &new_member(dir.path(), "127.0.0.1:1", early)).unwrap_err().to_string();
    assert!(why.contains(&taken.to_string()) && why.contains(&early.to_string()), "{why}");
    assert!(why.contains("62 s before") && why.contains("set this machine's clock right"), "{why}");
    assert!(!dir.path().join("log").exists(), "nothing was made of it");
    restore(&file, &new_member(dir.path(), "127.0.0.1:1", taken)).unwrap();
}

/// A flipped byte anywhere, a cut, a file of something else: refused with the place, and nothing is made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_backup_is_refused_with_its_place() {
    let cluster = Cluster::of(1, named(EngineKind::Redb)).await;
    let session = open(&cluster.keeper(), 1, TTL).await.session;
    fill(&cluster, session).await;
    let (home, file) = backup(&cluster, 0).await;
    cluster.end().await;
    let (good, bad) = (std::fs::read(&file).unwrap(), home.path().join("bad"));
    let refused = |bytes: &[u8]| {
        std::fs::write(&bad, bytes).unwrap();
        let why = verify(&RealDisk, &bad).unwrap_err().to_string();
        assert!(why.contains(&*bad.to_string_lossy()) && why.contains("at byte"), "{why}");
        why.rsplit_once("at byte ").unwrap().1.split(';').next().unwrap().parse::<usize>().unwrap()
    };
    for byte in (0..good.len()).step_by(good.len() / 40).chain([good.len() - 1]) {
        let mut flipped = good.clone();
        flipped[byte] ^= 0x10;
        let at = refused(&flipped);
        assert!(at <= byte && byte - at <= 512 * 1024, "byte {byte} is said to be in the frame at {at}");
        assert!(refused(&good[..byte]) <= byte);
    }
    assert_eq!(refused(b"something else"), 0);
    let dir = tempfile::tempdir().unwrap();
    let why = restore(&bad, &new_member(dir.path(), "127.0.0.1:1", 5)).unwrap_err().to_string();
    assert!(why.contains("at byte"), "{why}");
    assert!(!dir.path().join("log").exists(), "nothing was made of it");
}

async fn forced(engine: EngineKind) {
    let mut cluster = Cluster::of(3, named(engine)).await;
    let session = open(&cluster.keeper(), 1, TTL).await.session;
    let kept = fill(&cluster, session).await;
    let applied = |n: usize| cluster.member(n).status().map_or(0, |s| s.groups[1].applied);
    let last = applied(cluster.leader().await);
    millet_testkit::until("member 3 has everything", || applied(2) >= last, LIMIT);
    for n in 0..3 {
        cluster.kill(n).await;
    }
    let (old, dir) = (cluster.dirs[2].path().to_owned(), tempfile::tempdir().unwrap());
    let (addr, wall_ms) = (free_addr().await, now_ms());
    let new = new_member(dir.path(), &addr, wall_ms);
    let force = |confirm: &str| force_new_cluster(&old, confirm, &new);
    // After a kill in the same process, locks go a moment later.
    let wrong = async || force("relm").err().map(|e| e.to_string()).filter(|e| !e.contains("locked"));
    let wrong = until_some("the directory is free", wrong, LIMIT).await;
    assert!(
        wrong.contains("\"relm\" is not the name of cluster realm-") && wrong.contains("nothing was done"),
        "{wrong}"
    );
    assert!(!dir.path().join("identity").exists(), "nothing was done");
    let made = force("realm").unwrap();
    let running = start(&made, dir, &addr, named(engine)).await;
    r16_holds(&running, &cluster.id, &made, &kept, session, wall_ms).await;
    running.end().await;
    // The old directory is what it was: with another old member it is the old cluster again.
    cluster.start(2).await;
    cluster.start(1).await;
    assert_eq!(cluster.voters(2).await, [[1, 2, 3], [1, 2, 3]]);
    cluster.end().await;
}

/// R16: the majority is gone for good; what one member has becomes a new cluster, if its name is typed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r16_a_lost_majority_is_left_behind_if_the_name_is_typed_on_redb() {
    forced(EngineKind::Redb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r16_a_lost_majority_is_left_behind_if_the_name_is_typed_on_sled() {
    forced(EngineKind::Sled).await;
}

/// R16: the cluster went on without this member, with acknowledged writes that it never saw.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r16_what_a_removed_member_has_left_is_no_beginning_of_a_new_cluster() {
    let mut cluster = Cluster::of(3, named(EngineKind::Redb)).await;
    let removed = async || cluster.remove(0, 3, "realm").await.is_ok_and(|r| r.done);
    millet_testkit::until_async("it is removed", removed, LIMIT).await;
    millet_testkit::until("it has left", || cluster.member(2).status().is_none(), LIMIT);
    cluster.kill(2).await;
    let dir = tempfile::tempdir().unwrap();
    let forced = async || {
        let new = new_member(dir.path(), "127.0.0.1:1", now_ms());
        let forced = force_new_cluster(cluster.dirs[2].path(), "realm", &new);
        forced.err().map(|e| e.to_string()).filter(|e| !e.contains("locked"))
    };
    let why = until_some("it is refused", forced, LIMIT).await;
    assert!(why.contains("belonged to member 3") && why.contains("went on without it"), "{why}");
    assert!(!dir.path().join("identity").exists(), "nothing was done");
    cluster.end().await;
}

/// A backup while nodes write holds what was acknowledged before it was asked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_of_a_busy_cluster_holds_what_was_acknowledged_before() {
    let cluster = Cluster::of(3, named(EngineKind::Redb)).await;
    let session = open(&cluster.keeper(), 1, Duration::from_secs(60)).await.session;
    let store = cluster.state();
    let (grain, token) = (player(1), token(1, 5, session));
    let mut version = store.open(&grain, "main", token).await.unwrap().version;
    for round in 0..5u8 {
        for n in 0..20u8 {
            let write = Write { grain: &grain, slot: "main", shard: None, token, version };
            version = store.save(write, Bytes::from(vec![round, n])).await.unwrap();
        }
        // Through a member that does not lead, too: it waits until it has what its leader has.
        let acknowledged = cluster.groups(0).await.groups[1].applied;
        let (_home, file) = backup(&cluster, usize::from(round) % 3).await;
        let found = verify(&RealDisk, &file).unwrap();
        assert_eq!(found.state.values, 1);
        assert!(found.state_index >= acknowledged, "{} of {acknowledged}", found.state_index);
    }
    cluster.end().await;
}
