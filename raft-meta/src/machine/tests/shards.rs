//! Shard rows: R8 and R11.

use millet_core::model::{Change, Ownership};

use super::*;

fn two() -> (Rig, SessionId, SessionId) {
    let mut rig = Rig::new();
    let (a, b) = (rig.join(1), rig.join(2));
    assert!(rig.rank(0, ShardSet::Assign { to: a }));
    (rig, a, b)
}
fn grant_of(rig: &Rig) -> Grant {
    rig.rank_row(0).holder().unwrap().1
}

/// Assign, revoke, ack: the ack's entry hands the shard on under a higher grant.
#[test]
fn r8_an_ack_hands_the_shard_to_the_receiver() {
    let (mut rig, a, b) = two();
    let first = grant_of(&rig);
    assert!(rig.rank(0, ShardSet::Revoke { to: b }));
    assert_eq!(rig.rank_row(0), ShardState::Revoking { session: a, grant: first, to: b });
    rig.op(ack(0, a, first, true));
    let second = Grant { generation: 3, index: rig.index };
    assert_eq!(rig.rank_row(0), ShardState::Assigned { session: b, grant: second });
}

/// An old copy of an ack names an old grant: the shard stays where it is.
#[test]
fn r8_an_ack_counts_only_for_the_grant_it_names() {
    let (mut rig, a, b) = two();
    let first = grant_of(&rig);
    rig.rank(0, ShardSet::Revoke { to: b });
    rig.op(ack(0, a, first, true));
    rig.rank(0, ShardSet::Revoke { to: a });
    rig.op(ack(0, b, grant_of(&rig), true));
    rig.rank(0, ShardSet::Revoke { to: b });
    let before = rig.rank_row(0);
    rig.op(ack(0, a, first, true));
    assert_eq!(rig.rank_row(0), before, "A still holds its third grant");
}

/// An ack counts also after the revoke was taken back: the owner has given the grant up.
#[test]
fn r8_an_ack_counts_in_any_state_that_still_has_the_grant() {
    let (mut rig, a, b) = two();
    let first = grant_of(&rig);
    rig.rank(0, ShardSet::Revoke { to: b });
    assert!(rig.rank(0, ShardSet::Cancel));
    rig.op(ack(0, a, first, true));
    assert_eq!(rig.rank_row(0), ShardState::Free);
}

/// "Refused" leaves the shard with its owner, under its grant.
#[test]
fn r8_a_refused_revoke_leaves_the_shard() {
    let (mut rig, a, b) = two();
    let first = grant_of(&rig);
    rig.rank(0, ShardSet::Revoke { to: b });
    rig.op(ack(0, a, first, false));
    assert_eq!(rig.rank_row(0), ShardState::Assigned { session: a, grant: first });
}

/// A decision on an older row is not applied: compare-and-set.
#[test]
fn r8_a_decision_on_an_older_row_is_refused() {
    let (mut rig, a, b) = two();
    let late = rig.rank_decision(0, ShardSet::Revoke { to: b });
    rig.op(ack(0, a, grant_of(&rig), true));
    rig.rank(0, ShardSet::Assign { to: b });
    let before = rig.rank_row(0);
    assert_eq!(rig.decide(vec![late]), [false]);
    assert_eq!(rig.rank_row(0), before);
}

/// Apply puts no owner over a living one, even if the decision fits the row.
#[test]
fn r8_no_owner_over_a_living_one() {
    let (mut rig, a, b) = two();
    assert!(!rig.rank(0, ShardSet::Assign { to: b }));
    rig.rank(0, ShardSet::Revoke { to: b });
    assert!(!rig.rank(0, ShardSet::Assign { to: b }));
    rig.op(Op::Close { session: a });
    assert!(rig.rank(0, ShardSet::Assign { to: b }), "the owner is dead: free");
}

/// If the receiver died meanwhile, an ack leaves the shard free rather than with a dead session.
#[test]
fn r8_an_ack_towards_a_dead_receiver_frees_the_shard() {
    let (mut rig, a, b) = two();
    let first = grant_of(&rig);
    rig.rank(0, ShardSet::Revoke { to: b });
    rig.op(Op::Close { session: b });
    rig.op(ack(0, a, first, true));
    assert_eq!(rig.rank_row(0), ShardState::Free);
}

/// A shard gets one grant per entry.
#[test]
fn r24_one_grant_per_shard_per_entry() {
    let mut rig = Rig::new();
    let (a, b) = (rig.join(1), rig.join(2));
    let assign = |rig: &Rig, to| rig.rank_decision(0, ShardSet::Assign { to });
    let both = vec![assign(&rig, a), assign(&rig, b)];
    assert_eq!(rig.decide(both), [true, false]);
    assert_eq!(rig.rank_row(0).holder().unwrap().0, a);
}

/// Shards go only to sessions whose build declares the type as the cluster does.
#[test]
fn r11_a_session_that_declares_a_type_differently_is_not_eligible() {
    let mut rig = Rig::new();
    let a = rig.join(1);
    let other = rig.open(2, vec![decl("Rank", Ownership::Sharded { shards: 16 })]);
    rig.tick(0, &[a, other]);
    assert!(!rig.machine.is_eligible(rig.machine.session(other).unwrap(), ty("Rank")));
    assert!(!rig.rank(0, ShardSet::Assign { to: other }));
    assert_eq!(rig.machine.type_entry(ty("Rank")).unwrap().shards().len(), 8);
}

/// A new shard count starts a generation whose shards wait for the old owners; old decisions are void.
#[test]
fn r11_a_new_shard_count_waits_for_the_owners_of_the_old_shards() {
    let (mut rig, a, _) = two();
    let old = rig.rank_decision(1, ShardSet::Assign { to: a });
    let first = grant_of(&rig);
    let set = |shards| Command::TypeSet {
        ty: GrainType::new("Rank").unwrap(),
        ownership: Ownership::Sharded { shards },
    };
    let (_, event) = rig.run_for_event(set(16));
    assert!(matches!(&event.unwrap().changes[..], [Change::Type(row)] if row.generation == 4));
    let new = rig.open(3, vec![decl("Rank", Ownership::Sharded { shards: 16 })]);
    rig.tick(0, &[a, new]);
    assert_eq!(rig.decide(vec![old]), [false]);
    assert!(!rig.rank(0, ShardSet::Assign { to: new }), "its old owner has not given it up");
    rig.op(ack(0, a, first, true));
    let right = rig.rank_decision(0, ShardSet::Assign { to: new });
    let wrong = Decision { generation: 3, ..right };
    assert_eq!(rig.decide(vec![wrong, right]), [false, true]);
    assert_eq!(grant_of(&rig).generation, 4);
}

/// A draining session keeps what it has and is given nothing new.
#[test]
fn draining_keeps_and_receives_nothing() {
    let (mut rig, a, b) = two();
    rig.op(Op::Drain { session: a });
    assert_eq!(rig.rank_row(0).holder().unwrap().0, a);
    assert!(!rig.rank(1, ShardSet::Assign { to: a }));
    assert!(rig.rank(0, ShardSet::Revoke { to: b }));
}
