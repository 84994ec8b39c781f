//! Every checker refuses the history it is for, and names what is wrong; the same history without the
//! fault passes.

mod common;

use common::{History, accepted, account, by, entry, epoch, invalid, refused};
use millet_oracle::{
    Invariant, Standing,
    history::{Call, Observed, Phase, Received, Sent, Served, Value, Workload},
};

/// Three acknowledged appends, the third by another node, and the reading.
fn counter() -> History {
    let mut h = History::new();
    h.append(10, 1, 5, 1).append(20, 2, 5, 2).append(30, 3, 9, 3);
    h
}

#[test]
fn i2_a_lost_write_is_refused() {
    let mut good = counter();
    good.ledger(50, 9, 9, vec![entry(1, 1, 5), entry(2, 2, 5), entry(3, 3, 9)]);
    accepted(&good, Invariant::NoLostWrite);
    let mut bad = counter();
    bad.ledger(50, 9, 9, vec![entry(1, 1, 5), entry(3, 2, 9)]);
    refused(&bad, Invariant::NoLostWrite, "op 2 was acknowledged and is not in the ledger");
}

/// Also in the middle of the run, and though the write is there again later.
#[test]
fn i2_a_reading_that_misses_a_write_of_before_is_refused() {
    let mut bad = counter();
    bad.ledger(40, 8, 9, vec![entry(1, 1, 5), entry(2, 2, 5)]);
    bad.ledger(50, 9, 9, vec![entry(1, 1, 5), entry(2, 2, 5), entry(3, 3, 9)]);
    refused(&bad, Invariant::NoLostWrite, "op 3");
}

#[test]
fn i2_a_ledger_that_nobody_read_back_makes_the_run_invalid() {
    invalid(&counter(), Invariant::NoLostWrite, "C/1 was never read back");
    let mut early = counter();
    early.ledger(50, 9, 9, vec![entry(1, 1, 5), entry(2, 2, 5), entry(3, 3, 9)]);
    early.phase(60, Phase::ReadBack);
    invalid(&early, Invariant::NoLostWrite, "C/1 was never read back");
}

#[test]
fn i2_a_place_that_goes_back_is_refused() {
    let mut bad = History::new();
    bad.append(10, 1, 5, 1).append(20, 2, 9, 1);
    bad.ledger(50, 9, 9, vec![entry(1, 1, 5), entry(2, 2, 9)]);
    refused(&bad, Invariant::NoLostWrite, "op 2 got place 1 after op 1 had got place 1");
}

#[test]
fn exactly_once_a_doubled_op_is_refused() {
    let mut bad = counter();
    bad.ledger(50, 9, 9, vec![entry(1, 1, 5), entry(2, 2, 5), entry(2, 3, 5), entry(3, 4, 9)]);
    refused(&bad, Invariant::ExactlyOnce, "op 2 is in the ledger twice");
    let mut foreign = counter();
    foreign.ledger(50, 9, 9, vec![entry(1, 1, 5), entry(2, 2, 5), entry(3, 3, 9), entry(77, 4, 9)]);
    let verdict = foreign.verdict();
    assert_eq!(verdict.invariants[&Invariant::ExactlyOnce].violations, 1, "{}", verdict.screen());
}

/// G1(a), seen by readers alone: nothing of a lower token comes in once an activation has opened the grain.
#[test]
fn i1_a_write_that_comes_in_after_a_higher_token_has_read_is_refused() {
    let entries = vec![entry(1, 1, 5), entry(2, 2, 5), entry(3, 3, 9)];
    let with_late = [entries.clone(), vec![entry(4, 4, 9)]].concat();
    let run = |first: Vec<_>| {
        let mut h = counter();
        h.invoke(36, 4, Workload::Counter, "C/1", Call::Append).unknown(38, 4);
        h.ledger(40, 8, 12, first).ledger(50, 10, 12, with_late.clone());
        h
    };
    accepted(&run(with_late.clone()), Invariant::SingleActivation);
    refused(&run(entries), Invariant::SingleActivation, "op 4 was stored under");
}

/// G1(b): what a session's node says after it knew that the session was over.
#[test]
fn i1_an_answer_of_an_ended_session_is_refused_where_answers_are_timed() {
    let run = |until: u64, late: Option<u64>| {
        let mut h = counter();
        h.header.limits.late_us = late;
        h.ledger(50, 9, 9, vec![entry(1, 1, 5), entry(2, 2, 5), entry(3, 3, 9)]);
        h.saw(60, Observed::Lease { of: "w1".into(), session: 9, from: 0, until: until * 1000 });
        h
    };
    accepted(&run(50, Some(10_000)), Invariant::SingleActivation);
    accepted(&run(40, None), Invariant::SingleActivation);
    refused(&run(40, Some(10_000)), Invariant::SingleActivation, "op 9 was answered under session 9");
}

#[test]
fn i1_a_write_under_a_stale_epoch_is_refused() {
    let mut good = counter();
    good.stored(12, 5, epoch(5, 1), 1).stored(32, 9, epoch(9, 1), 2).stored(33, 9, epoch(9, 1), 2);
    good.ledger(50, 9, 9, vec![entry(1, 1, 5), entry(2, 2, 5), entry(3, 3, 9)]);
    accepted(&good, Invariant::SingleActivation);
    let mut observed = counter();
    observed.stored(12, 5, epoch(5, 1), 1).stored(32, 9, epoch(9, 1), 2).stored(33, 5, epoch(5, 1), 3);
    observed.ledger(50, 9, 9, vec![entry(1, 1, 5), entry(2, 2, 5), entry(3, 3, 9)]);
    refused(
        &observed,
        Invariant::SingleActivation,
        "accepted version 3 under 1.5.1 after version 2 under 1.9.1",
    );
    let mut in_the_ledger = counter();
    in_the_ledger.ledger(50, 9, 9, vec![entry(1, 1, 5), entry(3, 2, 9), entry(2, 3, 5)]);
    refused(&in_the_ledger, Invariant::SingleActivation, "op 2 was stored under 1.5.1 after 1.9.1");
}

#[test]
fn i1_an_epoch_of_two_activations_is_refused() {
    let other = Served { life: 6, ..by(5) };
    let mut in_the_ledger = counter();
    let second = millet_oracle::history::Entry { life: 6, ..entry(2, 2, 5) };
    in_the_ledger.ledger(50, 9, 9, vec![entry(1, 1, 5), second, entry(3, 3, 9)]);
    refused(&in_the_ledger, Invariant::SingleActivation, "used by activation 5 and by activation 6");
    let mut answered = counter();
    let appended = Value::Appended { position: 4, version: 4 };
    answered.invoke(34, 4, Workload::Idle, "I/1", Call::Append);
    answered.ok(35, 4, Some(by(5)), Value::Appended { position: 1, version: 1 });
    answered.invoke(36, 5, Workload::Idle, "I/1", Call::Append).ok(37, 5, Some(other), appended);
    let tally = &answered.verdict().invariants[&Invariant::SingleActivation];
    assert_eq!(tally.violations, 1);
    let mut stored = counter();
    stored.stored(12, 5, epoch(5, 1), 1).stored(13, 6, epoch(5, 1), 2);
    stored.ledger(50, 9, 9, vec![entry(1, 1, 5), entry(2, 2, 5), entry(3, 3, 9)]);
    refused(&stored, Invariant::SingleActivation, "used by session 5 and by session 6");
}

#[test]
fn i1_a_version_with_a_gap_is_refused() {
    let mut bad = counter();
    bad.ledger(50, 9, 9, vec![entry(1, 1, 5), entry(2, 2, 5), entry(3, 4, 9)]);
    refused(&bad, Invariant::SingleActivation, "version 4 right after version 2");
    let mut stored = counter();
    stored.stored(12, 5, epoch(5, 1), 1).stored(13, 5, epoch(5, 1), 3);
    stored.ledger(50, 9, 9, vec![entry(1, 1, 5), entry(2, 2, 5), entry(3, 3, 9)]);
    refused(&stored, Invariant::SingleActivation, "version 3 of ledger was stored after 1");
}

#[test]
fn i3_an_answer_of_an_epoch_that_was_over_is_refused() {
    let mut bad = counter();
    bad.ledger(50, 8, 5, vec![entry(1, 1, 5), entry(2, 2, 5), entry(3, 3, 9)]);
    bad.ledger(60, 9, 9, vec![entry(1, 1, 5), entry(2, 2, 5), entry(3, 3, 9)]);
    refused(&bad, Invariant::MonotoneEpochs, "op 8 was answered under 1.5.1 though op 3");
    // Under way at the same time, both may be.
    let mut good = counter();
    good.invoke(29, 8, Workload::Counter, "C/1", Call::Ledger);
    good.ok(40, 8, Some(by(5)), Value::Ledger { entries: vec![entry(1, 1, 5), entry(2, 2, 5)] });
    good.ledger(60, 9, 9, vec![entry(1, 1, 5), entry(2, 2, 5), entry(3, 3, 9)]);
    accepted(&good, Invariant::MonotoneEpochs);
    // Where clocks break the promise's bound, stores must hold and answers need not.
    bad.header.limits.clocks_within_bound = false;
    assert_eq!(bad.verdict().standing(), Standing::Pass);
}

#[test]
fn at_most_one_interleaved_singletons_are_refused() {
    let one = |h: &mut History, from: u64, op, key: &str, index| {
        let value = Value::Appended { position: op, version: op };
        h.op((from, from + 5), op, (Workload::Singleton, key), Call::Append, (index, value));
        let entries = vec![entry(op, op, index)];
        let reading = Value::Ledger { entries };
        h.op((from + 6, from + 8), op + 100, (Workload::Singleton, key), Call::Ledger, (index, reading));
    };
    let mut good = History::new();
    one(&mut good, 10, 1, "S/1", 5);
    one(&mut good, 20, 2, "S/2", 9);
    accepted(&good, Invariant::AtMostOne);
    // The shard is one: its grains may not be served by two owners in turn.
    let mut bad = History::new();
    one(&mut bad, 10, 1, "S/1", 5);
    one(&mut bad, 20, 2, "S/2", 9);
    one(&mut bad, 30, 3, "S/3", 5);
    refused(&bad, Invariant::AtMostOne, "op 3 was answered under 1.5.0 though op 102");
}

#[test]
fn i5_an_answer_that_hides_who_gave_it_is_refused() {
    let mut bad = History::new();
    bad.invoke(10, 1, Workload::Register, "R/1", Call::Read).ok(15, 1, None, Value::Register { value: 0 });
    refused(&bad, Invariant::Routing, "does not say which activation gave it");
}

#[test]
fn i5_overlapping_leases_are_counted() {
    let mut h = counter();
    h.ledger(50, 9, 9, vec![entry(1, 1, 5), entry(2, 2, 5), entry(3, 3, 9)]);
    let lease = |session, from, until| Observed::Lease { of: "C/1".into(), session, from, until };
    h.saw(100, lease(5, 0, 26_000)).saw(100, lease(9, 26_000, 90_000)).saw(100, lease(11, 85_500, 95_000));
    let verdict = h.verdict();
    assert_eq!((verdict.overlaps, verdict.longest_overlap_us), (1, 4_500));
    assert_eq!(verdict.standing(), Standing::Pass);
}

fn register(h: &mut History, span: (u64, u64), op: u64, call: Call, value: Value) {
    h.op(span, op, (Workload::Register, "R/1"), call, (5, value));
}

#[test]
fn i4_a_stale_read_is_refused() {
    let mut bad = History::new();
    register(&mut bad, (10, 15), 1, Call::Write { value: 1 }, Value::Done);
    register(&mut bad, (20, 25), 2, Call::Write { value: 2 }, Value::Done);
    register(&mut bad, (30, 35), 3, Call::Read, Value::Register { value: 1 });
    refused(&bad, Invariant::Linearizable, "no order of the operations");
    // At the same time as the second write both values may be read.
    let mut good = History::new();
    register(&mut good, (10, 15), 1, Call::Write { value: 1 }, Value::Done);
    register(&mut good, (20, 40), 2, Call::Write { value: 2 }, Value::Done);
    register(&mut good, (30, 35), 3, Call::Read, Value::Register { value: 1 });
    accepted(&good, Invariant::Linearizable);
}

#[test]
fn i4_two_swaps_of_one_value_are_refused() {
    let swap = |h: &mut History, span, op| {
        register(h, span, op, Call::Cas { from: 0, to: op }, Value::Swapped { done: true, seen: 0 });
    };
    let mut bad = History::new();
    swap(&mut bad, (10, 30), 1);
    swap(&mut bad, (11, 31), 2);
    refused(&bad, Invariant::Linearizable, "no order of the operations");
    let mut lying = History::new();
    register(&mut lying, (10, 15), 1, Call::Cas { from: 4, to: 1 }, Value::Swapped { done: true, seen: 0 });
    refused(&lying, Invariant::Linearizable, "compared with 4, saw 0, and says done = true");
}

/// A write without an answer may show at any later time, but not come and go.
#[test]
fn i4_an_unknown_write_may_take_effect_late_once() {
    let mut good = History::new();
    good.invoke(10, 1, Workload::Register, "R/1", Call::Write { value: 1 }).unknown(15, 1);
    register(&mut good, (20, 25), 2, Call::Read, Value::Register { value: 0 });
    register(&mut good, (30, 35), 3, Call::Read, Value::Register { value: 1 });
    accepted(&good, Invariant::Linearizable);
    register(&mut good, (40, 45), 4, Call::Read, Value::Register { value: 0 });
    refused(&good, Invariant::Linearizable, "no order of the operations");
}

#[test]
fn i9_a_lying_failure_is_refused() {
    let mut bad = counter();
    bad.invoke(32, 4, Workload::Counter, "C/1", Call::Append).fail(34, 4);
    bad.ledger(50, 9, 9, vec![entry(1, 1, 5), entry(2, 2, 5), entry(3, 3, 9), entry(4, 4, 9)]);
    refused(
        &bad,
        Invariant::HonestFailure,
        "op 4 was reported as not run (unavailable) and is in the ledger",
    );
    let mut read = History::new();
    read.invoke(10, 1, Workload::Register, "R/1", Call::Write { value: 1 }).fail(15, 1);
    register(&mut read, (20, 25), 2, Call::Read, Value::Register { value: 1 });
    let verdict = read.verdict();
    assert_eq!(verdict.invariants[&Invariant::HonestFailure].violations, 1, "{}", verdict.screen());
    // The same without an answer is honest.
    let mut good = counter();
    good.invoke(32, 4, Workload::Counter, "C/1", Call::Append).unknown(34, 4);
    good.ledger(50, 9, 9, vec![entry(1, 1, 5), entry(2, 2, 5), entry(3, 3, 9), entry(4, 4, 9)]);
    accepted(&good, Invariant::HonestFailure);
}

fn ids(h: &mut History, span: (u64, u64), op: u64, session: u64, ids: Vec<u64>) {
    let key = format!("N/{session}");
    h.op(span, op, (Workload::Snowflake, &key), Call::Ids { count: 2 }, (session, Value::Ids { ids }));
}

#[test]
fn i8_duplicate_and_falling_ids_are_refused() {
    let mut good = History::new();
    ids(&mut good, (10, 15), 1, 5, vec![10, 11]);
    ids(&mut good, (20, 25), 2, 6, vec![5, 6]);
    ids(&mut good, (30, 35), 3, 5, vec![12, 13]);
    accepted(&good, Invariant::Ids);
    ids(&mut good, (40, 45), 4, 7, vec![13, 14]);
    refused(&good, Invariant::Ids, "id 13 was issued twice");
    let mut falling = History::new();
    ids(&mut falling, (10, 15), 1, 5, vec![10, 11]);
    ids(&mut falling, (20, 25), 2, 5, vec![8, 9]);
    refused(&falling, Invariant::Ids, "given 11 to op 1 before it gave 8");
    let mut within = History::new();
    ids(&mut within, (10, 15), 1, 5, vec![11, 10]);
    refused(&within, Invariant::Ids, "id 10 was issued after id 11");
}

/// A pays B 30 under op 1; what the two show at the end.
fn transfer(a: (u64, Vec<u64>), b: (u64, Received)) -> History {
    let mut h = History::new();
    let call = Call::Transfer { to: "A/2".into(), amount: 30 };
    h.op((10, 15), 1, (Workload::Account, "A/1"), call, (5, Value::Done));
    let mut first = account(100, a.0);
    first.sent = a.1.into_iter().map(|op| Sent { op, to: "A/2".into(), amount: 30 }).collect();
    let mut second = account(100, b.0);
    second.received.insert("A/1".into(), b.1);
    h.op((20, 25), 8, (Workload::Account, "A/1"), Call::Account, (5, Value::Account(first)));
    h.op((20, 25), 9, (Workload::Account, "A/2"), Call::Account, (6, Value::Account(second)));
    h
}

#[test]
fn conservation_money_made_or_lost_is_refused() {
    let once = Received { count: 1, amount: 30 };
    let twice = Received { count: 2, amount: 60 };
    accepted(&transfer((70, vec![1]), (130, once)), Invariant::Conservation);
    refused(&transfer((70, vec![1]), (160, twice)), Invariant::Conservation, "2 of 60 arrived");
    refused(&transfer((70, vec![1]), (100, Received::default())), Invariant::Conservation, "0 of 0 arrived");
    refused(&transfer((80, vec![1]), (130, once)), Invariant::Conservation, "sent 30, and holds 80");
    refused(&transfer((40, vec![1, 1]), (160, twice)), Invariant::ExactlyOnce, "transfer 1 has left twice");
    let lost = transfer((100, vec![]), (100, Received::default()));
    refused(&lost, Invariant::NoLostWrite, "transfer 1 of 30 was acknowledged");
}

#[test]
fn conservation_open_or_unread_accounts_make_the_run_invalid() {
    let mut open = transfer((70, vec![1]), (100, Received::default()));
    let mut shown = account(100, 70);
    (shown.sent, shown.pending) = (vec![Sent { op: 1, to: "A/2".into(), amount: 30 }], 1);
    open.op((30, 35), 10, (Workload::Account, "A/1"), Call::Account, (5, Value::Account(shown)));
    invalid(&open, Invariant::Conservation, "A/1 were still under way");
    let mut unread = transfer((70, vec![1]), (130, Received { count: 1, amount: 30 }));
    unread.phase(100, Phase::ReadBack);
    invalid(&unread, Invariant::Conservation, "A/1 was never read back");
}

#[test]
fn i9_a_refused_transfer_that_left_is_refused() {
    let mut bad = transfer((40, vec![1, 2]), (160, Received { count: 2, amount: 60 }));
    let call = Call::Transfer { to: "A/2".into(), amount: 30 };
    let refusal = Value::Refused { why: "too little".into() };
    bad.op((16, 18), 2, (Workload::Account, "A/1"), call, (5, refusal));
    refused(&bad, Invariant::HonestFailure, "transfer 2 was reported as not carried out and has left");
}

#[test]
fn idle_a_grain_that_comes_back_without_its_state_is_refused() {
    let touch = |h: &mut History, from: u64, op, index, position| {
        let value = Value::Appended { position, version: position };
        h.op((from, from + 5), op, (Workload::Idle, "I/1"), Call::Append, (index, value));
    };
    let read = |h: &mut History, entries| {
        let value = Value::Ledger { entries };
        h.op((90, 95), 99, (Workload::Idle, "I/1"), Call::Ledger, (8, value));
    };
    let mut good = History::new();
    touch(&mut good, 10, 1, 5, 1);
    touch(&mut good, 20, 2, 8, 2);
    read(&mut good, vec![entry(1, 1, 5), entry(2, 2, 8)]);
    accepted(&good, Invariant::IdleReturn);
    let mut bad = History::new();
    touch(&mut bad, 10, 1, 5, 1);
    touch(&mut bad, 20, 2, 8, 1);
    read(&mut bad, vec![entry(1, 1, 5), entry(2, 2, 8)]);
    refused(&bad, Invariant::IdleReturn, "op 2 got place 1 after op 1 had got place 1");
}
