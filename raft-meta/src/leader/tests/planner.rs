//! Shard plans: R8 and R27 through apply.

use std::{collections::BTreeMap, time::Duration};

use millet_core::{BootTime, NodeId, SessionId, limits, model::ShardState};
use proptest::prelude::*;

use crate::{
    leader::Planner,
    machine::{
        Op, ShardSet,
        tests::{Rig, ack, realm, ty},
    },
};

fn at(s: u64) -> BootTime {
    BootTime(0).after(Duration::from_secs(s))
}
/// Plans and applies until nothing is left to decide; every decision must be applied.
fn settle(rig: &mut Rig, planner: &mut Planner, now: BootTime) {
    for _ in 0..50 {
        let plan = planner.plan(&rig.machine, now);
        if plan.is_empty() {
            return;
        }
        let applied = rig.decide(plan.clone());
        assert!(applied.iter().all(|a| *a), "{plan:?}: {applied:?}");
        answer_revokes(rig);
    }
    panic!("the planner does not come to rest");
}
/// Owners that are asked give their shard up at once.
fn answer_revokes(rig: &mut Rig) {
    for kind in ["Rank", "Gm"] {
        for (n, state) in (0..).zip(rig.machine.type_entry(ty(kind)).unwrap().shards().to_vec()) {
            if let ShardState::Revoking { session, grant, .. } = state {
                let shard = millet_core::ShardId(n);
                rig.op(Op::AckShard { ty: ty(kind), shard, session, grant, given_up: true });
            }
        }
    }
}
fn owners(rig: &Rig) -> Vec<Option<SessionId>> {
    (0..8).map(|n| rig.rank_row(n).holder().map(|(session, _)| session)).collect()
}
fn counts(rig: &Rig) -> BTreeMap<SessionId, usize> {
    let mut counts = BTreeMap::new();
    owners(rig).into_iter().flatten().for_each(|s| *counts.entry(s).or_default() += 1);
    counts
}
fn three() -> (Rig, Planner, [SessionId; 3]) {
    let mut rig = Rig::new();
    let sessions = [rig.join(1), rig.join(2), rig.join(3)];
    let mut planner = Planner::new();
    settle(&mut rig, &mut planner, at(0));
    (rig, planner, sessions)
}

/// Free shards are assigned, within the cap; a session that was never renewed gets none (R7).
#[test]
fn r7_free_shards_go_to_renewed_sessions_only() {
    let mut rig = Rig::new();
    let ghost = rig.open(9, realm());
    let mut planner = Planner::new();
    assert!(planner.plan(&rig.machine, at(0)).is_empty());
    let sessions = [rig.join(1), rig.join(2), rig.join(3)];
    settle(&mut rig, &mut planner, at(0));
    assert!(counts(&rig).values().all(|n| *n <= 3) && !counts(&rig).contains_key(&ghost));
    assert_eq!(counts(&rig).values().sum::<usize>(), 8);
    let gm = rig.machine.shard(ty("Gm"), millet_core::ShardId(0)).unwrap().holder().unwrap().0;
    assert!(sessions.contains(&gm));
}

/// A death places only the dead node's shards.
#[test]
fn r27_survivors_keep_their_shards_when_a_node_dies() {
    let (mut rig, mut planner, [a, b, c]) = three();
    let before = owners(&rig);
    rig.outlive(&[a, b]);
    settle(&mut rig, &mut planner, at(5));
    for (old, new) in before.iter().zip(owners(&rig)) {
        assert!(*old == Some(c) || *old == new, "{before:?} {:?}", owners(&rig));
        assert!(new == Some(a) || new == Some(b));
    }
}

/// A join moves its share to the joiner and nothing between the others.
#[test]
fn r27_a_join_moves_shards_to_the_joiner_only() {
    let (mut rig, mut planner, _) = three();
    let before = owners(&rig);
    let d = rig.join(4);
    settle(&mut rig, &mut planner, at(1));
    for (old, new) in before.iter().zip(owners(&rig)) {
        assert!(*old == new || new == Some(d));
    }
    assert_eq!(counts(&rig)[&d], 2);
}

/// Evening out between old members waits for its turn and moves few.
#[test]
fn r27_evening_out_is_rate_limited() {
    let mut rig = Rig::new();
    let (a, b) = (rig.join(1), rig.join(2));
    (0..8).for_each(|n| assert!(rig.rank(n, ShardSet::Assign { to: if n == 0 { b } else { a } })));
    let mut planner = Planner::new();
    let gm = planner.plan(&rig.machine, at(0));
    rig.decide(gm);
    let moved = |plan: &[crate::machine::Decision]| plan.iter().filter(|d| d.ty == ty("Rank")).count();
    let plan = planner.plan(&rig.machine, at(20));
    assert_eq!(moved(&plan), 2);
    rig.decide(plan);
    answer_revokes(&mut rig);
    assert_eq!(moved(&planner.plan(&rig.machine, at(21))), 0, "too early for more");
    assert_eq!(moved(&planner.plan(&rig.machine, at(31))), 1);
}

/// A draining node's shards are asked back, towards others, within the bound; it is given nothing.
#[test]
fn drain_hands_everything_over() {
    let (mut rig, mut planner, [a, b, c]) = three();
    rig.op(Op::Drain { session: c });
    let plan = planner.plan(&rig.machine, at(1));
    assert!(plan.iter().all(|d| matches!(d.set, ShardSet::Revoke { to } if to != c)), "{plan:?}");
    settle(&mut rig, &mut planner, at(1));
    assert!(owners(&rig).iter().all(|o| *o == Some(a) || *o == Some(b)));
}

/// An owner that does not answer a revoke keeps the shard, and is left alone for a while.
#[test]
fn r8_a_stuck_revoke_is_taken_back() {
    let (mut rig, mut planner, _) = three();
    rig.join(4);
    let plan = planner.plan(&rig.machine, at(1));
    assert!(!plan.is_empty());
    rig.decide(plan.clone());
    assert!(planner.plan(&rig.machine, at(2)).is_empty(), "under way");
    let bound = limits::REVOKE_BOUND.as_secs();
    assert!(planner.plan(&rig.machine, at(2 + bound)).is_empty(), "the owner still has time");
    let undo = planner.plan(&rig.machine, at(5 + bound));
    assert!(undo.iter().all(|d| d.set == ShardSet::Cancel) && undo.len() == plan.len(), "{undo:?}");
    rig.decide(undo.clone());
    let after = planner.plan(&rig.machine, at(6 + bound));
    assert!(after.iter().all(|d| undo.iter().all(|u| u.shard != d.shard)), "asked again at once: {after:?}");
}

/// An owner that refuses keeps the shard under its grant, and is left alone for a while.
#[test]
fn r8_a_refused_revoke_is_not_repeated_at_once() {
    let (mut rig, mut planner, _) = three();
    rig.join(4);
    let plan = planner.plan(&rig.machine, at(1));
    rig.decide(plan.clone());
    planner.plan(&rig.machine, at(1));
    for d in &plan {
        let (session, grant) = d.expect.holder().unwrap();
        rig.op(ack(d.shard.0, session, grant, false));
        assert_eq!(rig.rank_row(d.shard.0), d.expect);
    }
    let again = planner.plan(&rig.machine, at(2));
    assert!(again.iter().all(|d| plan.iter().all(|p| p.shard != d.shard)));
}

/// A revoke towards a node that died is taken back, or redirected where the owner is leaving.
#[test]
fn r8_a_revoke_towards_a_dead_receiver_is_redirected_or_taken_back() {
    let (mut rig, mut planner, [a, b, c]) = three();
    let shard = (0..8).find(|n| rig.rank_row(*n).holder().unwrap().0 == a).unwrap();
    let d = rig.join(4);
    rig.rank(shard, ShardSet::Revoke { to: d });
    planner.plan(&rig.machine, at(1));
    rig.op(Op::Close { session: d });
    let plan = planner.plan(&rig.machine, at(2));
    let on = |plan: &[crate::machine::Decision]| {
        plan.iter().find(|p| p.shard.0 == shard && p.ty == ty("Rank")).map(|p| p.set)
    };
    assert_eq!(on(&plan), Some(ShardSet::Cancel));
    rig.op(Op::Drain { session: a });
    let plan = planner.plan(&rig.machine, at(3));
    assert!(matches!(on(&plan), Some(ShardSet::Revoke { to }) if to == b || to == c), "{plan:?}");
}

/// A decision made before the row changed is refused by apply: two leaders cannot undo each other.
#[test]
fn r8_two_plans_on_one_table_are_applied_once() {
    let mut rig = Rig::new();
    rig.join(1);
    rig.join(2);
    let (first, second) =
        (Planner::new().plan(&rig.machine, at(0)), Planner::new().plan(&rig.machine, at(0)));
    assert!(rig.decide(first).iter().all(|applied| *applied));
    let before = owners(&rig);
    assert!(rig.decide(second).iter().all(|applied| !*applied));
    assert_eq!(owners(&rig), before);
}

/// A node that restarted within its old session's TTL is counted once, by its newest session.
#[test]
fn a_node_is_chosen_by_its_newest_session() {
    let mut rig = Rig::new();
    let (old, other) = (rig.join(1), rig.join(2));
    let new = rig.join(1);
    let plan = Planner::new().plan(&rig.machine, at(0));
    assert!(
        plan.iter().all(|d| matches!(d.set, ShardSet::Assign { to } if to == new || to == other)),
        "{old}"
    );
}

/// A node whose sessions keep dying young gets nothing until it has waited.
#[test]
fn r27_a_crash_looping_node_waits_before_it_is_assigned_again() {
    let mut rig = Rig::new();
    let stay = rig.join(9);
    for _ in 0..2 {
        rig.join(1);
        rig.outlive(&[stay]);
    }
    let looping = rig.join(1);
    assert!(rig.machine.must_wait(NodeId(1)));
    let chosen = |rig: &Rig| {
        let plan = Planner::new().plan(&rig.machine, at(0));
        plan.iter().any(|d| matches!(d.set, ShardSet::Assign { to } if to == looping))
    };
    assert!(!chosen(&rig));
    for _ in 0..4 {
        let now = rig.machine.time_ms();
        rig.tick(now + 2_000, &[stay, looping]);
    }
    assert!(chosen(&rig));
}

/// Where every node has crashed again and again, shards are not left without an owner: the only nodes
/// there are take them, and keep them when the wait of one of them ends.
#[test]
fn r27_shards_have_owners_also_when_every_node_would_have_to_wait() {
    let mut rig = Rig::new();
    let mut planner = Planner::new();
    for _ in 0..3 {
        rig.join(1);
        rig.join(2);
        rig.outlive(&[]);
    }
    let both = [rig.join(1), rig.join(2)];
    assert!(rig.machine.must_wait(NodeId(1)) && rig.machine.must_wait(NodeId(2)));
    settle(&mut rig, &mut planner, at(0));
    let first = owners(&rig);
    assert!(first.iter().all(|o| o.is_some_and(|s| both.contains(&s))), "{first:?}");
    for s in 0..20 {
        let now = rig.machine.time_ms();
        rig.tick(now + 2_000, &both);
        settle(&mut rig, &mut planner, at(s));
    }
    assert_eq!(owners(&rig), first, "nothing moves when a wait ends");
}

/// Never more hand-overs of a type under way than the limit, also for a big table.
#[test]
fn revokes_under_way_are_bounded() {
    let mut rig = Rig::new();
    let big = || {
        let shards = 400;
        vec![crate::machine::tests::decl("Big", millet_core::model::Ownership::Sharded { shards })]
    };
    let (a, mut planner) = (rig.open(1, big()), Planner::new());
    rig.tick(0, &[a]);
    let plan = planner.plan(&rig.machine, at(0));
    rig.decide(plan);
    let b = rig.open(2, big());
    rig.tick(0, &[a, b]);
    let plan = planner.plan(&rig.machine, at(1));
    assert_eq!(plan.len(), limits::REVOKING_PER_TYPE);
    rig.decide(plan);
    assert!(planner.plan(&rig.machine, at(2)).is_empty());
}

/// Dead sessions' rows are swept in steps, until none is left and no sweep is asked for.
#[test]
fn sweeps_are_asked_for_until_no_dead_row_is_left() {
    let mut rig = Rig::new();
    let a = rig.join(1);
    for n in 0..10_000 {
        rig.granted(n, a);
    }
    assert_eq!(crate::leader::sweep(&rig.machine), None);
    rig.op(Op::Close { session: a });
    let mut sweeps = 0;
    while let Some(command) = crate::leader::sweep(&rig.machine) {
        rig.run(command);
        sweeps += 1;
    }
    assert_eq!((rig.machine.lease_rows(), sweeps), (0, 3));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Whatever joins, leaves, drains or dies, also half-way through a hand-over: the planner comes to
    /// rest with every shard at a living member that may be chosen.
    #[test]
    fn r27_every_shard_ends_with_a_living_member(steps in prop::collection::vec((0u8..5, 0usize..6), 1..25)) {
        let (mut rig, mut planner) = (Rig::new(), Planner::new());
        let mut members = vec![rig.join(100)];
        let mut now = 0;
        for (n, (kind, who)) in steps.into_iter().enumerate() {
            now += 1;
            let session = members[who % members.len()];
            match kind {
                0 | 1 => members.push(rig.join(n as u64)),
                2 if members.len() > 1 => {
                    rig.op(Op::Close { session });
                    members.retain(|m| *m != session);
                }
                3 if members.len() > 1 => {
                    rig.op(Op::Drain { session });
                    members.retain(|m| *m != session);
                }
                4 => {
                    // One round without answers: revokes stay under way.
                    let plan = planner.plan(&rig.machine, at(now));
                    rig.decide(plan);
                }
                _ => settle(&mut rig, &mut planner, at(now)),
            }
        }
        // Past every time for which something is left alone.
        for wait in [60, 120, 180] {
            settle(&mut rig, &mut planner, at(now + wait));
        }
        prop_assert!(owners(&rig).iter().all(|o| o.is_some_and(|s| members.contains(&s))), "{:?} {members:?}", owners(&rig));
    }
}
