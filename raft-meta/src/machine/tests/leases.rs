//! Grain leases: R1 (as far as the store shows it), R11, R23, R24, R31, end by reference, sweep.

use millet_core::model::Ownership;

use super::*;

fn two() -> (Rig, SessionId, SessionId) {
    let mut rig = Rig::new();
    let (a, b) = (rig.join(1), rig.join(2));
    (rig, a, b)
}

/// One living owner: the second hears who, with node and grant; the first hears its own grant again.
#[test]
fn a_grain_has_one_living_owner() {
    let (mut rig, a, b) = two();
    let grant = rig.granted(1, a);
    assert_eq!(grant, Grant { generation: 3, index: rig.index });
    assert_eq!(rig.acquire(1, b), OpResult::Held { session: a, node: NodeId(1), grant });
    assert_eq!(rig.granted(1, a), grant);
    assert_eq!(rig.machine.holder(key(1)).unwrap().grant, grant);
}

/// Grants of a grain only rise, so that a node can refuse every one up to the highest it has given up.
#[test]
fn r1_a_grant_after_a_release_is_higher_than_the_one_given_up() {
    let (mut rig, a, _) = two();
    let first = rig.granted(1, a);
    rig.op(release(1, a, first));
    let second = rig.granted(1, a);
    assert!(second > first);
    // The late copy of the release names the old grant: it frees nothing.
    rig.op(release(1, a, first));
    assert_eq!(rig.machine.holder(key(1)).unwrap().grant, second);
}

/// A release by another session, or of another grant, frees nothing.
#[test]
fn r1_only_the_named_grant_of_the_named_session_is_released() {
    let (mut rig, a, b) = two();
    let grant = rig.granted(1, a);
    rig.op(release(1, b, grant));
    rig.op(release(1, a, Grant { index: grant.index - 1, ..grant }));
    assert_eq!(rig.machine.holder(key(1)).unwrap().session, a);
}

/// The end of a session frees all it held at once, without touching a row; the sweep deletes later.
#[test]
fn the_end_of_a_session_frees_by_reference() {
    let (mut rig, a, b) = two();
    for n in 0..100 {
        rig.granted(n, a);
    }
    rig.granted(100, b);
    rig.op(Op::Close { session: a });
    assert_eq!((rig.machine.lease_rows(), rig.machine.dead_rows()), (101, 100));
    assert!(rig.machine.holder(key(5)).is_none());
    rig.granted(5, b);
    assert_eq!((rig.machine.lease_rows(), rig.machine.dead_rows()), (101, 99));
    let mut deleted = 0;
    for _ in 0..11 {
        let Reply::Swept { deleted: n } = rig.run(Command::Sweep { rows: 10 }) else { panic!() };
        deleted += n;
    }
    assert_eq!((deleted, rig.machine.lease_rows(), rig.machine.dead_rows()), (99, 2, 0));
    assert_eq!(rig.machine.holder(key(5)).unwrap().session, b);
}

/// [Acquire by S1, Close S1, Acquire by S2] in one entry must not give the grain twice.
#[test]
fn r24_one_grant_per_grain_per_entry() {
    let (mut rig, a, b) = two();
    let results = rig.batch(vec![acquire(1, a), Op::Close { session: a }, acquire(1, b)]);
    assert!(matches!(results[0], OpResult::Granted { .. }));
    assert_eq!(results[2], OpResult::Retry);
    assert!(matches!(rig.acquire(1, b), OpResult::Granted { .. }));
}

/// The same with a release in between; and a move cannot follow an acquire in one entry either.
#[test]
fn r24_a_release_in_the_same_entry_does_not_make_room() {
    let (mut rig, a, b) = two();
    let grant = Grant { generation: 3, index: rig.index + 1 };
    let results = rig.batch(vec![acquire(1, a), release(1, a, grant), acquire(1, b), acquire(2, b)]);
    assert_eq!(results[2], OpResult::Retry);
    assert!(matches!(results[3], OpResult::Granted { .. }), "other grains are not concerned");
    let grant = Grant { generation: 3, index: rig.index + 1 };
    let results = rig.batch(vec![acquire(3, a), move_to(3, a, grant, b)]);
    assert_eq!(results[1], OpResult::Retry);
    assert!(rig.machine.holder(key(3)).is_none(), "a sent Move gives the grant up");
}

/// Dead sessions are granted nothing, whatever the proposer thought.
#[test]
fn r24_a_dead_session_is_granted_nothing() {
    let (mut rig, a, b) = two();
    let grant = rig.granted(1, b);
    rig.op(Op::Close { session: a });
    assert_eq!(rig.acquire(2, a), OpResult::NotAlive { session: a });
    assert_eq!(rig.op(move_to(1, b, grant, a)), OpResult::NotAlive { session: a });
    assert!(!rig.rank(0, ShardSet::Assign { to: a }));
}

/// A Move is one entry: its grant names the one it replaces, for the mover and for the receiver.
#[test]
fn r23_a_move_names_the_previous_grant() {
    let (mut rig, a, b) = two();
    let old = rig.granted(1, a);
    let moved = rig.op(move_to(1, a, old, b));
    let new = Grant { generation: 3, index: rig.index };
    assert_eq!(moved, OpResult::Granted { grant: new, previous: Some(old) });
    assert_eq!(rig.acquire(1, b), moved, "the receiver learns which image to trust");
    assert_eq!(rig.op(move_to(1, a, old, b)), moved, "a repeat is answered as the first time");
    assert_eq!(rig.op(move_to(1, a, old, a)), OpResult::Held { session: b, node: NodeId(2), grant: new });
}

/// After the grain came back by an acquire, nothing names the grant of an earlier life as previous.
#[test]
fn r23_previous_is_forgotten_with_the_row() {
    let (mut rig, a, b) = two();
    let old = rig.granted(1, a);
    rig.op(move_to(1, a, old, b));
    let new = rig.granted(1, b);
    rig.op(release(1, b, new));
    let again = rig.acquire(1, a);
    assert!(matches!(again, OpResult::Granted { previous: None, .. }), "{again:?}");
    let OpResult::Granted { grant, .. } = again else { panic!() };
    rig.op(move_to(1, a, grant, b));
    rig.op(Op::Close { session: b });
    rig.granted(1, a);
    let over_a_dead_row = rig.acquire(1, a);
    assert!(matches!(over_a_dead_row, OpResult::Granted { previous: None, .. }), "{over_a_dead_row:?}");
}

/// A Move that cannot be granted still gives the grant up: the mover never runs under it again.
#[test]
fn r23_a_move_to_a_session_that_may_not_receive_frees_the_grain() {
    let (mut rig, a, b) = two();
    let grant = rig.granted(1, a);
    rig.op(Op::Drain { session: b });
    assert_eq!(rig.op(move_to(1, a, grant, b)), OpResult::NotAlive { session: b });
    assert!(rig.machine.holder(key(1)).is_none());
    assert_eq!(rig.machine.dead_rows(), 0);
}

/// Sharded types have no grain leases; a type that a session does not declare is not granted to it.
#[test]
fn r11_leases_only_for_leased_types_that_the_session_declares() {
    let mut rig = Rig::new();
    let a = rig.join(1);
    let rank = Op::Acquire { key: key(1), ty: ty("Rank"), session: a };
    assert!(matches!(rig.op(rank), OpResult::Refused { .. }));
    let other = rig.open(2, vec![decl("Player", Ownership::Sharded { shards: 4 })]);
    rig.tick(0, &[a, other]);
    assert!(matches!(rig.acquire(1, other), OpResult::Refused { .. }));
    let row = rig.machine.type_entry(ty("Player")).unwrap().row();
    assert_eq!(row.ownership, Ownership::Leased, "the first declaration makes the row");
}

/// A change of mode raises the generation and grants nothing until older leases are gone.
#[test]
fn r11_a_new_generation_waits_for_the_leases_of_the_old_one() {
    let (mut rig, a, b) = two();
    let (old_a, _) = (rig.granted(1, a), rig.granted(2, b));
    let set = |ownership| Command::TypeSet { ty: GrainType::new("Player").unwrap(), ownership };
    rig.run(set(Ownership::Sharded { shards: 2 }));
    rig.run(set(Ownership::Leased));
    let entry = rig.machine.type_entry(ty("Player")).unwrap();
    assert_eq!((entry.row().generation, entry.is_blocked()), (5, true));
    assert_eq!(rig.acquire(3, a), OpResult::Retry);
    rig.op(release(1, a, old_a));
    assert_eq!(rig.acquire(3, a), OpResult::Retry, "b still holds one");
    rig.op(Op::Close { session: b });
    assert_eq!(rig.granted(3, a).generation, 5);
    assert_eq!(rig.machine.type_entry(ty("Rank")).unwrap().row().generation, 3, "other types keep theirs");
}

/// Rows of different grains never meet, not even with the same key in another type or of another kind.
#[test]
fn r31_type_and_key_kind_are_part_of_the_row() {
    let secret = Secret([7; 16]);
    let grain = |name: &str, key: millet_core::Key| GrainId::new(GrainType::new(name).unwrap(), key);
    let keys = [
        grain("A", 49u64.into()),
        grain("A", millet_core::Key::text("1").unwrap()),
        grain("B", 49u64.into()),
        grain("A1", millet_core::Key::text("x").unwrap()),
        grain("A", millet_core::Key::text("1x").unwrap()),
    ]
    .map(|g| LeaseKey::of(&secret, &g));
    assert_eq!(std::collections::BTreeSet::from(keys).len(), keys.len());
}

/// Who held a grain is remembered with the entries that changed it, beside the replicated state.
#[test]
fn history_tells_who_held_a_grain() {
    let (mut rig, a, b) = two();
    let first = rig.granted(1, a);
    let moved = rig.op(move_to(1, a, first, b));
    let OpResult::Granted { grant: second, .. } = moved else { panic!() };
    let (since, history) = rig.machine.history(Owned::Grain(key(1)));
    let seen: Vec<_> = history.iter().map(|t| (t.from, t.to)).collect();
    assert_eq!(seen, [(None, Some((a, first))), (Some((a, first)), Some((b, second)))]);
    assert_eq!(since, Revision(0));
}
