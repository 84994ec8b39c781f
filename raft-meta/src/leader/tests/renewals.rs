//! Keepalives into Ticks and answers back: R5, R6, R17, R21, R22.

use std::{cell::Cell, time::Duration};

use millet_core::{
    BootTime, Revision, SessionId, limits,
    model::{Keepalive, KeepaliveAnswer, Verdict},
};

use crate::{
    leader::{LeaderClock, Offered, Proposal, Renewals, Turn},
    machine::{Command, Op, Reply, Tick, Ticked, tests::Rig},
};

const INTERVAL: Duration = Duration::from_millis(100);

fn at(ms: u64) -> BootTime {
    BootTime(ms * 1_000_000)
}
fn keepalive(session: SessionId, number: u64, heard: u64) -> Keepalive {
    Keepalive { session, number, heard, revision: Revision(0), activations: 3, reserve_ms: 0 }
}
/// A clock that is ready to propose at 100 ms.
fn clock() -> LeaderClock {
    let mut clock = LeaderClock::new(INTERVAL);
    clock.start(0, at(0));
    assert_eq!(clock.turn(at(100)), Turn::Propose);
    clock
}
fn queued<W>(offered: Offered<W>) -> Option<W> {
    match offered {
        Offered::Queued { dropped } => dropped,
        Offered::Answer(_, answer) => panic!("answered at once: {answer:?}"),
    }
}
fn at_once<W>(offered: Offered<W>) -> (W, KeepaliveAnswer) {
    match offered {
        Offered::Answer(to, answer) => (to, answer),
        Offered::Queued { .. } => panic!("queued"),
    }
}
fn tick_of<W>(proposal: &Proposal<W>) -> &Tick {
    match proposal.command() {
        Command::Tick(tick) => tick,
        other => panic!("{other:?}"),
    }
}
fn apply<W>(rig: &mut Rig, proposal: &Proposal<W>) -> Ticked {
    match rig.run(proposal.command().clone()) {
        Reply::Ticked(ticked) => ticked,
        other => panic!("{other:?}"),
    }
}
fn stamp<W: std::fmt::Debug>(renewals: &mut Renewals<W>, clock: &mut LeaderClock, ms: u64) -> Proposal<W> {
    renewals.close().stamp(clock, || at(ms), 0).unwrap()
}

/// The set is closed first, then the clock is read: what comes in while it is read is not in the Tick.
#[test]
fn r6_the_clock_is_read_after_the_set_is_closed() {
    let mut rig = Rig::new();
    let (a, b) = (rig.join(1), rig.join(2));
    let mut renewals = Renewals::new();
    queued(renewals.offer(&rig.machine, &keepalive(a, 2, 1), "a"));
    let (closed, mut clock) = (renewals.close(), clock());
    let was_read = Cell::new(false);
    let read = || {
        was_read.set(true);
        queued(renewals.offer(&rig.machine, &keepalive(b, 2, 1), "b"));
        at(150)
    };
    assert!(!was_read.get());
    let proposal = closed.stamp(&mut clock, read, 0).unwrap();
    let renewed: Vec<_> = tick_of(&proposal).renewed.iter().map(|r| r.session).collect();
    assert_eq!((tick_of(&proposal).time_ms, renewed), (150, vec![a]));
    assert_eq!(renewals.len(), 1, "b is in the next Tick");
}

/// Answers come from the apply result: who was expired by an earlier entry hears Dead, not OK.
#[test]
fn r6_the_answer_is_made_from_the_apply_result() {
    let mut rig = Rig::new();
    let (a, b) = (rig.join(1), rig.join(2));
    let (mut renewals, mut clock) = (Renewals::new(), clock());
    queued(renewals.offer(&rig.machine, &keepalive(a, 2, 1), "a"));
    queued(renewals.offer(&rig.machine, &keepalive(b, 2, 1), "b"));
    let proposal = stamp(&mut renewals, &mut clock, 100);
    // Pipelined before it: an entry that ends a.
    rig.op(Op::Close { session: a });
    let ticked = apply(&mut rig, &proposal);
    let answers = proposal.applied(&rig.machine, &ticked);
    let verdicts: Vec<_> = answers.iter().map(|(to, answer)| (*to, answer.verdict)).collect();
    assert_eq!(verdicts, [("a", Verdict::Dead), ("b", Verdict::Renewed)]);
    assert_eq!(answers[1].1.revision, Revision(rig.index));
    assert_eq!(answers[1].1.cluster_ms, 100);
}

/// Every waiter hears of its own number, never of a later one that came after its Tick.
#[test]
fn r6_an_answer_names_the_keepalive_it_answers() {
    let mut rig = Rig::new();
    let a = rig.join(1);
    let (mut renewals, mut clock) = (Renewals::new(), clock());
    queued(renewals.offer(&rig.machine, &keepalive(a, 5, 4), 5));
    queued(renewals.offer(&rig.machine, &keepalive(a, 6, 4), 6));
    let proposal = stamp(&mut renewals, &mut clock, 100);
    queued(renewals.offer(&rig.machine, &keepalive(a, 7, 5), 7));
    assert_eq!(tick_of(&proposal).renewed[0].number, 6);
    let ticked = apply(&mut rig, &proposal);
    let numbers: Vec<_> =
        proposal.applied(&rig.machine, &ticked).iter().map(|(n, k)| (*n, k.number)).collect();
    assert_eq!(numbers, [(5, 5), (6, 6)]);
}

/// Hedged repeats of one keepalive are all answered; there is a limit, and the oldest goes first.
#[test]
fn r5_hedged_repeats_are_all_answered_up_to_a_limit() {
    let mut rig = Rig::new();
    let a = rig.join(1);
    let (mut renewals, mut clock) = (Renewals::new(), clock());
    for n in 0..limits::KEEPALIVE_WAITERS {
        assert_eq!(queued(renewals.offer(&rig.machine, &keepalive(a, 2, 1), n)), None);
    }
    assert_eq!(queued(renewals.offer(&rig.machine, &keepalive(a, 2, 1), 99)), Some(0));
    let proposal = stamp(&mut renewals, &mut clock, 100);
    assert_eq!(tick_of(&proposal).renewed.len(), 1);
    let ticked = apply(&mut rig, &proposal);
    assert_eq!(proposal.applied(&rig.machine, &ticked).len(), limits::KEEPALIVE_WAITERS);
}

/// A session that does not hear its answers is not renewed, and hears that at once.
#[test]
fn r22_only_who_hears_is_renewed() {
    let mut rig = Rig::new();
    let a = rig.join(1);
    let mut renewals = Renewals::new();
    queued(renewals.offer(&rig.machine, &keepalive(a, 2, 0), ()));
    queued(renewals.offer(&rig.machine, &keepalive(a, 7, 5), ()));
    let answer = at_once(renewals.offer(&rig.machine, &keepalive(a, 8, 5), ())).1;
    assert_eq!((answer.verdict, answer.number), (Verdict::NotRenewed, 8));
    queued(renewals.offer(&rig.machine, &keepalive(a, 9, 8), ()));
}

/// A cut that lets keepalives in but no answer out ends the session after its TTL.
#[test]
fn r22_a_one_way_cut_ends_the_session() {
    let mut rig = Rig::new();
    let a = rig.join(1);
    let (mut renewals, mut clock, mut now) = (Renewals::new(), clock(), 100);
    let mut number = 1;
    while rig.machine.session(a).is_some() {
        assert!(now < 8_000, "still renewed");
        if now % 500 == 0 {
            number += 1;
            // `heard` stays at the last answer that came through.
            let _ = renewals.offer(&rig.machine, &keepalive(a, number, 1), ());
        }
        let proposal = stamp(&mut renewals, &mut clock, now);
        apply(&mut rig, &proposal);
        now += 100;
    }
}

/// Dead and unknown are told apart: an id that this leader has not applied yet is not dead.
#[test]
fn r6_a_dead_session_hears_it_at_once_and_a_newer_one_does_not() {
    let mut rig = Rig::new();
    let a = rig.join(1);
    rig.op(Op::Close { session: a });
    let mut renewals = Renewals::new();
    let (_, answer) = at_once(renewals.offer(&rig.machine, &keepalive(a, 2, 1), ()));
    assert_eq!((answer.verdict, answer.ended), (Verdict::Dead, Some(vec![a])));
    let newer = SessionId(rig.index + 1);
    let (_, answer) = at_once(renewals.offer(&rig.machine, &keepalive(newer, 1, 0), ()));
    assert_eq!(answer.verdict, Verdict::NotRenewed);
}

/// An answer carries every session that ended since the revision the node is at, its Tick's included.
#[test]
fn r17_answers_carry_the_sessions_ended_since() {
    let mut rig = Rig::new();
    let (a, b) = (rig.join(1), rig.join(2));
    let known = rig.machine.revision();
    rig.tick(3_950, &[a]);
    let mut clock = LeaderClock::new(INTERVAL);
    clock.start(rig.machine.time_ms(), at(0));
    let mut renewals = Renewals::new();
    queued(renewals.offer(&rig.machine, &Keepalive { revision: known, ..keepalive(a, 2, 1) }, ()));
    clock.turn(at(100));
    let proposal = stamp(&mut renewals, &mut clock, 100);
    let ticked = apply(&mut rig, &proposal);
    let answers = proposal.applied(&rig.machine, &ticked);
    assert_eq!(answers[0].1.ended, Some(vec![b]));
}

/// Renewals of a Tick that failed go into the next one, with what came in meanwhile.
#[test]
fn r21_renewals_of_a_failed_tick_go_into_the_next() {
    let mut rig = Rig::new();
    let (a, b) = (rig.join(1), rig.join(2));
    let (mut renewals, mut clock) = (Renewals::new(), clock());
    queued(renewals.offer(&rig.machine, &keepalive(a, 3, 2), "a3"));
    queued(renewals.offer(&rig.machine, &keepalive(b, 3, 2), "b3"));
    let lost = stamp(&mut renewals, &mut clock, 100);
    queued(renewals.offer(&rig.machine, &keepalive(a, 4, 2), "a4"));
    lost.failed(&mut renewals);
    let next = stamp(&mut renewals, &mut clock, 200);
    let renewed: Vec<_> = tick_of(&next).renewed.iter().map(|r| (r.session, r.number)).collect();
    assert_eq!(renewed, [(a, 4), (b, 3)]);
    let ticked = apply(&mut rig, &next);
    let mut answered: Vec<_> = next.applied(&rig.machine, &ticked).iter().map(|(to, _)| *to).collect();
    answered.sort_unstable();
    assert_eq!(answered, ["a3", "a4", "b3"]);
}

/// A leader that stalled between closing and stamping proposes nothing, and forgets nothing.
#[test]
fn r21_a_stall_puts_the_set_back() {
    let mut rig = Rig::new();
    let a = rig.join(1);
    let (mut renewals, mut clock) = (Renewals::new(), clock());
    queued(renewals.offer(&rig.machine, &keepalive(a, 3, 2), ()));
    let closed = renewals.close().stamp(&mut clock, || at(3_100), 0).unwrap_err();
    renewals.reopen(closed);
    assert_eq!(renewals.len(), 1);
    assert_eq!(tick_of(&stamp(&mut renewals, &mut clock, 3_200)).time_ms, 200);
}

/// R17: an answer says what had ended as of the revision it names, no more: a node that is already there
/// would take a later end for an old one, and forget it at the next news of that session.
#[test]
fn r17_an_answer_names_no_end_beyond_its_revision() {
    let mut rig = Rig::new();
    let (a, b, c) = (rig.join(1), rig.join(2), rig.join(3));
    let mut renewals = Renewals::new();
    let was_at = Keepalive { revision: rig.machine.revision(), ..keepalive(a, 2, 1) };
    rig.run(Command::Batch(vec![Op::Close { session: b }]));
    queued(renewals.offer(&rig.machine, &was_at, "a"));
    let proposal = stamp(&mut renewals, &mut clock(), 150);
    let ticked = apply(&mut rig, &proposal);
    rig.run(Command::Batch(vec![Op::Close { session: c }]));
    let (_, answer) = proposal.applied(&rig.machine, &ticked).pop().expect("answered");
    assert_eq!((answer.revision, answer.ended), (ticked.revision, Some(vec![b])));
}
