//! Which shards should change hands: decisions for apply to check once more (R8), made with
//! `placement`'s sticky plans (R27).
//!
//! The planner reads the machine and remembers only what a row cannot say: since when a revoke is under
//! way, and which owners have refused one. A new leader starts with an empty memory; that costs time,
//! never safety.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use millet_core::{BootTime, Grant, NodeId, SessionId, ShardId, limits, model::ShardState};
use millet_placement::{Move, Ring, join, place, rebalance};

use crate::machine::{Decision, Machine, Session, ShardSet, TypeEntry};

/// How long after the revoke bound a revoke counts as stuck: its owner answers within the bound, and its
/// answer takes a commit.
const STUCK_AFTER: Duration = Duration::from_secs(2);
/// How long a shard whose owner kept it is left alone.
const LEAVE_ALONE: Duration = Duration::from_secs(30);
/// The same where the owner is leaving: it should be asked again while it still drains.
const LEAVE_ALONE_LEAVING: Duration = Duration::from_secs(2);
/// How often shards are evened out between old members (R27: a separate, rate-limited act).
const EVEN_OUT_EVERY: Duration = Duration::from_secs(10);
/// Shards of a type that one evening out moves.
const EVEN_OUT_SHARDS: usize = 2;

type ShardKey = (u64, ShardId);

/// Makes decisions for one leadership.
#[derive(Clone, Debug, Default)]
pub struct Planner {
    revoking: BTreeMap<ShardKey, (Grant, BootTime)>,
    left_alone: BTreeMap<ShardKey, BootTime>,
    evened: Option<BootTime>,
    /// Sessions that have not had their share of a type yet: only to them shards move at once.
    joining: BTreeSet<(u64, SessionId)>,
    /// The ring last used: most types have the same nodes, and nodes change rarely.
    ring: Arc<Ring>,
}

/// The sessions that may be chosen for a type: one per node, the newest.
struct Chosen {
    ring: Arc<Ring>,
    sessions: BTreeMap<NodeId, SessionId>,
}

impl Chosen {
    /// A node that must wait is passed over while others are there: where all of them crashed again and
    /// again, waiting would only leave shards without an owner. What it holds by then, it keeps.
    fn of(machine: &Machine, ty: u64, entry: &TypeEntry, last: &mut Arc<Ring>) -> Self {
        let fits = |s: &&Session| s.may_be_chosen() && machine.is_eligible(s, ty);
        let all: BTreeMap<_, _> = machine.sessions().filter(fits).map(|s| (s.node.id, s.id)).collect();
        let holds = |session| {
            entry.shards().iter().any(|row| row.holder().is_some_and(|(holder, _)| holder == session))
        };
        let mut sessions = all.clone();
        sessions.retain(|node, session| !machine.must_wait(*node) || holds(*session));
        if sessions.is_empty() {
            sessions = all;
        }
        let nodes: Vec<_> = sessions.keys().copied().collect();
        if last.nodes() != nodes {
            *last = Arc::new(Ring::new(&nodes));
        }
        Self { ring: last.clone(), sessions }
    }
    fn is(&self, session: SessionId) -> bool {
        self.sessions.values().any(|s| *s == session)
    }
}

/// Where a shard is going to be, as far as decided: by it the plans count.
fn headed_for(machine: &Machine, chosen: &Chosen, state: ShardState) -> Option<NodeId> {
    let living = |session| machine.session(session);
    let (session, _) = state.holder()?;
    let owner = living(session)?;
    let towards = match state {
        ShardState::Revoking { to, .. } if chosen.is(to) => living(to)?,
        ShardState::Revoking { .. } | ShardState::Assigned { .. } | ShardState::Free => owner,
    };
    // Not with a node's older session, a draining or a waiting one: it has to go elsewhere.
    chosen.is(towards.id).then_some(towards.node.id)
}

impl Planner {
    /// A planner that remembers nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// What to propose now, as `Command::ShardDecisions`; empty if all is well. `machine` is the leader's,
    /// with the first entry of its leadership applied. To be asked after every change of members or
    /// shards, and about once a second.
    pub fn plan(&mut self, machine: &Machine, now: BootTime) -> Vec<Decision> {
        self.remember(machine, now);
        // A new leader waits one period too: others may have evened out just before.
        let evens_out = now.since(*self.evened.get_or_insert(now)) >= EVEN_OUT_EVERY;
        let mut decisions = Vec::new();
        let mut elsewhere = shards_per_node(machine);
        for (ty, entry) in machine.types() {
            if entry.is_blocked() || entry.shards().is_empty() {
                continue;
            }
            let before = decisions.len();
            let mut plan = TypePlan::new(machine, ty, entry, now, self);
            plan.undo(&mut decisions);
            plan.place(&mut decisions, &elsewhere);
            for decision in &decisions[before..] {
                if let ShardSet::Assign { to } | ShardSet::Revoke { to } = decision.set
                    && let Some(session) = machine.session(to)
                {
                    *elsewhere.entry(session.node.id).or_default() += 1;
                }
            }
            plan.join(&mut decisions);
            if evens_out && decisions.len() == before && plan.even_out(&mut decisions) {
                self.evened = Some(now);
            }
            if decisions.len() >= limits::DECISIONS {
                decisions.truncate(limits::DECISIONS);
                break;
            }
        }
        decisions
    }

    /// Notes since when revokes are under way, and which have been taken back or refused.
    fn remember(&mut self, machine: &Machine, now: BootTime) {
        let mut under_way = BTreeMap::new();
        for (ty, entry) in machine.types() {
            for (state, n) in entry.shards().iter().zip(0..) {
                let key = (ty, ShardId(n));
                match *state {
                    ShardState::Revoking { grant, .. } => {
                        let since =
                            self.revoking.get(&key).filter(|(g, _)| *g == grant).map_or(now, |(_, at)| *at);
                        under_way.insert(key, (grant, since));
                    }
                    ShardState::Assigned { session, grant } => {
                        if self.revoking.get(&key).is_some_and(|(g, _)| *g == grant) {
                            let stays = machine.session(session).is_some_and(Session::may_be_chosen);
                            let wait = if stays { LEAVE_ALONE } else { LEAVE_ALONE_LEAVING };
                            self.left_alone.insert(key, now.after(wait));
                        }
                    }
                    ShardState::Free => {}
                }
            }
        }
        self.revoking = under_way;
        self.left_alone.retain(|_, until| now < *until);
        self.joining.retain(|(_, session)| machine.session(*session).is_some());
    }
}

/// Shards of all types that each node has, by its living sessions.
fn shards_per_node(machine: &Machine) -> BTreeMap<NodeId, usize> {
    let mut counts = BTreeMap::new();
    for (_, entry) in machine.types() {
        for (session, _) in entry.shards().iter().filter_map(ShardState::holder) {
            if let Some(session) = machine.session(session) {
                *counts.entry(session.node.id).or_default() += 1;
            }
        }
    }
    counts
}

/// One type's share of a plan.
struct TypePlan<'a> {
    machine: &'a Machine,
    ty: u64,
    entry: &'a TypeEntry,
    now: BootTime,
    planner: &'a mut Planner,
    chosen: Chosen,
    /// Where every shard is going to be; kept up to date with what is decided here.
    table: Vec<Option<NodeId>>,
    /// Shards decided on in this plan.
    decided: BTreeSet<ShardId>,
    revokes: usize,
}

impl<'a> TypePlan<'a> {
    fn new(
        machine: &'a Machine,
        ty: u64,
        entry: &'a TypeEntry,
        now: BootTime,
        planner: &'a mut Planner,
    ) -> Self {
        let chosen = Chosen::of(machine, ty, entry, &mut planner.ring);
        let table = entry.shards().iter().map(|state| headed_for(machine, &chosen, *state)).collect();
        let revokes = planner.revoking.range((ty, ShardId(0))..=(ty, ShardId(u32::MAX))).count();
        Self { machine, ty, entry, now, planner, chosen, table, decided: BTreeSet::new(), revokes }
    }

    fn decide(&mut self, decisions: &mut Vec<Decision>, shard: ShardId, set: ShardSet) {
        let expect = self.entry.shards()[shard.0 as usize];
        let generation = self.entry.row().generation;
        decisions.push(Decision { ty: self.ty, generation, shard, expect, set });
        self.decided.insert(shard);
    }

    fn living_owner(&self, state: ShardState) -> Option<SessionId> {
        state.holder().and_then(|(session, _)| self.machine.session(session)).map(|s| s.id)
    }

    /// Takes back revokes that are stuck, and those whose receiver is gone while the owner may keep the
    /// shard.
    fn undo(&mut self, decisions: &mut Vec<Decision>) {
        for (state, n) in self.entry.shards().iter().zip(0..) {
            let (shard, key) = (ShardId(n), (self.ty, ShardId(n)));
            let ShardState::Revoking { session, to, .. } = *state else { continue };
            let Some(owner) = self.machine.session(session) else { continue };
            let since = self.planner.revoking.get(&key).map_or(self.now, |(_, at)| *at);
            let is_stuck = self.now.since(since) > limits::REVOKE_BOUND + STUCK_AFTER;
            let is_pointless = !self.chosen.is(to) && self.chosen.is(session);
            if is_stuck || is_pointless {
                self.table[n as usize] = Some(owner.node.id);
                self.decide(decisions, shard, ShardSet::Cancel);
            }
        }
    }

    /// Assigns what nobody living holds, and asks back what lies with sessions that are leaving.
    fn place(&mut self, decisions: &mut Vec<Decision>, elsewhere: &BTreeMap<NodeId, usize>) {
        for placement in place(&self.chosen.ring, self.ty, &self.table, elsewhere) {
            let shard = placement.shard;
            if self.decided.contains(&shard) {
                continue;
            }
            let to = self.chosen.sessions[&placement.to];
            self.table[shard.0 as usize] = Some(placement.to);
            let state = self.entry.shards()[shard.0 as usize];
            if self.living_owner(state).is_none() {
                self.decide(decisions, shard, ShardSet::Assign { to });
            } else if !self.planner.left_alone.contains_key(&(self.ty, shard)) && self.has_revokes_left() {
                self.revokes += 1;
                self.decide(decisions, shard, ShardSet::Revoke { to });
            }
        }
    }

    fn has_revokes_left(&self) -> bool {
        self.revokes < limits::REVOKING_PER_TYPE
    }

    /// Moves its share to every joiner, and nothing to anybody else (R27).
    fn join(&mut self, decisions: &mut Vec<Decision>) {
        let share = self.table.len() / self.chosen.ring.nodes().len().max(1);
        for (node, session) in self.chosen.sessions.clone() {
            let has = self.table.iter().filter(|owner| **owner == Some(node)).count();
            if has >= share {
                self.planner.joining.remove(&(self.ty, session));
            } else if has == 0 || self.planner.joining.contains(&(self.ty, session)) {
                self.planner.joining.insert((self.ty, session));
                let plan = join(&self.chosen.ring, self.ty, &self.table, node, self.revokes_left());
                self.revoke(decisions, &plan);
            }
        }
    }

    fn revokes_left(&self) -> usize {
        limits::REVOKING_PER_TYPE.saturating_sub(self.revokes)
    }

    fn even_out(&mut self, decisions: &mut Vec<Decision>) -> bool {
        let bound = EVEN_OUT_SHARDS.min(self.revokes_left());
        let plan = rebalance(&self.chosen.ring, self.ty, &self.table, bound);
        self.revoke(decisions, &plan);
        !plan.is_empty()
    }

    fn revoke(&mut self, decisions: &mut Vec<Decision>, plan: &[Move]) {
        for Move { shard, from, to } in plan {
            let (ty, state) = (self.ty, self.entry.shards()[shard.0 as usize]);
            let is_settled = match state {
                ShardState::Assigned { session, .. } => self.chosen.sessions.get(from) == Some(&session),
                ShardState::Revoking { .. } | ShardState::Free => false,
            };
            let is_left_alone = self.planner.left_alone.contains_key(&(ty, *shard));
            if is_settled && !is_left_alone && !self.decided.contains(shard) && self.has_revokes_left() {
                self.revokes += 1;
                self.table[shard.0 as usize] = Some(*to);
                let to = self.chosen.sessions[to];
                self.decide(decisions, *shard, ShardSet::Revoke { to });
            }
        }
    }
}
