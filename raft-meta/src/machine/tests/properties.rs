//! Random command sequences against what nodes believe: one living owner, grants that only rise,
//! the same result on every member.

use std::collections::BTreeMap;

use millet_core::model::{Change, SessionState};
use proptest::prelude::*;

use super::*;

/// Raw choices; what they mean depends on where the sequence has led.
#[derive(Clone, Debug)]
enum Step {
    Open { node: u64, again: bool },
    Tick { ms: u64, mask: u8 },
    Batch(Vec<(u8, u64, usize, usize)>),
    Decide(Vec<(u32, u8, usize, bool)>),
    Sweep(u32),
    TypeSet(u32),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (1u64..5, any::<bool>()).prop_map(|(node, again)| Step::Open { node, again }),
        4 => (0u64..2_500, any::<u8>()).prop_map(|(ms, mask)| Step::Tick { ms, mask }),
        8 => prop::collection::vec((0u8..8, 0u64..3, 0usize..8, 0usize..8), 1..6).prop_map(Step::Batch),
        4 => prop::collection::vec((0u32..3, 0u8..3, 0usize..8, any::<bool>()), 1..4).prop_map(Step::Decide),
        1 => (0u32..5).prop_map(Step::Sweep),
        1 => (2u32..4).prop_map(Step::TypeSet),
    ]
}

/// What nodes believe they hold: granted to them, not given up, and their session not ended.
#[derive(Default)]
struct Beliefs {
    held: BTreeMap<Owned, (SessionId, Grant)>,
    highest: BTreeMap<Owned, Grant>,
    sessions: Vec<SessionId>,
    grants: Vec<Grant>,
}

impl Beliefs {
    fn granted(&mut self, machine: &Machine, owned: Owned, to: (SessionId, Grant)) {
        if self.held.get(&owned) == Some(&to) {
            return;
        }
        if let Some((session, grant)) = self.held.get(&owned) {
            assert!(machine.is_ended(*session), "{owned:?}: {to:?} while {session} lives under {grant}");
        }
        let highest = self.highest.insert(owned, to.1);
        assert!(highest.is_none_or(|h| h < to.1), "{owned:?}: grant {} after {highest:?}", to.1);
        self.held.insert(owned, to);
        self.grants.push(to.1);
    }
    fn given_up(&mut self, owned: Owned, by: (SessionId, Grant)) {
        if self.held.get(&owned) == Some(&by) {
            self.held.remove(&owned);
        }
    }
    fn session(&self, n: usize) -> SessionId {
        // Mostly recent ones.
        self.sessions.iter().rev().nth(n).copied().unwrap_or(SessionId(1))
    }
    fn grant_of(&self, owned: Owned, n: usize) -> Grant {
        match self.held.get(&owned) {
            Some((_, grant)) if n != 0 => *grant,
            _ => self.grants.iter().rev().nth(n).copied().unwrap_or_default(),
        }
    }
}

fn small() -> Vec<TypeDecl> {
    vec![decl("Player", Ownership::Leased), decl("Rank", Ownership::Sharded { shards: 3 })]
}

fn make_op(beliefs: &Beliefs, raw: (u8, u64, usize, usize)) -> Op {
    let (kind, n, s, other) = raw;
    let (session, to) = (beliefs.session(s), beliefs.session(other));
    let shard = ShardId(u32::try_from(n).unwrap());
    let (lease, owned) = (Owned::Grain(key(n)), Owned::Shard(ty("Rank"), shard));
    let holder = |o: Owned| beliefs.held.get(&o).map_or(session, |(holder, _)| *holder);
    match kind {
        0..=2 => acquire(n, session),
        3 => release(n, holder(lease), beliefs.grant_of(lease, other)),
        4 => move_to(n, holder(lease), beliefs.grant_of(lease, other), to),
        5 => Op::AckShard {
            ty: ty("Rank"),
            shard,
            session: holder(owned),
            grant: beliefs.grant_of(owned, other),
            given_up: s % 4 != 0,
        },
        6 => Op::Drain { session },
        _ if s == 0 => Op::Close { session },
        _ => acquire(n, to),
    }
}

fn make(rig: &Rig, beliefs: &Beliefs, step: Step) -> Command {
    match step {
        Step::Open { node: id, again } => {
            let attempt = if again { 1 } else { u32::try_from(rig.index).unwrap() };
            Command::OpenSession(Open {
                incarnation: id.into(),
                attempt,
                node: node(id, small()),
                ttl_ms: TTL,
            })
        }
        Step::Tick { ms, mask } => {
            let heard = beliefs.sessions.iter().rev().take(8).enumerate();
            let heard = heard.filter(|(n, _)| mask & (1 << n) != 0).map(|(_, session)| *session);
            let renewed =
                heard.map(|session| Renewed { session, number: 1, reserve_ms: ms, load: 0 }).collect();
            Command::Tick(Tick { time_ms: rig.machine.time_ms() + ms, wall_ms: 0, renewed })
        }
        Step::Batch(raw) => Command::Batch(raw.into_iter().map(|r| make_op(beliefs, r)).collect()),
        Step::Decide(raw) => {
            let decisions = raw.into_iter().filter_map(|(shard, set, to, stale)| {
                let to = beliefs.session(to);
                let set = match set {
                    0 => ShardSet::Assign { to },
                    1 => ShardSet::Revoke { to },
                    _ => ShardSet::Cancel,
                };
                let entry = rig.machine.type_entry(ty("Rank"))?;
                let row = *entry.shards().get(shard as usize)?;
                let expect = if stale { ShardState::Free } else { row };
                let generation = entry.row().generation;
                Some(Decision { ty: ty("Rank"), generation, shard: ShardId(shard), expect, set })
            });
            Command::ShardDecisions(decisions.collect())
        }
        Step::Sweep(rows) => Command::Sweep { rows },
        Step::TypeSet(shards) => {
            Command::TypeSet { ty: GrainType::new("Rank").unwrap(), ownership: Ownership::Sharded { shards } }
        }
    }
}

/// What nodes give up by sending it, before anything of the entry is applied (R1).
fn send(beliefs: &mut Beliefs, command: &Command) {
    let Command::Batch(ops) = command else { return };
    for op in ops {
        match *op {
            Op::Release { key, session, grant, .. } | Op::Move { key, session, grant, .. } => {
                beliefs.given_up(Owned::Grain(key), (session, grant));
            }
            Op::AckShard { ty, shard, session, grant, given_up: true } => {
                beliefs.given_up(Owned::Shard(ty, shard), (session, grant));
            }
            Op::Acquire { .. } | Op::AckShard { .. } | Op::Drain { .. } | Op::Close { .. } => {}
        }
    }
}

/// What nodes learn from results and watch events.
fn learn(
    beliefs: &mut Beliefs,
    machine: &Machine,
    command: &Command,
    reply: &Reply,
    event: Option<&WatchEvent>,
) {
    match (command, reply) {
        (Command::OpenSession(_), Reply::Opened(opened)) => beliefs.sessions.push(opened.session),
        (Command::Batch(ops), Reply::Batch(results)) => {
            for (op, result) in ops.iter().zip(results) {
                let to = match *op {
                    Op::Acquire { key, session, .. } => Some((key, session)),
                    Op::Move { key, to, .. } => Some((key, to)),
                    _ => None,
                };
                // A grant that was given up later in the same entry is an echo of the past.
                if let (Some((key, to)), OpResult::Granted { grant, .. }) = (to, result)
                    && machine.holder(key).is_some_and(|h| (h.session, h.grant) == (to, *grant))
                {
                    beliefs.granted(machine, Owned::Grain(key), (to, *grant));
                }
            }
        }
        _ => {}
    }
    for change in event.iter().flat_map(|e| &e.changes) {
        if let Change::Shard { ty, shard, state: ShardState::Assigned { session, grant } } = change
            && grant.index == machine.revision().0
        {
            beliefs.granted(machine, Owned::Shard(ty.id(), *shard), (*session, *grant));
        }
    }
}

fn check(machine: &Machine, beliefs: &Beliefs) {
    for (owned, (session, grant)) in &beliefs.held {
        if machine.is_ended(*session) {
            continue;
        }
        let state = machine.session(*session).unwrap().state;
        assert!(
            matches!(state, SessionState::Alive | SessionState::Draining),
            "{session} holds while {state:?}"
        );
        if let Owned::Grain(key) = owned {
            let holder = machine.holder(*key).expect("what a living session holds has a row");
            assert_eq!((holder.session, holder.grant), (*session, *grant));
        }
    }
    let dead = machine.state.leases.iter().filter(|(_, row, _)| machine.is_ended(row.session())).count();
    assert_eq!(machine.dead_rows(), dead as u64, "the count of dead rows is exact");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// No sequence gives a grain or shard a second living owner or a grant that does not rise.
    #[test]
    fn one_living_owner_and_rising_grants(steps in prop::collection::vec(step(), 1..80)) {
        let (mut rig, mut beliefs) = (Rig::new(), Beliefs::default());
        for step in steps {
            let command = make(&rig, &beliefs, step);
            send(&mut beliefs, &command);
            let (reply, event) = rig.run_for_event(command.clone());
            learn(&mut beliefs, &rig.machine, &command, &reply, event.as_deref());
            check(&rig.machine, &beliefs);
        }
    }

    /// Two members that apply the same entries, one of them restored from a snapshot half-way, agree.
    #[test]
    fn apply_is_deterministic_also_through_a_snapshot(steps in prop::collection::vec(step(), 1..60), at in 0usize..60) {
        let (mut rig, mut beliefs) = (Rig::new(), Beliefs::default());
        let mut twin = rig.clone();
        for (n, step) in steps.into_iter().enumerate() {
            if n == at {
                let mut bytes = Vec::new();
                twin.machine.write_to(&mut bytes).unwrap();
                twin.machine = Machine::read_from(&mut bytes.as_slice()).unwrap();
            }
            let command = make(&rig, &beliefs, step);
            let (reply, event) = rig.run_for_event(command.clone());
            prop_assert_eq!(twin.run_for_event(command.clone()), (reply.clone(), event.clone()));
            prop_assert_eq!(twin.machine.state_hash(), rig.machine.state_hash());
            send(&mut beliefs, &command);
            learn(&mut beliefs, &rig.machine, &command, &reply, event.as_deref());
        }
        prop_assert_eq!(twin.machine, rig.machine);
    }

    /// A watcher that applies events to the view it was given sees what a new view shows.
    #[test]
    fn r17_view_plus_events_is_the_new_view(steps in prop::collection::vec(step(), 1..60), at in 0usize..60) {
        let (mut rig, mut beliefs) = (Rig::new(), Beliefs::default());
        let mut from = rig.machine.view();
        for (n, step) in steps.into_iter().enumerate() {
            if n == at { from = rig.machine.view() }
            let command = make(&rig, &beliefs, step);
            let (reply, event) = rig.run_for_event(command.clone());
            send(&mut beliefs, &command);
            learn(&mut beliefs, &rig.machine, &command, &reply, event.as_deref());
        }
        let events = rig.machine.events_since(from.revision).unwrap();
        prop_assert_eq!(follow(from, &events), shape(rig.machine.view()));
    }
}

type Shape =
    (Vec<millet_core::model::SessionInfo>, Vec<millet_core::model::TypeRow>, Vec<(u64, ShardId, ShardState)>);

fn shape(mut view: ViewSnapshot) -> Shape {
    view.sessions.sort_by_key(|s| s.id);
    view.types.sort_by_key(|t| t.ty.id());
    let mut shards: Vec<_> =
        view.shards.into_iter().map(|(ty, shard, state)| (ty.id(), shard, state)).collect();
    shards.sort_by_key(|(ty, shard, _)| (*ty, *shard));
    (view.sessions, view.types, shards)
}

fn follow(from: ViewSnapshot, events: &[Arc<WatchEvent>]) -> Shape {
    let mut sessions: BTreeMap<_, _> = from.sessions.into_iter().map(|s| (s.id, s)).collect();
    let mut types: BTreeMap<_, _> = from.types.into_iter().map(|t| (t.ty.id(), t)).collect();
    let mut shards: BTreeMap<_, _> = from.shards.into_iter().map(|(t, n, s)| ((t.id(), n), s)).collect();
    for change in events.iter().flat_map(|e| e.changes.clone()) {
        match change {
            Change::Session(info) => drop(sessions.insert(info.id, info)),
            Change::Ended(id) => drop(sessions.remove(&id)),
            Change::Type(row) => {
                // A new generation starts with an empty table.
                shards.retain(|(ty, _), _| *ty != row.ty.id());
                types.insert(row.ty.id(), row);
            }
            Change::Shard { ty, shard, state } => drop(shards.insert((ty.id(), shard), state)),
        }
    }
    shards.retain(|_, state| state.holder().is_some_and(|(session, _)| sessions.contains_key(&session)));
    let shards = shards.into_iter().map(|((ty, shard), state)| (ty, shard, state)).collect();
    (sessions.into_values().collect(), types.into_values().collect(), shards)
}
