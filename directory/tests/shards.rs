//! The holder's shard book: hand-over by acks that name what they give up (R8), in the schedules that
//! break a hand-over by anything less, and R1 for shards.

use millet_core::{GrainType, Grant, SessionId, ShardId, model::ShardState};
use millet_directory::{
    ShardAck,
    shards::{ShardBook, ShardEffect, ShardKey, Stage},
};
use proptest::prelude::*;

const A: SessionId = SessionId(1);
const B: SessionId = SessionId(2);

fn key() -> ShardKey {
    (GrainType::new("t.Rank").expect("a name"), ShardId(3))
}
fn grant(index: u64) -> Grant {
    Grant { generation: 1, index }
}
fn assigned(session: SessionId, index: u64) -> ShardState {
    ShardState::Assigned { session, grant: grant(index) }
}
fn revoking(index: u64) -> ShardState {
    ShardState::Revoking { session: A, grant: grant(index), to: B }
}
fn acks(effects: &[ShardEffect]) -> Vec<(Grant, bool)> {
    effects
        .iter()
        .filter_map(|e| match e {
            ShardEffect::Ack(ShardAck { grant, given_up, .. }) => Some((*grant, *given_up)),
            ShardEffect::Open { .. } | ShardEffect::Close { .. } => None,
        })
        .collect()
}

/// A book of session A that holds the shard openly under grant 1.
fn holding() -> ShardBook {
    let mut book = ShardBook::default();
    book.session(Some(A));
    let effects = book.row(&key(), assigned(A, 1));
    assert_eq!(effects, [ShardEffect::Open { key: key(), grant: grant(1), session: A }]);
    assert_eq!(
        book.stage(&key()),
        Some((Stage::Opening, grant(1))),
        "nothing runs before its floor is raised"
    );
    book.opened(&key(), grant(1), true);
    assert_eq!(book.stage(&key()), Some((Stage::Open, grant(1))));
    book
}

/// R12: the end of a session may be heard again after the next one has begun: that one keeps its shards.
#[test]
fn r12_a_late_end_of_the_last_session_leaves_the_shards_of_the_next_alone() {
    let mut book = holding();
    book.ended(B);
    assert_eq!(book.stage(&key()), Some((Stage::Open, grant(1))));
    book.ended(A);
    assert_eq!(book.stage(&key()), None);
    assert_eq!(book.row(&key(), assigned(A, 1)), [], "it owns nothing any more");
}

/// Revoking: close first, then an ack naming the grant; nothing starts in between or after.
#[test]
fn r8_an_ack_follows_the_end_of_the_shards_work_and_names_its_grant() {
    let mut book = holding();
    let effects = book.row(&key(), revoking(1));
    assert_eq!(effects, [ShardEffect::Close { key: key(), grant: grant(1) }]);
    assert_eq!(book.stage(&key()), Some((Stage::Closing, grant(1))));
    assert_eq!(book.row(&key(), revoking(1)), [], "told twice, closed once");
    let effects = book.closed(&key(), grant(1), true, revoking(1));
    assert_eq!(acks(&effects), [(grant(1), true)]);
    assert_eq!(book.stage(&key()), None);
}

/// After the revoke bound: refused, and the shard goes on here.
#[test]
fn r8_a_shard_that_does_not_end_in_time_is_refused_and_stays() {
    let mut book = holding();
    book.row(&key(), revoking(1));
    let effects = book.closed(&key(), grant(1), false, revoking(1));
    assert_eq!(acks(&effects), [(grant(1), false)]);
    assert_eq!(book.stage(&key()), Some((Stage::Open, grant(1))));
}

/// After the ack a view that says "assigned to you under 1" brings nothing back (R1).
#[test]
fn r1_a_given_up_shard_grant_is_dead_for_ever() {
    let mut book = holding();
    book.row(&key(), revoking(1));
    book.closed(&key(), grant(1), true, revoking(1));
    assert_eq!(book.row(&key(), assigned(A, 1)), []);
    assert_eq!(book.row(&key(), revoking(1)), []);
    assert_eq!(book.stage(&key()), None);
    // A new grant is another matter.
    assert_eq!(book.row(&key(), assigned(A, 5)).len(), 1);
}

/// The second hand-over acks the second grant; a repeat of the first ack names the first.
#[test]
fn r8_each_hand_over_acks_its_own_grant() {
    let mut book = holding();
    book.row(&key(), revoking(1));
    let first = acks(&book.closed(&key(), grant(1), true, revoking(1)));
    book.row(&key(), assigned(B, 2));
    book.row(&key(), assigned(A, 3));
    book.opened(&key(), grant(3), true);
    book.row(&key(), revoking(3));
    let second = acks(&book.closed(&key(), grant(3), true, revoking(3)));
    assert_eq!((first, second), (vec![(grant(1), true)], vec![(grant(3), true)]));
}

/// The leader cancels a revoke while A closes; A's ack still gives the grant up, and A does not
/// hold it again.
#[test]
fn r8_a_cancelled_revoke_does_not_bring_a_closing_shard_back() {
    let mut book = holding();
    book.row(&key(), revoking(1));
    assert_eq!(book.row(&key(), assigned(A, 1)), []);
    assert_eq!(book.stage(&key()), Some((Stage::Closing, grant(1))));
    assert_eq!(acks(&book.closed(&key(), grant(1), true, assigned(A, 1))), [(grant(1), true)]);
    assert_eq!(book.row(&key(), assigned(A, 1)), []);
}

/// A shard that is revoked before it was opened is given up at once, and a late "opened" changes nothing.
#[test]
fn r8_an_unopened_shard_is_given_up_at_once() {
    let mut book = ShardBook::default();
    book.session(Some(A));
    book.row(&key(), assigned(A, 1));
    assert_eq!(acks(&book.row(&key(), revoking(1))), [(grant(1), true)]);
    book.opened(&key(), grant(1), true);
    assert_eq!(book.stage(&key()), None);
}

/// A higher grant for a shard that is open under a lower one: the old work ends before the new begins.
#[test]
fn r8_a_new_grant_waits_for_the_end_of_what_ran_under_the_old() {
    let mut book = holding();
    assert_eq!(book.row(&key(), assigned(A, 7)), [ShardEffect::Close { key: key(), grant: grant(1) }]);
    let again = book.closed(&key(), grant(1), false, assigned(A, 7));
    assert_eq!(again, [ShardEffect::Close { key: key(), grant: grant(1) }]);
    let then = book.closed(&key(), grant(1), true, assigned(A, 7));
    assert_eq!(then, [ShardEffect::Open { key: key(), grant: grant(7), session: A }]);
}

/// A floor that someone newer has raised: the shard is not ours, whatever the view still says.
#[test]
fn r2_a_shard_whose_floor_is_higher_is_not_held() {
    let mut book = ShardBook::default();
    book.session(Some(A));
    book.row(&key(), assigned(A, 1));
    book.opened(&key(), grant(1), false);
    assert_eq!(book.stage(&key()), None);
    assert_eq!(book.row(&key(), assigned(A, 1)), []);
}

/// The end of a session drops everything; late results of its work change nothing.
#[test]
fn r8_the_end_of_the_session_drops_every_shard() {
    let mut book = holding();
    book.row(&key(), revoking(1));
    book.session(None);
    assert_eq!(book.closed(&key(), grant(1), true, revoking(1)), []);
    book.session(Some(B));
    assert_eq!(book.stage(&key()), None);
    assert_eq!(book.row(&key(), assigned(A, 1)), []);
}

#[derive(Clone, Debug)]
enum Step {
    /// The leader gives a free shard to A or B, asks it back from A, or cancels that.
    Give(bool),
    Revoke,
    Cancel,
    /// A sees the table as it stands.
    See,
    Opened,
    Closed(bool),
    /// The store applies the n-th ack on its way, leaving a copy if asked to.
    Ack(usize, bool),
    /// B gives the shard up (B is honest).
    BackFromB,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => any::<bool>().prop_map(Step::Give),
        2 => Just(Step::Revoke),
        1 => Just(Step::Cancel),
        5 => Just(Step::See),
        3 => Just(Step::Opened),
        3 => prop::bool::weighted(0.8).prop_map(Step::Closed),
        4 => (any::<prop::sample::Index>(), any::<bool>()).prop_map(|(n, copy)| Step::Ack(n.index(64), copy)),
        2 => Just(Step::BackFromB),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]
    /// Whatever the leader decides and however acks are delayed and repeated: while A may run anything,
    /// the row is A's under that very grant.
    #[test]
    fn r8_a_shard_never_runs_under_a_grant_the_row_no_longer_has(steps in prop::collection::vec(step(), 1..150)) {
        let mut book = ShardBook::default();
        book.session(Some(A));
        let (mut row, mut index) = (ShardState::Free, 0);
        let (mut opening, mut closing, mut acks) = (Vec::new(), Vec::new(), Vec::<ShardAck>::new());
        for step in steps {
            index += 1;
            let effects = match step {
                Step::Give(to_a) if row == ShardState::Free => { row = assigned(if to_a { A } else { B }, index); vec![] }
                Step::Revoke => { if let ShardState::Assigned { session: A, grant } = row {
                    row = ShardState::Revoking { session: A, grant, to: B };
                } vec![] }
                Step::Cancel => { if let ShardState::Revoking { session, grant, .. } = row {
                    row = ShardState::Assigned { session, grant };
                } vec![] }
                Step::BackFromB => { if let ShardState::Assigned { session: B, .. } = row { row = ShardState::Free; } vec![] }
                Step::See => book.row(&key(), row),
                Step::Opened => { if let Some(g) = opening.pop() { book.opened(&key(), g, true); } vec![] }
                Step::Closed(ended) => match closing.pop() {
                    Some(g) => book.closed(&key(), g, ended, row),
                    None => vec![],
                },
                Step::Ack(at, copy) if !acks.is_empty() => {
                    let at: usize = at % acks.len();
                    let ack = if copy { acks[at].clone() } else { acks.swap_remove(at) };
                    // Applied in any state of the row that still has this grant (R8).
                    if row.holder() == Some((ack.session, ack.grant)) {
                        row = match (ack.given_up, row) {
                            (true, ShardState::Revoking { to, .. }) => assigned(to, index),
                            (true, _) => ShardState::Free,
                            (false, _) => assigned(ack.session, ack.grant.index),
                        };
                    }
                    vec![]
                }
                Step::Give(_) | Step::Ack(..) => vec![],
            };
            for effect in effects {
                match effect {
                    ShardEffect::Open { grant, .. } => opening.push(grant),
                    ShardEffect::Close { grant, .. } => closing.push(grant),
                    ShardEffect::Ack(ack) => acks.push(ack),
                }
            }
            if let Some((Stage::Open | Stage::Closing, g)) = book.stage(&key()) {
                prop_assert_eq!(row.holder(), Some((A, g)), "A runs the shard under {}", g);
            }
        }
    }
}
