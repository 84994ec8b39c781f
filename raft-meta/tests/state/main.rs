//! The `state` group's machine over both engines: the store's rules by the conformance suite, recovery
//! after kills and power cuts (R19), copies taken while it changes.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod conformance;
mod filling;
#[path = "../real/mod.rs"]
mod real;
mod recovery;

use std::{
    io::{self, BufRead, BufReader, Read},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use millet_core::{
    BoxFuture, Epoch, GrainId, GrainType, Grant, Key, SessionId, ShardId,
    store::{StateStore, StoreError, Stored, Token, Version, Write},
    world::{Disk, DiskFile},
};
use millet_proto::state::{Done, Op};
use millet_raft_meta::{
    engine::{self, Engine, EngineKind, RedbEngine},
    group::{Applied, ApplyEntry, GroupMachine},
    state::{StateCommand, StateGroup, StateReader, StateReply, StateResult},
};
use millet_testkit::{Cut, SimDisk};
use parking_lot::Mutex;

const CACHE: u64 = 16 << 20;

fn real() -> Arc<dyn Disk> {
    Arc::new(real::RealDisk)
}

fn redb_on(disk: &SimDisk) -> StateGroup {
    StateGroup::open(
        engine::open(EngineKind::Redb, Arc::new(disk.clone()), Path::new("/data/state"), CACHE).unwrap(),
    )
    .unwrap()
}

fn fresh() -> StateGroup {
    redb_on(&SimDisk::new())
}

fn entry(index: u64, command: &StateCommand) -> ApplyEntry {
    ApplyEntry {
        index,
        log_id: Bytes::from(format!("log id {index}")),
        membership: None,
        command: Some(command.encode()),
    }
}

/// The content as a snapshot has it: equal bytes, equal state.
fn content(group: &mut StateGroup) -> Vec<u8> {
    let mut bytes = Vec::new();
    group.snapshot().unwrap().write_to(&mut bytes).unwrap();
    bytes
}

/// The keys in a content.
fn keys(mut content: &[u8]) -> Vec<&[u8]> {
    let mut found = Vec::new();
    while content[..4] != u32::MAX.to_be_bytes() {
        let [key, value] =
            [0, 4].map(|at| u32::from_be_bytes(content[at..at + 4].try_into().unwrap()) as usize);
        found.push(&content[8..8 + key]);
        content = &content[8 + key + value..];
    }
    found
}

// --- The store's rules -------------------------------------------------------------------------------

fn grain(n: u64) -> GrainId {
    GrainId::new(GrainType::new("realm.Player").unwrap(), n)
}

fn token(index: u64) -> Token {
    Token { epoch: Epoch { grant: Grant { generation: 1, index }, activation: 1 }, session: SessionId(index) }
}

fn open(n: u64, t: Token) -> Op {
    Op::Open { grain: grain(n), slot: "s".into(), token: t }
}

fn save(n: u64, t: Token, version: u64, value: Option<Bytes>) -> Op {
    Op::Write { grain: grain(n), slot: "s".into(), shard: None, token: t, version: Version(version), value }
}

fn results(group: &mut StateGroup, index: u64, ops: Vec<Op>) -> Vec<StateResult> {
    let reply = group.apply(vec![entry(index, &StateCommand::Batch(ops))]).unwrap().remove(0);
    StateReply::decode(&reply).unwrap().0
}

#[test]
fn operations_of_one_batch_see_each_other() {
    let value = Some(Bytes::from_static(b"x"));
    let got = results(
        &mut fresh(),
        1,
        vec![
            open(1, token(5)),
            save(1, token(5), 0, value.clone()),
            open(1, token(6)),
            save(1, token(5), 1, None),
        ],
    );
    assert_eq!(got[1], Ok(Done::Written(Version(1))));
    assert_eq!(got[2], Ok(Done::Stored(Stored { version: Version(1), value })));
    assert!(matches!(got[3], Err(StoreError::Fenced { .. })));
}

#[test]
fn r2_ended_sessions_are_refused_and_their_valueless_floors_swept_a_few_at_a_time() {
    let mut group = fresh();
    let floors: Vec<Op> = (0..600).map(|n| open(n, token(5))).collect();
    results(&mut group, 1, floors);
    results(&mut group, 2, vec![save(3, token(5), 0, Some(Bytes::from_static(b"kept"))), open(4, token(9))]);
    let rows = |group: &mut StateGroup| keys(&content(group)).iter().filter(|k| k[0] == b'h').count();
    let mut counts = Vec::new();
    for index in 3..7 {
        group.apply(vec![entry(index, &StateCommand::OldestLiving(SessionId(8)))]).unwrap();
        counts.push(rows(&mut group));
    }
    assert_eq!(counts[0], 600 - 254, "at most 256 rows are looked at, two of them stay");
    assert_eq!(counts[3], 2, "the row with a value and the floor of a living session");
    let got = results(&mut group, 7, vec![save(3, token(5), 1, None), open(1, token(7)), open(3, token(9))]);
    assert_eq!(got[0], Err(StoreError::SessionEnded(SessionId(5))));
    assert_eq!(got[1], Err(StoreError::SessionEnded(SessionId(7))));
    assert_eq!(
        got[2],
        Ok(Done::Stored(Stored { version: Version(1), value: Some(Bytes::from_static(b"kept")) }))
    );
    group.apply(vec![entry(8, &StateCommand::OldestLiving(SessionId(2)))]).unwrap();
    assert_eq!(group.reader().oldest_living().unwrap(), SessionId(8), "it never goes back");
}

/// A grain went from session 9 (grant 12) to session 7 (grant 20), which opened it and ended. Session 9
/// lives, and its delayed save must stay below the floor, value or not.
#[test]
fn r2_a_floor_outlives_its_session_while_a_lower_token_may_live() {
    let of = |session, index| Token { session: SessionId(session), ..token(index) };
    let mut group = fresh();
    results(&mut group, 1, vec![open(1, of(9, 12)), open(1, of(7, 20))]);
    group.apply(vec![entry(2, &StateCommand::OldestLiving(SessionId(9)))]).unwrap();
    let late = results(&mut group, 3, vec![save(1, of(9, 12), 0, Some(Bytes::from_static(b"late")))]);
    assert!(matches!(late[0], Err(StoreError::Fenced { .. })), "{late:?}");
    group.apply(vec![entry(4, &StateCommand::OldestLiving(SessionId(21)))]).unwrap();
    assert!(!keys(&content(&mut group)).iter().any(|k| k[0] == b'h'), "then it guards against nobody");
}

#[test]
fn a_command_of_a_later_release_stops_the_member() {
    let bad = ApplyEntry {
        command: Some(Bytes::from_static(&[99, 1, 2])),
        ..entry(7, &StateCommand::OldestLiving(SessionId(1)))
    };
    let error = fresh().apply(vec![bad]).unwrap_err().to_string();
    assert!(error.contains("entry 7") && error.contains("version 99"), "{error}");
}

// --- A fixed history ----------------------------------------------------------------------------------

/// Entry `index` of a history with values of every size that sled treats differently (R19), clears,
/// shard floors and sweeps. The same on every replica.
fn history(index: u64) -> ApplyEntry {
    history_up_to(index, usize::MAX)
}

/// The same with no value above `limit` bytes.
fn history_up_to(index: u64, limit: usize) -> ApplyEntry {
    const SIZES: [usize; 8] = [1, 128, 8 << 10, 16 << 10, 60 << 10, 140 << 10, 1 << 20, 4 << 20];
    let n = index % 23;
    let t = token(index);
    let value = Bytes::from(vec![index as u8; SIZES[(index % 8) as usize].min(limit)]);
    let command = match index % 10 {
        3 => StateCommand::OldestLiving(SessionId(index / 2)),
        7 => StateCommand::Batch(vec![
            Op::OpenShard {
                ty: grain(0).ty,
                shard: ShardId((index % 5) as u32),
                grant: t.epoch.grant,
                session: t.session,
            },
            open(1000 + index, t),
        ]),
        // Large values go to grains of their own, …
        _ if value.len() > 16 << 10 => StateCommand::Batch(vec![save(2000 + index, t, 0, Some(value))]),
        // … small ones to a few, with several guesses at the version: one fits, whatever happened before.
        _ => StateCommand::Batch(
            (0..12).map(|v| save(n, t, v, (index % 6 != 5).then(|| value.clone()))).collect(),
        ),
    };
    ApplyEntry {
        membership: (index % 40 == 1).then(|| Bytes::from(format!("members {index}"))),
        ..entry(index, &command)
    }
}

fn apply_history(group: &mut StateGroup, to: u64) {
    for index in group.applied().index + 1..=to {
        group.apply(vec![history(index)]).unwrap();
    }
}

/// What a replica that never stopped has after `to` entries.
fn expected(to: u64) -> (Applied, Vec<u8>) {
    let mut group = fresh();
    apply_history(&mut group, to);
    (group.applied(), content(&mut group))
}

#[test]
fn replicas_agree_however_their_entries_are_cut_into_calls() {
    let (applied, one_by_one) = expected(90);
    assert_eq!(applied.membership, Bytes::from_static(b"members 81"));
    for cut in [7, 90] {
        let mut group = fresh();
        let entries: Vec<ApplyEntry> = (1..=90).map(history).collect();
        for part in entries.chunks(cut) {
            group.apply(part.to_vec()).unwrap();
        }
        assert_eq!(group.applied(), applied);
        assert!(content(&mut group) == one_by_one, "cut into {cut}");
    }
}

#[test]
fn a_snapshot_restores_the_same_state_into_either_engine() {
    let (applied, snapshot) = expected(60);
    let temp = tempfile::tempdir().unwrap();
    let sled = StateGroup::open(engine::open(EngineKind::Sled, real(), temp.path(), CACHE).unwrap()).unwrap();
    for mut group in [fresh(), sled] {
        apply_history(&mut group, 25); // something to replace
        group.restore(applied.clone(), Box::new(io::Cursor::new(snapshot.clone()))).unwrap();
        assert_eq!(group.applied(), applied);
        assert!(content(&mut group) == snapshot);
        apply_history(&mut group, 75);
        assert!(content(&mut group) == expected(75).1, "it goes on from there");
    }
}

#[test]
fn a_snapshot_that_ends_early_is_an_error_and_leaves_no_mark() {
    let (applied, snapshot) = expected(30);
    let disk = SimDisk::new();
    let mut group = redb_on(&disk);
    apply_history(&mut group, 5);
    let half = snapshot[..snapshot.len() / 2].to_vec();
    assert_eq!(
        group.restore(applied, Box::new(io::Cursor::new(half))).unwrap_err().kind(),
        io::ErrorKind::UnexpectedEof
    );
    drop(group);
    assert_eq!(redb_on(&disk).applied(), Applied::default(), "it starts over");
}

/// A copy is of one instant, however much changes while it is written.
#[test]
fn a_snapshot_is_consistent_while_entries_are_applied() {
    let mut group = fresh();
    apply_history(&mut group, 60);
    let (applied, expected) = expected(60);
    let mut first = group.snapshot().unwrap();
    let mut second = group.snapshot().unwrap();
    apply_history(&mut group, 75);
    assert_eq!(first.applied(), applied);
    let mut out = Interleaved { bytes: Vec::new(), group: &mut group };
    first.write_to(&mut out).unwrap();
    assert!(out.bytes == expected, "entries were applied between its pages");
    let mut bytes = Vec::new();
    second.write_to(&mut bytes).unwrap();
    assert!(bytes == expected, "a second copy of the same instant");
    assert!(group.applied().index > 75);
}

/// Applies an entry whenever a large piece is written.
struct Interleaved<'a> {
    bytes: Vec<u8>,
    group: &'a mut StateGroup,
}

impl io::Write for Interleaved<'_> {
    fn write(&mut self, b: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(b);
        if b.len() > 100_000 && self.group.applied().index < 110 {
            let next = self.group.applied().index + 1;
            apply_history(self.group, next);
        }
        Ok(b.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whatever a log has lost, no entry is left out of the state.
#[test]
fn r19_no_entry_is_skipped() {
    let mut group = fresh();
    apply_history(&mut group, 3);
    let error = group.apply(vec![history(4), history(6)]).unwrap_err().to_string();
    assert!(error.contains("entry 6") && error.contains("entry 4"), "{error}");
    assert!(group.apply(vec![history(5)]).is_err());
    assert_eq!(group.applied().index, 3, "nothing was applied");
    apply_history(&mut group, 6);
    assert!(content(&mut group) == expected(6).1);
}

/// Damage that an engine did not notice: a grain that is told that it has no state would begin anew, with
/// the version that lets it overwrite what it had.
#[test]
fn r19_a_value_that_the_engine_has_lost_is_an_error_and_not_an_empty_state() {
    let (ty, shard) = (grain(1).ty, ShardId(0));
    let of_shard = Op::OpenShard { ty, shard, grant: token(5).epoch.grant, session: SessionId(5) };
    let mut group = fresh();
    results(&mut group, 1, vec![of_shard, save(1, token(5), 0, Some(Bytes::from_static(b"x")))]);
    let engine = group.engine();
    let (value, _) = engine.scan(b"v", 1, usize::MAX).unwrap().remove(0);
    engine.apply(&[(value, None)], None).unwrap();
    let load = group.reader().load(&grain(1), "s", shard, token(5));
    assert_eq!(load.unwrap_err().kind(), io::ErrorKind::InvalidData);
    let command = StateCommand::Batch(vec![open(1, token(6))]);
    assert_eq!(group.apply(vec![entry(2, &command)]).unwrap_err().kind(), io::ErrorKind::InvalidData);
}

#[test]
fn a_snapshot_under_way_fails_when_the_state_is_replaced() {
    let mut group = fresh();
    apply_history(&mut group, 20);
    let mut old = group.snapshot().unwrap();
    let (applied, snapshot) = expected(30);
    group.restore(applied, Box::new(io::Cursor::new(snapshot))).unwrap();
    assert!(old.write_to(&mut Vec::new()).unwrap_err().to_string().contains("replaced"));
}

// --- Engines ------------------------------------------------------------------------------------------

fn engine_keeps_its_promises(reopen: impl Fn() -> Arc<dyn Engine>) {
    let bytes = |s: &'static str| Bytes::from_static(s.as_bytes());
    let engine = reopen();
    assert_eq!(engine.mark().unwrap(), None);
    let big = Bytes::from(vec![7; 4 << 20]);
    engine
        .apply(
            &[
                (bytes("b"), Some(bytes("2"))),
                (bytes("a"), Some(bytes("1"))),
                (bytes("c"), Some(big.clone())),
            ],
            Some(b"m1"),
        )
        .unwrap();
    engine
        .apply(&[(bytes("a"), None), (bytes(""), Some(bytes(""))), (bytes("d"), Some(bytes("4")))], None)
        .unwrap();
    assert_eq!(engine.get(b"a").unwrap(), None);
    assert_eq!(engine.get(b"").unwrap(), Some(bytes("")));
    assert_eq!(engine.mark().unwrap(), Some(bytes("m1")));
    let keys = |from: &[u8], items, size| {
        engine.scan(from, items, size).unwrap().into_iter().map(|(k, _)| k).collect::<Vec<_>>()
    };
    assert_eq!(keys(b"", 10, usize::MAX), ["", "b", "c", "d"]);
    assert_eq!(keys(b"b", 2, usize::MAX), ["b", "c"]);
    assert_eq!(keys(b"c", 10, 1), ["c"], "one row, however large");
    assert!(keys(b"x", 10, 1).is_empty());
    engine.close().unwrap();
    drop(engine);
    let engine = reopen();
    assert!(engine.get(b"c").unwrap() == Some(big), "{}", engine.name());
    assert_eq!(engine.mark().unwrap(), Some(bytes("m1")));
    engine.wipe().unwrap();
    assert_eq!(engine.mark().unwrap(), None);
    assert_eq!(engine.scan(b"", 10, usize::MAX).unwrap(), []);
    engine.apply(&[(bytes("z"), Some(bytes("26")))], Some(b"m2")).unwrap();
    assert_eq!(engine.get(b"z").unwrap(), Some(bytes("26")));
}

#[test]
fn both_engines_keep_their_promises() {
    let temp = tempfile::tempdir().unwrap();
    for kind in [EngineKind::Sled, EngineKind::Redb] {
        let dir = temp.path().join(format!("{kind:?}"));
        engine_keeps_its_promises(|| engine::open(kind, real(), &dir, CACHE).unwrap());
    }
    let disk = SimDisk::new();
    engine_keeps_its_promises(|| {
        Arc::new(RedbEngine::open(Arc::new(disk.clone()), Path::new("/data/state"), CACHE).unwrap())
    });
    assert!("rocksdb".parse::<EngineKind>().unwrap_err().contains("sled"));
}

#[test]
fn text_keys_of_the_largest_size_fit() {
    let key = Key::text(&"k".repeat(millet_core::limits::KEY_BYTES)).unwrap();
    let long = GrainId::new(grain(0).ty, key);
    let slot = "s".repeat(128);
    let ops = vec![
        Op::Write {
            grain: long.clone(),
            slot: slot.clone(),
            shard: None,
            token: token(1),
            version: Version(0),
            value: Some(Bytes::from_static(b"v")),
        },
        Op::Open { grain: long.clone(), slot, token: token(1) },
        Op::Open { grain: long, slot: "s".repeat(129), token: token(1) },
    ];
    let got = results(&mut fresh(), 1, ops);
    assert_eq!(
        got[1],
        Ok(Done::Stored(Stored { version: Version(1), value: Some(Bytes::from_static(b"v")) }))
    );
    assert_eq!(got[2], Err(StoreError::TooLarge { bytes: 129, limit: 128 }));
}

#[test]
fn unread_content_is_not_believed() {
    let mut lies = Vec::from(u32::to_be_bytes(5));
    lies.extend(u32::to_be_bytes(u32::MAX - 1)); // a value of 4 GiB that is not there
    lies.extend(b"short");
    let error =
        fresh().restore(Applied::default(), Box::new(io::Cursor::new(lies).take(1 << 20))).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}
