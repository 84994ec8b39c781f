//! R6, R7, R9 as a property: whatever is lost, delayed, repeated or reordered, and with clock rates up to
//! 10 % off in either direction, a holder never believes in a session that the store may have ended.

use std::collections::BTreeMap;

use millet_core::{
    BootTime, Revision, SessionId, SessionLease,
    model::{Keepalive, KeepaliveAnswer, OpenedSession, Verdict},
};
use millet_directory::keeper::{Effect, Keeper, KeeperSettings, To};
use proptest::prelude::*;

const TTL_MS: u64 = 1_000;

/// The store's side of sessions, by the rules: requests are closed, then the clock is read, then one Tick
/// renews and ends.
#[derive(Default)]
struct Store {
    deadlines: BTreeMap<SessionId, u64>,
    attempts: BTreeMap<u32, SessionId>,
    waiting: Vec<Keepalive>,
    tick: u64,
}

impl Store {
    fn open(&mut self, attempt: u32, clock_ms: u64) -> SessionId {
        self.tick += 1;
        let id = *self.attempts.entry(attempt).or_insert(SessionId(self.tick));
        let lower: Vec<_> = self.attempts.range(..attempt).map(|(_, s)| *s).collect();
        for session in lower {
            self.deadlines.remove(&session);
        }
        if *self.attempts.last_key_value().expect("just added").0 == attempt {
            self.deadlines.entry(id).or_insert(clock_ms + TTL_MS);
        }
        id
    }

    fn tick(&mut self, clock_ms: u64) -> Vec<KeepaliveAnswer> {
        self.tick += 1;
        let closed = std::mem::take(&mut self.waiting);
        for k in closed.iter().filter(|k| k.number - k.heard <= 3) {
            if let Some(deadline) = self.deadlines.get_mut(&k.session) {
                *deadline = (*deadline).max(clock_ms + TTL_MS);
            }
        }
        self.deadlines.retain(|_, deadline| *deadline > clock_ms);
        let verdict = |k: &Keepalive| match self.deadlines.contains_key(&k.session) {
            false => Verdict::Dead,
            true if k.number - k.heard <= 3 => Verdict::Renewed,
            true => Verdict::NotRenewed,
        };
        closed
            .iter()
            .map(|k| KeepaliveAnswer {
                session: k.session,
                number: k.number,
                verdict: verdict(k),
                revision: Revision(0),
                ended: Some(Vec::new()),
                reserved_ms: 0,
                cluster_ms: 0,
            })
            .collect()
    }
}

#[derive(Clone, Debug)]
enum Message {
    Open(u32),
    Keepalive(Keepalive),
    Opened(u32, SessionId),
    Answer(KeepaliveAnswer),
}

/// How one message fares: copies, and how long each takes in ms of true time.
fn fate() -> impl Strategy<Value = Vec<u16>> {
    prop_oneof![
        6 => prop::collection::vec(0u16..40, 1..=1),
        1 => prop::collection::vec(0u16..1_500, 0..=3),
    ]
}

struct Run {
    net: Vec<(u64, Message)>,
    fates: Vec<Vec<u16>>,
    sent: usize,
}

impl Run {
    fn send(&mut self, now: u64, message: Message) {
        let fate = &self.fates[self.sent % self.fates.len()];
        self.sent += 1;
        self.net.extend(fate.iter().map(|delay| (now + u64::from(*delay) + 1, message.clone())));
    }
    fn due(&mut self, now: u64) -> Vec<Message> {
        let (due, later) = std::mem::take(&mut self.net).into_iter().partition(|(at, _)| *at <= now);
        self.net = later;
        let due: Vec<(u64, Message)> = due;
        due.into_iter().map(|(_, m)| m).collect()
    }
}

struct Believer {
    lease: Option<SessionLease>,
    ready: bool,
}

impl Believer {
    fn take(&mut self, effects: Vec<Effect>, now: u64, run: &mut Run) {
        for effect in effects {
            match effect {
                Effect::Open { attempt } => run.send(now, Message::Open(attempt)),
                Effect::Send { to, keepalive } => {
                    let copies = if to == To::All { 3 } else { 1 };
                    (0..copies).for_each(|_| run.send(now, Message::Keepalive(keepalive.clone())));
                }
                Effect::Opened { session, ttl, .. } => {
                    (self.lease, self.ready) = (Some(SessionLease::opened(session, ttl)), false);
                }
                Effect::Renewed { sent, .. } => self.lease.as_ref().expect("opened").renewed(sent),
                Effect::Ready { .. } => self.ready = true,
                Effect::Ended { .. } => self.lease = None,
                Effect::Frozen { .. } | Effect::Thawed { .. } | Effect::EndedElsewhere { .. } => {}
                Effect::Resync | Effect::Alarm(_) => {}
            }
        }
    }
}

/// Plays 8 s of true time; returns how many ms the holder was valid, and checks every one.
fn play(
    holder_rate: f64,
    store_rate: f64,
    pauses: &[(u64, u64)],
    fates: Vec<Vec<u16>>,
) -> Result<u64, TestCaseError> {
    let mut keeper = Keeper::new(KeeperSettings { ttl: std::time::Duration::from_millis(TTL_MS) });
    let mut run = Run { net: Vec::new(), fates, sent: 0 };
    let (mut store, mut holder) = (Store::default(), Believer { lease: None, ready: false });
    let mut served = 0;
    for now in 0..8_000u64 {
        let own = BootTime((now as f64 * holder_rate * 1e6) as u64 + 5_000_000_000);
        let cluster_ms = (now as f64 * store_rate) as u64;
        let paused = pauses.iter().any(|(at, long)| (*at..at + long).contains(&now));
        for message in run.due(now) {
            match message {
                Message::Open(attempt) => {
                    let id = store.open(attempt, cluster_ms);
                    run.send(now, Message::Opened(attempt, id));
                }
                Message::Keepalive(k) => store.waiting.push(k),
                Message::Opened(attempt, session) if !paused => {
                    let ttl = std::time::Duration::from_millis(TTL_MS);
                    let effects = keeper.opened(own, attempt, &OpenedSession { session, ttl, worker: None });
                    holder.take(effects, now, &mut run);
                }
                Message::Answer(answer) if !paused => {
                    let effects = keeper.answered(own, 0, &answer);
                    holder.take(effects, now, &mut run);
                }
                later @ (Message::Opened(..) | Message::Answer(_)) => run.net.push((now + 1, later)),
            }
        }
        if !paused && keeper.next_wake() <= own {
            let effects = keeper.step(own);
            holder.take(effects, now, &mut run);
        }
        if now % 25 == 0 {
            store.tick(cluster_ms).into_iter().for_each(|a| run.send(now, Message::Answer(a)));
        }
        // Valid is what the lease object says at this very moment: also in a pause, when no code ran.
        if let Some(lease) = holder.lease.as_ref().filter(|l| l.valid_at(own)) {
            prop_assert!(holder.ready, "valid before the first renewal (R7)");
            let alive = store.deadlines.get(&lease.id()).is_some_and(|d| *d > cluster_ms);
            prop_assert!(alive, "at {now} ms {} is believed in, and the store may have ended it", lease.id());
            served += 1;
        }
    }
    Ok(served)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn r9_a_holder_never_outlives_its_session_in_the_store(
        holder in 0.9f64..1.1, store in 0.9f64..1.1,
        pauses in prop::collection::vec((500u64..7_000, 1u64..2_500), 0..3),
        fates in prop::collection::vec(fate(), 40..80),
    ) {
        play(holder, store, &pauses, fates)?;
    }
}

/// Without faults the model serves nearly all the time: the property above is not true of a keeper that
/// never serves.
#[test]
fn the_model_serves_when_nothing_is_wrong() {
    let served = play(1.0, 1.0, &[], vec![vec![3]]).expect("safe");
    assert!(served > 7_800, "{served} of 8000 ms");
    let slow = play(0.9, 1.1, &[], vec![vec![3]]).expect("safe");
    assert!(slow > 7_800, "{slow} of 8000 ms");
}
