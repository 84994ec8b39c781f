//! Sessions, cluster time, the watch of ended sessions, snowflake workers: R6, R7, R17, R33.

use millet_core::{limits, model::SessionState};

use super::*;

fn open(incarnation: u128, attempt: u32) -> Open {
    Open { incarnation, attempt, node: node(1, realm()), ttl_ms: TTL }
}
fn opened(reply: Reply) -> Opened {
    match reply {
        Reply::Opened(opened) => opened,
        other => panic!("{other:?}"),
    }
}

/// Nothing works before `Init`, and `Init` works once.
#[test]
fn init_comes_first_and_once() {
    let mut machine = Machine::new();
    let (reply, event) = machine.apply(1, Command::OpenSession(open(1, 1)));
    assert!(matches!(reply, Reply::Refused(_)) && event.is_none());
    let mut rig = Rig::new();
    let other = Init { cluster: "c2".into(), secret: Secret([0; 16]), generation: 9 };
    assert!(matches!(rig.run(Command::Init(other)), Reply::Refused(_)));
    assert_eq!(rig.machine.cluster().unwrap().cluster, "c1");
}

/// A renewal in the very Tick that passes the deadline saves the session: renewed first, then expired.
#[test]
fn r6_renews_before_it_expires() {
    let mut rig = Rig::new();
    let (a, b) = (rig.join(1), rig.join(2));
    let ticked = rig.tick(TTL + 1, &[a]);
    assert!(ticked.answers[0].alive);
    assert!(rig.machine.session(a).is_some());
    assert!(rig.machine.is_ended(b));
}

/// A session lives up to its deadline and not beyond.
#[test]
fn r6_expires_only_past_the_deadline() {
    let mut rig = Rig::new();
    let a = rig.join(1);
    rig.tick(TTL, &[]);
    assert!(rig.machine.session(a).is_some());
    rig.tick(TTL + 1, &[]);
    assert!(rig.machine.is_ended(a));
}

/// No renewal brings a dead session back, and the answer says so.
#[test]
fn r6_dead_is_final() {
    let mut rig = Rig::new();
    let a = rig.join(1);
    rig.tick(TTL + 1, &[]);
    let ticked = rig.tick(TTL + 2, &[a]);
    assert!(!ticked.answers[0].alive);
    assert!(rig.machine.is_ended(a));
}

/// A Tick with an older time (an old leader's, applied late) moves neither time nor a deadline back.
#[test]
fn r6_time_and_deadlines_never_go_back() {
    let mut rig = Rig::new();
    let a = rig.join(1);
    rig.tick(3_000, &[a]);
    let deadline = rig.machine.session(a).unwrap().deadline_ms;
    assert_eq!(rig.tick(1_000, &[a]).time_ms, 3_000);
    assert_eq!(rig.machine.session(a).unwrap().deadline_ms, deadline);
    rig.tick(3_000 + TTL, &[]);
    assert!(rig.machine.session(a).is_some());
}

/// The answer names the keepalive of the Tick and the Tick's entry.
#[test]
fn r6_the_answer_names_the_keepalive_and_the_entry() {
    let mut rig = Rig::new();
    let a = rig.join(1);
    let renewed = vec![Renewed { session: a, number: 17, reserve_ms: 0, load: 9 }];
    let Reply::Ticked(ticked) = rig.run(Command::Tick(Tick { time_ms: 5, wall_ms: 0, renewed })) else {
        panic!()
    };
    assert_eq!((ticked.answers[0].number, ticked.revision), (17, Revision(rig.index)));
    assert_eq!(rig.machine.session(a).unwrap().load, 9);
}

/// A session that was never renewed is granted nothing, receives nothing, and is not chosen.
#[test]
fn r7_an_opened_session_is_granted_nothing_until_renewed() {
    let mut rig = Rig::new();
    let (a, fresh) = (rig.join(1), rig.open(2, realm()));
    assert_eq!(rig.acquire(1, fresh), OpResult::NotAlive { session: fresh });
    assert!(!rig.rank(0, ShardSet::Assign { to: fresh }));
    let grant = rig.granted(1, a);
    assert_eq!(rig.op(move_to(1, a, grant, fresh)), OpResult::NotAlive { session: fresh });
    rig.tick(0, &[fresh]);
    assert_eq!(rig.machine.session(fresh).unwrap().state, SessionState::Alive);
    assert!(matches!(rig.acquire(1, fresh), OpResult::Granted { .. }));
}

/// The same incarnation and attempt is the same session, also when the request arrives again after its end.
#[test]
fn r7_open_is_idempotent_by_incarnation_and_attempt() {
    let mut rig = Rig::new();
    let first = opened(rig.open_as(open(77, 1)));
    assert_eq!(opened(rig.open_as(open(77, 1))), first);
    rig.op(Op::Close { session: first.session });
    let late = opened(rig.open_as(open(77, 1)));
    assert_eq!(late.session, first.session);
    assert_eq!(rig.machine.sessions().count(), 0, "a late repeat opened a ghost");
}

/// A higher attempt ends the lower one; a lower one that arrives late opens nothing.
#[test]
fn r7_a_higher_attempt_ends_the_lower_ones() {
    let mut rig = Rig::new();
    let first = opened(rig.open_as(open(77, 1))).session;
    let second = opened(rig.open_as(open(77, 2))).session;
    assert!(rig.machine.is_ended(first) && rig.machine.session(second).is_some());
    assert!(matches!(rig.open_as(open(77, 1)), Reply::Refused(_)));
    assert_eq!(rig.machine.sessions().count(), 1);
}

/// A session that nobody renews dies by itself.
#[test]
fn r7_a_ghost_dies_after_its_ttl() {
    let mut rig = Rig::new();
    let ghost = rig.open(1, realm());
    rig.tick(TTL + 1, &[]);
    assert!(rig.machine.is_ended(ghost));
}

/// Whoever says how far it is hears every end since; whoever is too far back hears "resync".
#[test]
fn r17_ended_since_is_complete_or_none() {
    let mut rig = Rig::new();
    let (a, b) = (rig.join(1), rig.join(2));
    let before = rig.machine.revision();
    rig.op(Op::Close { session: a });
    let between = rig.machine.revision();
    rig.op(Op::Close { session: b });
    assert_eq!(rig.machine.ended_since(before), Some(vec![a, b]));
    assert_eq!(rig.machine.ended_since(between), Some(vec![b]));
    for n in 0..=limits::WATCH_EVENTS as u64 {
        let session = rig.open(9 + n, vec![]);
        rig.op(Op::Close { session });
    }
    assert_eq!(rig.machine.ended_since(before), None);
    assert!(rig.machine.events_since(before).is_none());
    assert!(rig.machine.ended_since(rig.machine.revision()).is_some_and(|ended| ended.is_empty()));
}

/// A member restored from a snapshot does not know who ended before it, and says so.
#[test]
fn r17_a_restored_member_asks_for_a_resync() {
    let mut rig = Rig::new();
    let a = rig.join(1);
    let before = rig.machine.revision();
    rig.op(Op::Close { session: a });
    let mut bytes = Vec::new();
    rig.machine.write_to(&mut bytes).unwrap();
    let restored = Machine::read_from(&mut bytes.as_slice()).unwrap();
    assert_eq!(restored.ended_since(before), None);
    assert_eq!(restored.ended_since(restored.revision()), Some(vec![]));
    assert!(restored.is_ended(a), "unknown and not newer means ended");
    assert!(!restored.is_ended(SessionId(restored.revision().0 + 1)), "a newer id is not ended");
}

/// One entry is one event with everything it changed; entries that change no view have none.
#[test]
fn r17_one_entry_is_one_event() {
    let mut rig = Rig::new();
    let (a, b) = (rig.join(1), rig.join(2));
    let close = Command::Batch(vec![Op::Close { session: a }, Op::Close { session: b }, acquire(1, a)]);
    let (_, event) = rig.run_for_event(close);
    let event = event.unwrap();
    assert_eq!((event.revision, event.changes.len()), (Revision(rig.index), 2));
    let c = rig.join(3);
    assert!(rig.run_for_event(Command::Batch(vec![acquire(1, c)])).1.is_none());
}

fn reserve(rig: &mut Rig, session: SessionId, reserve_ms: u64, wall_ms: u64) -> u64 {
    let renewed = vec![Renewed { session, number: 1, reserve_ms, load: 0 }];
    let time_ms = rig.machine.time_ms();
    let Reply::Ticked(t) = rig.run(Command::Tick(Tick { time_ms, wall_ms, renewed })) else { panic!() };
    t.answers[0].reserved_ms
}

/// A reservation more than a minute above the leader's wall clock changes nothing.
#[test]
fn r33_reservations_far_above_the_leaders_wall_clock_are_refused() {
    let mut rig = Rig::new();
    let a = rig.join(1);
    assert_eq!(reserve(&mut rig, a, 1_010_000, 1_000_000), 1_010_000);
    assert_eq!(reserve(&mut rig, a, 1_060_001, 1_000_000), 1_010_000);
    assert_eq!(reserve(&mut rig, a, 1_060_000, 1_000_000), 1_060_000);
    assert_eq!(reserve(&mut rig, a, 0, 2_000_000), 1_060_000);
}

/// A worker id handed on starts above everything its earlier holders may have issued.
#[test]
fn r33_a_worker_id_is_handed_on_with_its_high_water_mark() {
    let mut rig = Rig::new();
    let first = opened(rig.open_as(open(1, 1)));
    assert_eq!(first.worker.unwrap().after_ms, 0);
    rig.tick(0, &[first.session]);
    reserve(&mut rig, first.session, 5_000, 1_000);
    rig.op(Op::Close { session: first.session });
    let worker = first.worker.unwrap().worker;
    let others: Vec<_> = (2..=1024).map(|n| opened(rig.open_as(open(n, 1))).worker.unwrap()).collect();
    assert!(
        others.iter().all(|w| w.worker != worker && w.after_ms == 0),
        "a spoilt id was not kept for last"
    );
    let last = opened(rig.open_as(open(5_000, 1))).worker.unwrap();
    assert_eq!((last.worker, last.after_ms), (worker, 5_000));
    assert_eq!(opened(rig.open_as(open(5_001, 1))).worker, None, "two sessions share a worker id");
}

/// Two young deaths in a row make a node wait; a long life or a close does not.
#[test]
fn r27_a_node_whose_sessions_die_young_waits() {
    let mut rig = Rig::new();
    let stay = rig.join(9);
    for n in 0..2 {
        rig.join(1);
        assert!(!rig.machine.must_wait(NodeId(1)), "after {n} young deaths");
        rig.outlive(&[stay]);
    }
    assert!(rig.machine.must_wait(NodeId(1)));
    rig.outlive(&[stay]);
    assert!(!rig.machine.must_wait(NodeId(1)), "the wait ends");
    let closed = rig.join(2);
    rig.op(Op::Close { session: closed });
    assert!(!rig.machine.must_wait(NodeId(2)));
}

/// Types and shards have a limit, however many one session declares at once.
#[test]
fn a_session_declares_no_more_types_and_shards_than_there_are() {
    let mut rig = Rig::new();
    let most = Ownership::Sharded { shards: limits::SHARDS };
    let types = (0..20).map(|n| decl(&format!("S{n}"), most)).collect();
    rig.open(1, types);
    let total = |rig: &Rig| rig.machine.types().map(|(_, ty)| ty.shards().len()).sum::<usize>();
    assert_eq!(total(&rig), limits::TOTAL_SHARDS);
    rig.open(2, (0..limits::TYPES + 10).map(|n| decl(&format!("L{n}"), Ownership::Leased)).collect());
    assert_eq!((rig.machine.types().count(), total(&rig)), (limits::TYPES, limits::TOTAL_SHARDS));
}

/// Found by reading for the fuzz target `meta`: a panic here is one at every start, on every member.
#[test]
fn the_last_member_id_and_the_last_generation_are_refused() {
    let mut rig = Rig::new();
    rig.run(Command::FeatureLevel(MEMBERS_LEVEL));
    let begin = |above, add: Option<&str>| {
        Command::Members(MemberStep::Begin { above, add: add.map(str::to_owned), remove: Some(1) })
    };
    assert!(matches!(rig.run(begin(u64::MAX, Some("d:1"))), Reply::Refused(why) if why.contains("last id")));
    assert!(matches!(rig.run(begin(u64::MAX, None)), Reply::Change(MemberChange { add: None, .. })));

    let mut machine = Machine::new();
    let init = Init { cluster: "c1".into(), secret: Secret([7; 16]), generation: u32::MAX };
    machine.apply(1, Command::Init(init));
    machine.apply(
        2,
        Command::OpenSession(Open { incarnation: 1, attempt: 1, node: node(1, realm()), ttl_ms: TTL }),
    );
    let ty = machine.types().next().expect("declared").1.row().ty.clone();
    let (reply, _) = machine.apply(3, Command::TypeSet { ty, ownership: Ownership::Sharded { shards: 77 } });
    assert!(matches!(reply, Reply::Refused(why) if why.contains("generation")));
}
