//! The session keeper's rules, one by one: R4, R5, R6, R7, R17, R22.

use std::time::Duration;

use millet_core::{
    BootTime, Revision, SessionId,
    model::{Keepalive, KeepaliveAnswer, OpenedSession, Verdict},
};
use millet_directory::{
    keeper::{Effect, EndReason, Keeper, KeeperSettings, Report, To},
    keeper_table::Phase,
};

const TTL: Duration = Duration::from_secs(4);
const S: SessionId = SessionId(7);

fn ms(n: u64) -> BootTime {
    BootTime(n * 1_000_000)
}
fn opened(id: u64) -> OpenedSession {
    OpenedSession { session: SessionId(id), ttl: TTL, worker: None }
}
fn answer(number: u64, verdict: Verdict) -> KeepaliveAnswer {
    KeepaliveAnswer {
        session: S,
        number,
        verdict,
        revision: Revision(0),
        ended: Some(Vec::new()),
        reserved_ms: 0,
        cluster_ms: 0,
    }
}
fn sends(effects: &[Effect]) -> Vec<(To, Keepalive)> {
    effects
        .iter()
        .filter_map(|e| match e {
            Effect::Send { to, keepalive } => Some((*to, keepalive.clone())),
            _ => None,
        })
        .collect()
}

/// A keeper whose session was opened at `at` and whose first keepalive has been sent then.
fn opened_at(at: BootTime) -> Keeper {
    let mut keeper = Keeper::new(KeeperSettings { ttl: TTL });
    assert_eq!(keeper.step(at), [Effect::Open { attempt: 1 }]);
    let effects = keeper.opened(at, 1, &opened(S.0));
    assert_eq!(sends(&effects).len(), 1);
    keeper
}

/// One renewed at `at`: serving until `at` + 3.2 s.
fn serving_at(at: BootTime) -> Keeper {
    let mut keeper = opened_at(at);
    let effects = keeper.answered(at, 0, &answer(1, Verdict::Renewed));
    assert!(effects.contains(&Effect::Ready { session: S }), "{effects:?}");
    keeper
}

/// Every step up to `to`, as a driver makes them.
fn run(keeper: &mut Keeper, from: BootTime, to: BootTime) -> Vec<(BootTime, Effect)> {
    let mut effects = Vec::new();
    let mut now = from;
    loop {
        effects.extend(keeper.step(now).into_iter().map(|e| (now, e)));
        now = keeper.next_wake().max(now.after(Duration::from_nanos(1)));
        if now > to {
            return effects;
        }
    }
}

/// An opened session is not ready, whatever time passes, until a keepalive is answered with Renewed.
#[test]
fn r7_no_authority_before_the_first_renewed_keepalive() {
    let mut keeper = opened_at(ms(0));
    assert_eq!(keeper.valid_until(), BootTime(0));
    let effects = keeper.answered(ms(10), 0, &answer(1, Verdict::NotRenewed));
    assert!(!effects.iter().any(|e| matches!(e, Effect::Ready { .. })));
    assert_eq!(keeper.phase(), Phase::Opened);
    assert_eq!(sends(&keeper.step(ms(20))).len(), 1, "number 2 at once (R22)");
    let effects = keeper.answered(ms(30), 0, &answer(2, Verdict::Renewed));
    assert!(effects.contains(&Effect::Ready { session: S }));
}

/// An OpenSession of unknown outcome is repeated under the same attempt; only a dead session raises it.
#[test]
fn r7_the_attempt_rises_only_with_a_new_session() {
    let mut keeper = Keeper::new(KeeperSettings { ttl: TTL });
    assert_eq!(keeper.step(ms(0)), [Effect::Open { attempt: 1 }]);
    keeper.open_failed(ms(5), 1);
    assert_eq!(keeper.step(keeper.next_wake()), [Effect::Open { attempt: 1 }]);
    keeper.opened(ms(100), 1, &opened(S.0));
    let effects = keeper.answered(ms(110), 0, &answer(1, Verdict::Dead));
    assert_eq!(effects, [Effect::Ended { session: S, why: EndReason::Dead }]);
    assert_eq!(keeper.step(keeper.next_wake()), [Effect::Open { attempt: 2 }]);
    assert_eq!(keeper.opened(ms(120), 1, &opened(9)), [], "a late answer to the first attempt");
    assert_eq!(keeper.session(), None);
}

/// Sessions that die before their first renewal are opened anew with a growing pause; one that served is
/// replaced at once.
#[test]
fn r7_a_store_that_keeps_ending_sessions_is_not_stormed() {
    let mut keeper = Keeper::new(KeeperSettings { ttl: TTL });
    let (mut now, mut opens) = (ms(0), 0);
    while now < ms(10_000) {
        for effect in keeper.step(now) {
            if let Effect::Open { attempt } = effect {
                opens += 1;
                keeper.opened(now, attempt, &opened(S.0));
                keeper.answered(now, 0, &answer(1, Verdict::Dead));
            }
        }
        now = keeper.next_wake().max(now.after(Duration::from_millis(1)));
    }
    assert!((10..=16).contains(&opens), "{opens} sessions in ten seconds");
}

/// Unanswered for 250 ms: repeated to every member every 100 ms under the same number.
#[test]
fn r5_an_unanswered_keepalive_is_hedged_under_its_number() {
    let mut keeper = serving_at(ms(0));
    let effects = run(&mut keeper, ms(1), ms(999));
    let sent: Vec<_> = effects
        .iter()
        .filter_map(|(at, e)| match e {
            Effect::Send { to, keepalive } => Some((at.0 / 1_000_000, *to, keepalive.number)),
            _ => None,
        })
        .collect();
    let expected = [(500, To::Member(0), 2), (750, To::All, 2), (850, To::All, 2), (950, To::All, 2)];
    assert_eq!(sent, expected);
}

/// A member that can not be reached is not waited for.
#[test]
fn r5_a_failed_send_is_hedged_without_waiting() {
    let mut keeper = serving_at(ms(0));
    assert_eq!(sends(&keeper.step(ms(500))).len(), 1);
    keeper.send_failed(ms(501), 2);
    assert_eq!(keeper.next_wake(), ms(520));
    assert_eq!(sends(&keeper.step(ms(520)))[0].0, To::All);
}

/// Members that refuse at once are not asked faster than the hedge, whenever the first failure came (found by
/// the simulator: a failure 150 ms after the send, and it asked without end in the same instant).
#[test]
fn r5_members_that_refuse_at_once_are_asked_at_the_pace_of_the_hedge() {
    for late in 1..250 {
        let mut keeper = serving_at(ms(0));
        assert_eq!(sends(&keeper.step(ms(500))).len(), 1);
        keeper.send_failed(ms(500 + late), 2);
        let mut asked = 0;
        while keeper.next_wake() < ms(1000) {
            let now = keeper.next_wake();
            asked += sends(&keeper.step(now)).len();
            keeper.send_failed(now, 2);
            assert!(asked <= 5, "the first failure after {late} ms");
        }
    }
}

/// A renewal counts from the first send of the number it names, not from a repeat or a later number.
#[test]
fn r6_a_renewal_is_credited_to_the_first_send_of_the_named_number() {
    let mut keeper = serving_at(ms(0));
    run(&mut keeper, ms(1), ms(1499)); // number 2 at 500 and its repeats, number 3 at 1000
    let effects = keeper.answered(ms(1499), 0, &answer(2, Verdict::Renewed));
    assert!(effects.contains(&Effect::Renewed { session: S, sent: ms(500), reserved_ms: 0 }), "{effects:?}");
    assert_eq!(keeper.valid_until(), ms(3700));
    // An older answer that arrives later moves nothing back.
    keeper.answered(ms(1499), 0, &answer(1, Verdict::Renewed));
    assert_eq!(keeper.valid_until(), ms(3700));
    // A number never sent credits nothing.
    assert_eq!(keeper.answered(ms(1499), 0, &answer(99, Verdict::Renewed)), []);
}

/// At its deadline a node freezes and goes on sending for the same session; Renewed thaws it.
#[test]
fn r4_it_freezes_keeps_sending_and_thaws() {
    let mut keeper = serving_at(ms(0));
    let effects = run(&mut keeper, ms(1), ms(10_000));
    let frozen: Vec<_> = effects.iter().filter(|(_, e)| *e == Effect::Frozen { session: S }).collect();
    assert_eq!(frozen.len(), 1);
    assert_eq!(frozen[0].0, ms(3200));
    assert!(!effects.iter().any(|(_, e)| matches!(e, Effect::Ended { .. } | Effect::Open { .. })));
    let last =
        sends(&effects.into_iter().map(|(_, e)| e).collect::<Vec<_>>()).pop().expect("still sending").1;
    assert_eq!((last.session, last.number), (S, 21));
    let effects = keeper.answered(ms(10_001), 2, &answer(21, Verdict::Renewed));
    assert!(effects.contains(&Effect::Thawed { session: S }), "{effects:?}");
    assert_eq!(keeper.phase(), Phase::Serving);
}

/// An answer so late that its credit is used up thaws nothing.
#[test]
fn r4_a_renewal_whose_credit_is_used_up_does_not_thaw() {
    let mut keeper = serving_at(ms(0));
    run(&mut keeper, ms(1), ms(5000));
    let effects = keeper.answered(ms(5000), 0, &answer(3, Verdict::Renewed)); // sent at 1 s
    assert!(!effects.contains(&Effect::Thawed { session: S }));
    assert_eq!(keeper.phase(), Phase::Frozen);
}

/// Only Dead drops a session; then a new one is asked for at once.
#[test]
fn r4_only_dead_drops_and_opens_anew() {
    let mut keeper = serving_at(ms(0));
    run(&mut keeper, ms(1), ms(4000));
    for number in 1..8 {
        keeper.answered(ms(4000), 0, &answer(number, Verdict::NotRenewed));
    }
    assert_eq!(keeper.session(), Some(S));
    let effects = keeper.answered(ms(4001), 0, &answer(4, Verdict::Dead));
    assert_eq!(effects, [Effect::Ended { session: S, why: EndReason::Dead }, Effect::Open { attempt: 2 }]);
}

/// NotRenewed is answered by the next keepalive at once, and that one has heard it.
#[test]
fn r22_not_renewed_is_followed_at_once_by_a_keepalive_that_heard_it() {
    let mut keeper = serving_at(ms(0));
    run(&mut keeper, ms(1), ms(1700)); // 2, 3, 4 at 500, 1000, 1500: unheard
    keeper.answered(ms(1700), 1, &answer(4, Verdict::NotRenewed));
    let sent = sends(&keeper.step(ms(1700)));
    assert_eq!(sent.len(), 1);
    assert_eq!((sent[0].0, sent[0].1.number, sent[0].1.heard), (To::Member(1), 5, 4));
    // A store that keeps saying so is not stormed.
    keeper.answered(ms(1701), 1, &answer(5, Verdict::NotRenewed));
    assert_eq!(sends(&keeper.step(ms(1701))), []);
    assert_eq!(keeper.next_wake(), ms(1720));
}

/// R5, R22: a leader that is cut off from the others, and does not know it yet, knows nothing of a session
/// opened since and refuses it at once, every time. The others are asked too, so that it is renewed.
#[test]
fn r5_a_member_that_only_refuses_does_not_keep_the_others_from_being_asked() {
    let mut keeper = opened_at(ms(0));
    let mut now = ms(0);
    for number in 1..=2 {
        keeper.answered(now, 0, &answer(number, Verdict::NotRenewed));
        now = keeper.next_wake();
        let sent = sends(&keeper.step(now));
        let to = if number == 1 { To::Member(0) } else { To::All };
        assert_eq!(sent.iter().map(|(to, k)| (*to, k.number)).collect::<Vec<_>>(), [(to, number + 1)]);
    }
    keeper.answered(now, 0, &answer(3, Verdict::NotRenewed));
    let effects = keeper.answered(now, 2, &answer(3, Verdict::Renewed));
    assert!(effects.contains(&Effect::Ready { session: S }), "{effects:?}");
}

/// A node whose watch stays behind what its answers name for a whole TTL gives its session up, fenced,
/// and asks for a new one only when the old one has surely expired (R18).
#[test]
fn r17_a_lagging_watch_gives_the_session_up() {
    let mut keeper = serving_at(ms(0));
    let mut ended = None;
    for at in (0..9_000).step_by(50) {
        for effect in keeper.step(ms(at)) {
            match effect {
                Effect::Send { keepalive, .. } => {
                    let revision = Revision(100 + at);
                    let renewed = KeepaliveAnswer { revision, ..answer(keepalive.number, Verdict::Renewed) };
                    keeper.answered(ms(at), 0, &renewed);
                }
                Effect::Ended { why, .. } => ended = Some((at, why)),
                Effect::Open { attempt } => {
                    assert_eq!((at, attempt), (8_500, 2));
                    assert_eq!(ended, Some((4_500, EndReason::LeftBehind)));
                    return;
                }
                _ => {}
            }
        }
    }
    panic!("never gave it up: {ended:?}");
}

/// R17, G4: the member behind the watch may be cut off while the others are well, and says nothing wrong. A
/// watch that stays behind starts over, elsewhere, three times before the session is given up.
#[test]
fn r17_a_watch_that_does_not_get_on_starts_over_before_the_session_is_given_up() {
    let mut keeper = serving_at(ms(0));
    let mut restarts = Vec::new();
    for at in (0..30_000).step_by(50) {
        for effect in keeper.step(ms(at)) {
            match effect {
                Effect::Send { keepalive, .. } => {
                    let revision = Revision(100 + at);
                    let renewed = KeepaliveAnswer { revision, ..answer(keepalive.number, Verdict::Renewed) };
                    keeper.answered(ms(at), 0, &renewed);
                }
                Effect::Resync => restarts.push(at),
                Effect::Ended { why, .. } => panic!("{why:?} at {at}, after {restarts:?}"),
                _ => {}
            }
        }
        // The third member tried is a good one.
        if restarts.len() == 3 {
            keeper.report(Report { revision: Revision(100 + at), ..Report::default() });
        }
    }
    assert_eq!(restarts, [1_500, 2_500, 3_500]);
}

/// A watch that is a little behind all the time, as every watch is, gives nothing up.
#[test]
fn r17_a_watch_that_follows_keeps_the_session() {
    let mut keeper = serving_at(ms(0));
    for at in (0..30_000u64).step_by(50) {
        keeper.report(Report { revision: Revision(at.saturating_sub(1000)), ..Report::default() });
        for effect in keeper.step(ms(at)) {
            if let Effect::Send { keepalive, .. } = &effect {
                let revision = Revision(at);
                let renewed = KeepaliveAnswer { revision, ..answer(keepalive.number, Verdict::Renewed) };
                keeper.answered(ms(at), 0, &renewed);
            }
            assert!(!matches!(effect, Effect::Ended { .. } | Effect::Frozen { .. }), "{effect:?} at {at}");
        }
    }
}

/// What the answers say of ended sessions comes out, and "too many" asks for a resync.
#[test]
fn r17_ended_sessions_ride_on_the_answers() {
    let mut keeper = serving_at(ms(0));
    keeper.step(ms(500));
    let some = KeepaliveAnswer {
        ended: Some(vec![SessionId(3)]),
        revision: Revision(40),
        ..answer(2, Verdict::Renewed)
    };
    let told = Effect::EndedElsewhere { sessions: vec![SessionId(3)], revision: Revision(40) };
    assert!(keeper.answered(ms(501), 0, &some).contains(&told));
    keeper.step(ms(1000));
    let many = KeepaliveAnswer { ended: None, ..answer(3, Verdict::Renewed) };
    assert!(keeper.answered(ms(1001), 0, &many).contains(&Effect::Resync));
}

fn alarms(rate: f64, gap: Option<u64>) -> usize {
    let mut keeper = serving_at(ms(0));
    let mut alarms = 0;
    for at in (0..200_000).step_by(50) {
        if gap.is_some_and(|g| (g..g + 2_500).contains(&at)) {
            continue;
        }
        for effect in keeper.step(ms(at)) {
            if let Effect::Send { keepalive, .. } = effect {
                let cluster_ms = 1_000_000 + (at as f64 * rate) as u64;
                let renewed = KeepaliveAnswer { cluster_ms, ..answer(keepalive.number, Verdict::Renewed) };
                let effects = keeper.answered(ms(at), 0, &renewed);
                alarms += effects.iter().filter(|e| matches!(e, Effect::Alarm(_))).count();
            }
        }
    }
    alarms
}

/// Cluster time that runs more than 2 % off the own clock raises an alarm; an election does not.
#[test]
fn r9_clocks_that_run_apart_raise_an_alarm() {
    assert_eq!(alarms(1.0, None), 0);
    assert_eq!(alarms(1.015, None), 0);
    assert!(alarms(1.03, None) >= 2);
    assert!(alarms(0.97, None) >= 2);
    assert_eq!(alarms(1.0, Some(30_000)), 0);
}

/// A stopped keeper renews and opens nothing any more.
#[test]
fn r26_a_stopped_keeper_sends_nothing() {
    let mut keeper = serving_at(ms(0));
    keeper.stop();
    assert_eq!(keeper.next_wake(), BootTime::NEVER);
    assert_eq!(keeper.step(ms(60_000)), []);
    assert_eq!(keeper.answered(ms(60_000), 0, &answer(1, Verdict::Renewed)), []);
}
