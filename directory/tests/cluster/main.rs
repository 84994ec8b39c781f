//! Whole directories against the real metadata state machine: finding, following, failing over, freezing,
//! handing over, leaving. The oracle in `world` checks G1 at every turn.

mod chaos;
mod world;

use std::{sync::atomic::Ordering, time::Duration};

use millet_core::{Clock, ErrorKind, GrainId, Outcome, SessionId};
use millet_directory::{KeeperEvent, Meta, Owners};
use millet_raft_meta::machine::{Command, Op};
use millet_testkit::until_async;
use world::{Behaviour, TTL, World, gm, hashed, pass, player, rank};

const SOON: Duration = Duration::from_secs(5);

fn kind(outcome: Outcome) -> ErrorKind {
    match outcome.expect_err("an error") {
        millet_core::CallError::Platform(error) => {
            assert!(error.grain().is_some(), "every error names a grain");
            error.kind().clone()
        }
        app @ millet_core::CallError::App(_) => panic!("{app}"),
    }
}

/// A grain near its first caller is reached from everywhere; a hashed one is on the same node for all.
#[tokio::test(start_paused = true)]
async fn a_call_finds_its_grain_from_every_node() {
    let world = World::new(3).await;
    for n in 0..20 {
        let home = World::by(&world.call(n % 3 + 1, &player(n)).await);
        assert_eq!(home, n % 3 + 1, "prefer-local");
        for from in 1..=3 {
            assert_eq!(World::by(&world.call(from, &player(n)).await), home);
        }
        let home = World::by(&world.call(1, &hashed(n)).await);
        for from in 1..=3 {
            assert_eq!(World::by(&world.call(from, &hashed(n)).await), home);
        }
    }
}

/// A crashed node's grains answer elsewhere within TTL + 1 s, each call once.
#[tokio::test(start_paused = true)]
async fn r26_calls_to_a_crashed_nodes_grains_are_answered_within_ttl_and_a_second() {
    let world = World::new(3).await;
    for n in 0..10 {
        assert_eq!(World::by(&world.call(1, &player(n)).await), 1);
        world.call(2, &player(n)).await.expect("node 2 knows the route");
    }
    world.node(1).crash();
    let start = world.clock.boottime();
    let calls = (0..10).flat_map(|n| [(2, n), (3, n)]).map(|(from, n)| {
        let world = &world;
        async move { world.call(from, &player(n)).await.map(|by| by[0]) }
    });
    for outcome in futures::future::join_all(calls).await {
        assert_ne!(outcome.expect("answered"), 1);
    }
    let took = world.clock.boottime().since(start);
    assert!(took <= TTL + Duration::from_secs(1), "{took:?}");
    assert!(took >= Duration::from_secs(3), "{took:?}: the lease was respected");
}

/// While a holder is unreachable its callers wait with a backoff: no spinning.
#[tokio::test(start_paused = true)]
async fn an_unreachable_holder_is_tried_with_a_bounded_backoff() {
    let world = World::new(2).await;
    world.call(1, &player(1)).await.expect("placed on 1");
    world.call(2, &player(1)).await.expect("route known on 2");
    world.node(1).isolated.store(true, Ordering::Release); // its session stays alive
    let start = world.clock.boottime();
    let outcome = world.call_within(2, &player(1), Duration::from_secs(3)).await;
    let took = world.clock.boottime().since(start);
    assert!(took <= Duration::from_millis(3_500), "{took:?}: the deadline holds (G5)");
    let ErrorKind::Unavailable { what } = kind(outcome) else { panic!("typed") };
    assert!(what.contains("unreachable") && what.contains("n1"), "{what}");
}

/// Shards: reached from everywhere, more of them than nodes, and after a crash at the survivors.
#[tokio::test(start_paused = true)]
async fn sharded_grains_are_reached_from_every_node_and_survive_a_crash() {
    let world = World::new(3).await;
    let mut homes = std::collections::BTreeSet::new();
    for n in 0..64 {
        let home = World::by(&world.call(1, &rank(n)).await);
        homes.insert(home);
        assert_eq!(World::by(&world.call(2, &rank(n)).await), home);
    }
    assert_eq!(homes.len(), 3, "eight shards on three nodes");
    let victim = World::by(&world.call(1, &gm()).await);
    let from = victim % 3 + 1;
    world.node(victim).crash();
    let start = world.clock.boottime();
    for n in 0..64 {
        assert_ne!(World::by(&world.call(from, &rank(n)).await), victim);
    }
    assert_ne!(World::by(&world.call(from, &gm()).await), victim);
    let took = world.clock.boottime().since(start);
    assert!(took <= TTL + Duration::from_secs(1), "{took:?}");
}

/// Nobody owns the shard until the deadline: a typed error that names it.
#[tokio::test(start_paused = true)]
async fn an_ownerless_shard_ends_at_the_deadline_with_its_name() {
    let world = World::new(1).await;
    // The holder dies and nobody comes; a caller that hosts nothing asks.
    let ghost = GrainId::new(gm().ty, millet_core::Key::text("x").unwrap());
    let other = world.add(2);
    until_async("node 2 serves", async || other.directory.valid_session().is_some(), SOON).await;
    let holder = World::by(&world.call(1, &ghost).await);
    let from = holder % 2 + 1;
    world.node(holder).crash();
    let outcome = world.call_within(from, &ghost, Duration::from_secs(1)).await;
    let ErrorKind::Unavailable { what } = kind(outcome) else { panic!("typed") };
    assert!(what.contains("unreachable") || what.contains("shard"), "{what}");
    world.store.set_quorum(true);
    let outcome = world.call_within(from, &ghost, Duration::from_secs(8)).await;
    assert_eq!(World::by(&outcome), from, "and with more time it waits for the new owner");
}

/// No quorum for longer than the validity: frozen, calls answer Unavailable; when it returns, everything
/// goes on with the same grants.
#[tokio::test(start_paused = true)]
async fn r4_a_node_freezes_without_quorum_and_thaws_with_its_activations() {
    let world = World::new(2).await;
    world.call(1, &player(1)).await.expect("placed");
    let (before, session) = (world.node(1).residents.claim_of(&player(1)).unwrap(), world.node(1).session());
    world.store.set_quorum(false);
    let frozen = async || world.node(1).directory.valid_session().is_none();
    until_async("frozen", frozen, SOON).await;
    assert!(!before.session.is_dead(), "frozen, not dropped");
    let ErrorKind::Unavailable { .. } = kind(world.call(1, &player(1)).await) else { panic!("refuses (G7)") };
    world.store.set_quorum(true);
    assert_eq!(World::by(&world.call(1, &player(1)).await), 1);
    let after = world.node(1).residents.claim_of(&player(1)).unwrap();
    assert_eq!((after.grant, after.session.id()), (before.grant, session), "the same activation");
}

/// `until_valid` ends with the thaw, with the death of the session, or at its limit.
#[tokio::test(start_paused = true)]
async fn r4_until_valid_waits_for_thaw_death_or_limit() {
    let world = World::new(1).await;
    let node = world.node(1);
    let lease = node.directory.session().unwrap();
    world.store.set_quorum(false);
    until_async("frozen", async || node.directory.valid_session().is_none(), SOON).await;
    let now = world.clock.boottime();
    assert!(!node.directory.until_valid(&lease, now.after(Duration::from_millis(300))).await, "limit");
    let thaw = node.directory.until_valid(&lease, now.after(Duration::from_secs(30)));
    world.store.set_quorum(true);
    assert!(thaw.await, "thawed");
    node.partition(true);
    until_async("frozen again", async || node.directory.valid_session().is_none(), SOON).await;
    let death = node.directory.until_valid(&lease, world.clock.boottime().after(Duration::from_secs(60)));
    until_async("dead in the store", async || world.store.is_dead(lease.id()), SOON).await;
    node.partition(false);
    assert!(!death.await, "dead");
    assert!(lease.is_dead());
}

/// Cut off from everything, a node freezes before others take its grains over (the oracle checks every
/// turn), and returns with a new session and nothing of the old one.
#[tokio::test(start_paused = true)]
async fn r12_a_partitioned_node_stops_before_its_grains_run_elsewhere() {
    let world = World::new(3).await;
    for n in 0..5 {
        world.call(1, &player(n)).await.expect("placed on 1");
    }
    let old = world.node(1).session();
    world.node(1).partition(true);
    let mut moved = std::collections::BTreeSet::new();
    let end = world.clock.boottime().after(Duration::from_secs(8));
    while world.clock.boottime() < end {
        for n in 0..5 {
            let (short, grain) = (Duration::from_millis(50), player(n));
            let (inside, outside) =
                futures::join!(world.call_within(1, &grain, short), world.call_within(2, &grain, short));
            assert!(inside.is_err() || outside.is_err(), "both sides answered");
            if let Ok(by) = outside {
                moved.insert((n, by[0]));
            }
        }
    }
    assert_eq!(moved.len(), 5, "taken over: {moved:?}");
    world.node(1).partition(false);
    let back = async || world.node(1).directory.session().is_some_and(|s| s.id() != old);
    until_async("a new session", back, SOON).await;
    for n in 0..5 {
        assert_ne!(World::by(&world.call(1, &player(n)).await), 1);
    }
}

/// R12: a call that waits for its callee is an output of its sender still. It ends with the sender's session
/// and is not delivered when the callee is there again, under whatever session this node has by then.
#[tokio::test(start_paused = true)]
async fn r12_a_waiting_call_ends_with_the_session_of_its_sender() {
    let world = World::new(2).await;
    assert_eq!(World::by(&world.call(2, &player(1)).await), 2);
    world.call(1, &player(1)).await.expect("node 1 knows the route");
    let grain = player(1);
    let mine = world.node(1).session();
    world.node(2).crash();
    let start = world.clock.boottime();
    let (outcome, ()) =
        futures::join!(world.call_as(1, &grain, Duration::from_secs(30), Some(mine)), async {
            pass(Duration::from_millis(500)).await;
            world.store.apply(Command::Batch(vec![Op::Close { session: mine }]));
        });
    assert!(matches!(kind(outcome), ErrorKind::Unavailable { .. }));
    assert!(world.clock.boottime().since(start) < TTL, "it does not wait for the other node's end");
    until_async(
        "node 1 has its next session",
        async || world.node(1).directory.session().is_some_and(|s| s.id() != mine),
        SOON,
    )
    .await;
    let late = world.call_as(1, &player(2), SOON, Some(mine)).await;
    assert!(matches!(kind(late), ErrorKind::Unavailable { .. }), "its turn would run for a dead sender");
}

/// Requests arrive, answers do not: the node must freeze, and the store must end its session (R22).
#[tokio::test(start_paused = true)]
async fn r22_a_deaf_node_loses_its_session() {
    let world = World::new(2).await;
    world.call(1, &player(1)).await.expect("placed on 1");
    let session = world.node(1).session();
    world.node(1).link.deaf.store(true, Ordering::Release);
    until_async("ended", async || world.store.is_dead(session), Duration::from_secs(8)).await;
    assert!(world.node(1).directory.valid_session().is_none(), "froze before");
}

/// R17: a watch whose first word is long in coming is not begun anew at every keepalive's answer that asks for
/// it: it would never come, and the node would be left behind.
#[tokio::test(start_paused = true)]
async fn r17_a_slow_first_word_is_waited_for_however_often_a_restart_is_asked_for() {
    let world = World::new(1).await;
    let node = world.node(1);
    node.link.first_word_ms.store(1_200, Ordering::Release);
    let (session, before) = (node.session(), node.directory.view().revision());
    for _ in 0..40 {
        node.directory.on_keeper_event(KeeperEvent::Resync);
        pass(Duration::from_millis(300)).await;
    }
    assert!(node.directory.view().revision() > before, "nothing was heard for 12 s");
    assert_eq!(node.session(), session, "left behind");
}

/// An idle grain's grant is dead from the moment its release is queued: the next activation has another.
#[tokio::test(start_paused = true)]
async fn r1_an_activation_after_an_idle_one_has_a_new_grant() {
    let world = World::new(2).await;
    world.call(1, &player(1)).await.expect("placed");
    let first = world.node(1).residents.claim_of(&player(1)).unwrap().grant;
    world.node(1).residents.idle(&player(1));
    world.call(1, &player(1)).await.expect("again"); // overtakes or follows the release
    let second = world.node(1).residents.claim_of(&player(1)).unwrap().grant;
    assert!(second > first, "{second} after {first}");
    world.node(1).residents.idle(&player(1));
    let free = async || world.node(2).link.lookup(&player(1)).await == Ok(None);
    until_async("the release is applied", free, SOON).await;
    assert_eq!(World::by(&world.call(2, &player(1)).await), 2, "free for others");
}

/// A leaving node: no call fails while it goes, its session is closed at once, shards and grains live on.
#[tokio::test(start_paused = true)]
async fn r18_a_graceful_leave_fails_no_call_and_closes_the_session() {
    let world = World::new(3).await;
    for n in 0..10 {
        world.call(1, &player(n)).await.expect("placed on 1");
    }
    let (node, session) = (world.node(1), world.node(1).session());
    *node.link.fenced_at_close.lock() = node.directory.session();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let traffic = async {
        let mut calls = 0;
        while !stop.load(Ordering::Acquire) {
            for n in 0..10 {
                world.call(2, &player(n)).await.expect("leased");
                world.call(3, &rank(n)).await.expect("sharded");
                world.call(3, &hashed(n)).await.expect("hashed");
                calls += 3;
            }
        }
        calls
    };
    let leave = async {
        pass(Duration::from_millis(500)).await;
        let left = node.directory.leave(world.clock.boottime().after(Duration::from_secs(10))).await;
        assert!(left.closed && left.activations == 0 && left.shards == 0, "{left:?}");
        assert!(world.store.is_dead(session), "closed, not expired");
        node.crash();
        pass(Duration::from_secs(1)).await;
        stop.store(true, Ordering::Release);
    };
    let start = world.clock.boottime();
    let (calls, ()) = futures::join!(traffic, leave);
    assert!(calls > 100, "{calls}");
    let took = world.clock.boottime().since(start);
    assert!(took < Duration::from_secs(6), "{took:?}: nobody had to wait for a lease to expire");
}

/// A grant that arrives while the node is leaving is released, not used: the call goes elsewhere.
#[tokio::test(start_paused = true)]
async fn r30_a_grant_that_comes_while_leaving_is_released() {
    let world = World::new(2).await;
    let (node, grain) = (world.node(1), player(7));
    let call = world.call(1, &grain);
    let leave = async {
        pass(Duration::from_millis(1)).await; // the acquire is applied, its answer on its way
        node.directory.drain(world.clock.boottime().after(SOON)).await
    };
    let (outcome, left) = futures::join!(call, leave);
    assert_eq!(World::by(&outcome), 2);
    assert_eq!((left.activations, node.residents.claim_of(&grain).is_none()), (0, true));
}

/// While the releases of a leaver are slow, the others are told that it still holds its grains, and say
/// so to a call that came in at the leaver: that call waits, it does not use up its resends.
#[tokio::test(start_paused = true)]
async fn g3_a_call_through_a_leaver_waits_for_its_slow_releases() {
    let world = World::new(3).await;
    let (node, grain) = (world.node(1), player(7));
    assert_eq!(World::by(&world.call(1, &grain).await), 1);
    node.link.release_ms.store(1_000, Ordering::Release);
    let call = async {
        pass(Duration::from_millis(20)).await;
        World::by(&world.call(1, &grain).await)
    };
    let (by, left) = futures::join!(call, node.directory.drain(world.clock.boottime().after(SOON)));
    assert_ne!(by, 1, "{left:?}");
}

/// With activations that do not end, the session is not closed: it expires (R18).
#[tokio::test(start_paused = true)]
async fn r18_a_session_with_running_turns_is_not_closed() {
    let world = World::new(1).await;
    let node = world.node(1);
    let session = node.session();
    let left = millet_directory::Left { activations: 3, shards: 0, closed: false };
    let left = node.directory.close(left, world.clock.boottime().after(SOON)).await;
    assert!(!left.closed);
    assert!(!world.store.is_dead(session), "still alive in the store");
    until_async("expired", async || world.store.is_dead(session), Duration::from_secs(6)).await;
}

/// A joiner gets its share of shards by live hand-over; no call fails meanwhile (R8).
#[tokio::test(start_paused = true)]
async fn r8_shards_move_to_a_joiner_without_failing_a_call() {
    let world = World::new(1).await;
    world.add(2);
    let moved = async || {
        for n in 0..16 {
            world.call_within(1, &rank(n), Duration::from_secs(2)).await.expect("served throughout");
        }
        (0..64).any(|n| world.node(2).directory.claim_now(&rank(n)).is_some())
    };
    until_async("node 2 has a shard", moved, Duration::from_secs(30)).await;
}

/// Moved for ever: followed twice, then once after asking the store, and no further.
#[tokio::test(start_paused = true)]
async fn r13_moved_is_followed_twice_and_once_more_after_asking() {
    let world = World::new(2).await;
    world.call(1, &player(1)).await.expect("placed on 1");
    let (holder, grant) = {
        let claim = world.node(1).residents.claim_of(&player(1)).unwrap();
        (Some(claim.session.id()), Some(claim.grant))
    };
    let moved = ErrorKind::Moved { holder, node: None, grant };
    *world.node(1).residents.behaviour.lock() = Behaviour::Answer(moved);
    world.node(1).residents.dispatched.store(0, Ordering::Relaxed);
    let outcome = world.call(2, &player(1)).await;
    let ErrorKind::Unavailable { what } = kind(outcome) else { panic!("typed") };
    assert!(what.contains("moving"), "{what}");
    let tries = world.node(1).residents.dispatched.load(Ordering::Relaxed);
    assert!((2..=3).contains(&tries), "{tries} tries");
}

/// What may have run is never sent again, and what is the caller's to decide comes back at once.
#[tokio::test(start_paused = true)]
async fn r13_only_what_surely_did_not_run_is_sent_again() {
    let world = World::new(2).await;
    world.call(1, &player(1)).await.expect("placed on 1");
    let node = world.node(1);
    let returned = [
        Behaviour::Answer(ErrorKind::Overloaded {
            retry_after: Duration::from_secs(1),
            what: "mailbox".into(),
        }),
        Behaviour::Answer(ErrorKind::Unknown { why: "fenced at exit".into() }),
        // The turn ran; a call inside it failed in a way that is followed elsewhere.
        Behaviour::FailInside(ErrorKind::Unavailable { what: "store".into() }, player(99)),
        Behaviour::FailInside(ErrorKind::Fenced, player(99)),
    ];
    for behaviour in returned {
        *node.residents.behaviour.lock() = behaviour.clone();
        node.residents.dispatched.store(0, Ordering::Relaxed);
        for from in [1, 2] {
            let got = kind(world.call(from, &player(1)).await);
            let (Behaviour::Answer(sent) | Behaviour::FailInside(sent, _)) = &behaviour else {
                unreachable!()
            };
            assert_eq!(got, *sent);
        }
        assert_eq!(node.residents.dispatched.load(Ordering::Relaxed), 2, "{behaviour:?}");
    }
}

/// A deadline in the past starts nothing; unknown types and wrong keys are refused with the reason.
#[tokio::test(start_paused = true)]
async fn bad_calls_are_refused_with_a_reason() {
    let world = World::new(1).await;
    let late = world.call_within(1, &player(1), Duration::ZERO).await;
    assert!(matches!(kind(late), ErrorKind::DeadlineExceeded { .. }));
    assert_eq!(world.node(1).residents.dispatched.load(Ordering::Relaxed), 0);
    let nobody = GrainId::new(millet_core::GrainType::new("t.Nobody").unwrap(), 1u64);
    let ErrorKind::NoSuchGrain { known, .. } = kind(world.call(1, &nobody).await) else { panic!("typed") };
    assert!(known.contains("t.Player"), "{known}");
    let text = GrainId::new(player(1).ty, millet_core::Key::text("42").unwrap());
    assert!(matches!(kind(world.call(1, &text).await), ErrorKind::BadKey { .. }), "R32");
}

/// G1c: an ended session is refused at once, a living one accepted, one that is news is waited for.
#[tokio::test(start_paused = true)]
async fn r17_a_receiver_refuses_ended_sessions_and_waits_for_newer_ones() {
    let world = World::new(2).await;
    let (one, two) = (world.node(1), world.node(2));
    assert!(one.directory.accepts_from(two.session()).await);
    let dead = two.session();
    two.crash();
    until_async("ended", async || !one.directory.accepts_from(dead).await, Duration::from_secs(8)).await;
    // A session that opens a moment after the question was asked.
    let next = SessionId(one.directory.view().revision().0 + 1_000_000);
    let start = world.clock.boottime();
    assert!(!one.directory.accepts_from(next).await, "never heard of");
    assert!(world.clock.boottime().since(start) >= Duration::from_secs(1), "but waited for");
}

/// Ids of several nodes never meet (R33).
#[tokio::test(start_paused = true)]
async fn r33_ids_of_all_nodes_are_unique() {
    let world = World::new(3).await;
    let reserved = async || (1..=3).all(|n| world.node(n).directory.next_id().is_ok());
    until_async("reservations are committed", reserved, SOON).await;
    let ids: Vec<u64> =
        (0..3_000).map(|i| world.node(i % 3 + 1).directory.next_id().expect("an id")).collect();
    let unique: std::collections::HashSet<_> = ids.iter().collect();
    assert_eq!(unique.len(), ids.len());
}
