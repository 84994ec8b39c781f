//! Snapshots: complete, deterministic, checked; and the group that the Raft adapter drives.

use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::*;
use crate::group::{Applied, ApplyEntry, GroupMachine};

fn filled() -> Rig {
    let mut rig = Rig::new();
    let (a, b) = (rig.join(1), rig.join(2));
    for n in 0..200 {
        let grant = rig.granted(n, a);
        if n % 3 == 0 {
            rig.op(move_to(n, a, grant, b));
        }
    }
    (0..8).for_each(|shard| assert!(rig.rank(shard, ShardSet::Assign { to: a })));
    rig.rank(3, ShardSet::Revoke { to: b });
    rig.op(Op::Close { session: b });
    rig.run(Command::Sweep { rows: 7 });
    rig
}
fn bytes_of(machine: &Machine) -> Vec<u8> {
    let mut bytes = Vec::new();
    machine.write_to(&mut bytes).unwrap();
    bytes
}

/// A restored machine is equal, hashes equally, encodes to the same bytes, and goes on in the same way.
#[test]
fn a_snapshot_round_trip_loses_nothing() {
    let mut rig = filled();
    let bytes = bytes_of(&rig.machine);
    let mut restored = Rig { machine: Machine::read_from(&mut bytes.as_slice()).unwrap(), ..rig.clone() };
    assert_eq!(restored.machine, rig.machine);
    assert_eq!(restored.machine.state_hash(), rig.machine.state_hash());
    assert_eq!(bytes_of(&restored.machine), bytes);
    let session = rig.join(5);
    assert_eq!(restored.join(5), session);
    assert_eq!(restored.acquire(0, session), rig.acquire(0, session));
    assert_eq!(restored.machine.state_hash(), rig.machine.state_hash());
}

/// Any changed byte, and any cut, is found.
#[test]
fn a_damaged_snapshot_is_refused() {
    let good = bytes_of(&filled().machine);
    for at in (0..good.len()).step_by(97) {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        assert!(Machine::read_from(&mut bad.as_slice()).is_err(), "byte {at}");
    }
    assert!(Machine::read_from(&mut &good[..good.len() - 3]).is_err());
}

/// Different states have different hashes.
#[test]
fn the_state_hash_tells_states_apart() {
    let mut rig = filled();
    let before = rig.machine.state_hash();
    rig.machine.advance(rig.index + 1);
    assert_ne!(rig.machine.state_hash(), before);
}

fn entry(index: u64, command: Option<Command>) -> ApplyEntry {
    let command = command.map(|c| Bytes::from(c.encode()));
    ApplyEntry { index, log_id: Bytes::from(vec![1]), membership: None, command }
}
fn init() -> Command {
    Command::Init(Init { cluster: "c1".into(), secret: Secret([7; 16]), generation: 1 })
}
fn open() -> Command {
    Command::OpenSession(Open { incarnation: 1, attempt: 1, node: node(1, realm()), ttl_ms: TTL })
}

/// The group applies batches, publishes their events after the fact, and goes through snapshots.
#[test]
fn the_group_applies_publishes_and_restores() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let to = seen.clone();
    let mut group = MetaGroup::new(move |published| to.lock().unwrap().push(published));
    let replies = group.apply(vec![entry(1, Some(init())), entry(2, None), entry(3, Some(open()))]).unwrap();
    assert_eq!((replies.len(), replies[1].len()), (3, 0));
    assert!(matches!(Reply::decode(&replies[2]), Ok(Reply::Opened(Opened { session: SessionId(3), .. }))));
    assert_eq!(group.applied().index, 3);
    assert!(
        matches!(&seen.lock().unwrap()[..], [Published::Applied { revision: Revision(3), events }] if events.len() == 1)
    );

    let mut snapshot = group.snapshot().unwrap();
    group.apply(vec![entry(4, None)]).unwrap();
    let mut content = Vec::new();
    snapshot.write_to(&mut content).unwrap();
    let mut other = MetaGroup::new(|_| {});
    other.restore(snapshot.applied(), Box::new(std::io::Cursor::new(content))).unwrap();
    assert_eq!((other.applied().index, other.machine().read().revision()), (3, Revision(3)));
    other.apply(vec![entry(4, None)]).unwrap();
    assert_eq!(other.machine().read().state_hash(), group.machine().read().state_hash());
}

/// A member that cannot read or may not apply an entry stops; it never guesses.
#[test]
fn r24_what_this_build_cannot_apply_stops_the_member() {
    let mut group = MetaGroup::new(|_| {});
    group.apply(vec![entry(1, Some(init()))]).unwrap();
    let newer = entry(2, Some(Command::FeatureLevel(FEATURE_LEVEL + 1)));
    assert!(group.apply(vec![newer]).unwrap_err().to_string().contains("upgrade this member"));
    let garbage = ApplyEntry { command: Some(Bytes::from_static(&[9, 9])), ..entry(2, None) };
    assert!(group.apply(vec![garbage]).is_err());
    assert!(group.apply(vec![entry(1, None)]).is_err(), "an entry twice");
}

/// A snapshot's content must be of the entry that it says it is of.
#[test]
fn a_snapshot_under_a_wrong_position_is_refused() {
    let content = bytes_of(&filled().machine);
    let mut group = MetaGroup::new(|_| {});
    let applied = Applied { index: 1, ..Applied::default() };
    assert!(group.restore(applied, Box::new(std::io::Cursor::new(content))).is_err());
}

/// What a member remembers of the past is no part of equality: it is not replicated.
#[test]
fn memory_of_the_past_is_not_state() {
    let rig = filled();
    let restored = Machine::read_from(&mut bytes_of(&rig.machine).as_slice()).unwrap();
    assert_ne!(restored.events_since(Revision(0)), rig.machine.events_since(Revision(0)));
    assert_eq!(restored, rig.machine);
}

/// Found by reading for the fuzz target `meta`: what a newer build wrote there was left out without a word.
#[test]
fn r24_bytes_behind_the_head_of_a_snapshot_are_refused() {
    let mut bytes = Vec::new();
    Machine::new().write_to(&mut bytes).unwrap();
    // Magic and version, the head's length, the head; then rows and the checksum.
    let head = u32::from_le_bytes(bytes[5..9].try_into().unwrap());
    let with = |behind: &[u8]| {
        let (mut file, at) = (bytes[..bytes.len() - 8].to_vec(), 9 + head as usize);
        file.splice(at..at, behind.iter().copied());
        let len = head + u32::try_from(behind.len()).unwrap();
        file[5..9].copy_from_slice(&len.to_le_bytes());
        let sum = xxhash_rust::xxh3::xxh3_64(&file);
        file.extend_from_slice(&sum.to_le_bytes());
        Machine::read_from(&mut &file[..])
    };
    let more = postcard::to_stdvec(&More::default()).unwrap();
    assert!(with(&[]).is_ok() && with(&more).is_ok());
    let outcomes = postcard::to_stdvec(&super::super::members::Outcomes::default()).unwrap();
    assert!(with(&[&more[..], &outcomes].concat()).is_ok());
    let error = with(&[&more[..], &outcomes, &[0]].concat()).unwrap_err().to_string();
    assert!(error.contains("1 bytes behind its head"), "{error}");
}
