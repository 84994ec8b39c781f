//! Sessions in time, over the product's `Keeper`, `SessionLease`, `LeaderClock`, `Renewals` and `Machine`
//! (R4, R6, R7, R9, R21, R22; the promise that the untimed models rest on).
//!
//! Real time goes in steps; every machine has a clock of its own, at its own rate. Within a step things
//! happen in any order, but that nodes, which do not meet, act in the order of their numbers, and that
//! links are cut and machines stop and go on at its beginning. A step ends when everybody has done what is due, but for what a fault holds up:
//! a cut link, a delayed message, a leader or a node that stands still. Raft is abstracted to one order
//! of entries and to leaders that change; an old leader's last Tick may still be committed.

mod leader;
mod node;
mod step;

use std::hash::{Hash, Hasher};

use millet_core::{BootTime, Grant, SessionId};
use millet_raft_meta::machine::Tick;
use stateright::{Model, Property};

use crate::meta::Meta;
pub use leader::Leader;
pub use node::{Cut, Node};

/// Bounds and faults of one run.
#[derive(Clone, Copy, Debug)]
pub struct Timed {
    /// Nodes. All want the one grain.
    pub nodes: usize,
    /// One step of real time, milliseconds. A Tick is due every step.
    pub step_ms: u64,
    /// Wished time to live, milliseconds.
    pub ttl_ms: u64,
    /// Steps in all.
    pub horizon: u64,
    /// Whether things within a step happen in any order; if not, messages first, then nodes, then the leader.
    pub races: bool,
    /// Messages in flight.
    pub in_flight: usize,
    /// Rates of clocks in thousandths, lowest and highest: every combination is a start.
    pub rates: &'static [u64],
    /// Cuts of node 0 from the leader.
    pub cuts: u8,
    /// Which way they cut.
    pub kinds: &'static [Cut],
    /// Whether they heal.
    pub heals: bool,
    /// Message-steps that the network holds messages up.
    pub delays: u8,
    /// Messages delivered twice.
    pub dups: u8,
    /// Times that a leader stands still.
    pub stalls: u8,
    /// Times that a node stands still; its clock counts it.
    pub pauses: u8,
    /// Changes of leader.
    pub elections: u8,
    /// Crashes of nodes.
    pub crashes: u8,
    /// A session may stay alive for so many steps after its holder last heard an answer (R22).
    pub deaf_limit: u64,
}

/// What must never happen; the first that did ends the run.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Harm {
    /// A node dropped what it ran although its session had not ended.
    DroppedAlive,
    /// A Tick ended a session whose keepalive lay at the leader, unread.
    NeedlessEnd,
    /// A frozen node went on under a session that has ended.
    ThawedDead,
}

/// A message on its way: `sent` is the step.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[allow(missing_docs)]
pub enum Message {
    Open { node: usize, start: u32, attempt: u32 },
    Opened { node: usize, start: u32, attempt: u32, session: SessionId },
    Keepalive { node: usize, session: SessionId, number: u64, heard: u64, sent: u64 },
    Answer { node: usize, session: SessionId, number: u64, verdict: u8, cluster_ms: u64 },
}

/// What is used up of the bounds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[allow(missing_docs)]
pub struct Spent {
    pub cuts: u8,
    pub delays: u8,
    pub dups: u8,
    pub stalls: u8,
    pub pauses: u8,
    pub elections: u8,
    pub crashes: u8,
}

/// Everything at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct State {
    /// Real time, in steps.
    now: u64,
    /// Nothing has happened in this step.
    fresh: bool,
    meta: Meta,
    nodes: Vec<Node>,
    leader: Leader,
    /// The last Tick of a leader that is none any more: committed later or never.
    old_tick: Option<Tick>,
    net: Vec<Message>,
    spent: Spent,
    harm: Option<Harm>,
}

impl Hash for State {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.now, self.fresh, &self.meta, &self.nodes, &self.leader, &self.net).hash(state);
        (self.spent, self.harm).hash(state);
        if let Some(tick) = &self.old_tick {
            (tick.time_ms, tick.renewed.len()).hash(state);
            tick.renewed.iter().for_each(|r| (r.session, r.number).hash(state));
        }
    }
}

/// One thing that happens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Action {
    /// Time passes: one step.
    Pass,
    /// The node does what is due.
    Step(usize),
    Deliver {
        message: Message,
        keep: bool,
    },
    /// The leader asks its clock whether to propose.
    Turn,
    /// It closes the set and stamps it.
    Stamp,
    /// Its Tick is applied, and answered.
    Commit,
    CommitOld,
    /// The first entry of its leadership is applied.
    Establish,
    Elect,
    Stall,
    Wake,
    Pause(usize),
    Resume(usize),
    Cut(Cut),
    Crash(usize),
}

/// G1(b).
pub const OVERLAP: &str = "g1b: leases of a grain never overlap";
/// G1(b): what the untimed models rest on.
pub const OUTLIVES: &str = "g1b: no holder outlives its session";
/// R4, G4.
pub const DROPPED: &str = "g4: only the end of its session drops what a node runs";
/// R21, G4.
pub const NEEDLESS: &str = "g4: no session ends while its keepalive lies at the leader";
/// R22, G3.
pub const DEAF: &str = "g3: a session that its holder cannot use ends";
/// R4.
pub const THAWED: &str = "r4: nothing goes on under a session that has ended";

impl Model for Timed {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut starts = Vec::new();
        for node in self.rates {
            for leader in self.rates {
                starts.push(State {
                    now: 0,
                    fresh: true,
                    meta: Meta::default(),
                    nodes: (0..self.nodes).map(|n| Node::new(n, *node, self)).collect(),
                    leader: Leader::first(*leader, self),
                    old_tick: None,
                    net: Vec::new(),
                    spent: Spent::default(),
                    harm: None,
                });
            }
        }
        starts
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.harm.is_none() {
            if state.fresh {
                self.faults(state, actions);
            }
            self.faults_between(state, actions);
            self.due(state, actions);
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        next.take(self, action);
        (0..self.nodes).for_each(|n| next.acquire(self, n));
        next.net.sort_unstable();
        (next != *state).then_some(next)
    }

    fn within_boundary(&self, state: &State) -> bool {
        state.now <= self.horizon && state.net.len() <= self.in_flight
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut all = vec![
            Property::always(OVERLAP, |m, s: &State| {
                s.nodes.iter().filter(|n| n.serves(m, s.now)).count() <= 1
            }),
            Property::always(OUTLIVES, |m, s: &State| {
                s.nodes
                    .iter()
                    .all(|n| n.valid(m, s.now).is_none_or(|id| s.meta.machine.session(id).is_some()))
            }),
            Property::always(DROPPED, |_, s: &State| s.harm != Some(Harm::DroppedAlive)),
            Property::always(NEEDLESS, |_, s: &State| s.harm != Some(Harm::NeedlessEnd)),
            Property::always(THAWED, |_, s: &State| s.harm != Some(Harm::ThawedDead)),
            Property::always(DEAF, |m, s: &State| s.nodes.iter().all(|n| n.is_heard_or_over(m, s))),
            Property::sometimes("a grant is used", |m, s: &State| s.nodes[0].serves(m, s.now)),
        ];
        if self.heals && self.horizon * self.step_ms > 2 * self.ttl_ms {
            all.push(Property::sometimes("a grain thaws with its memory", |m, s: &State| {
                s.nodes[0].thawed_with_grain && s.nodes[0].serves(m, s.now)
            }));
        }
        if self.nodes > 1 && self.cuts > 0 && self.horizon * self.step_ms > 2 * self.ttl_ms {
            all.push(Property::sometimes("a grain fails over", |m, s: &State| {
                s.nodes[1].serves(m, s.now) && s.nodes[0].has_served
            }));
        }
        all
    }
}

/// The clock of a machine that runs at `rate` thousandths of real time.
fn clock(model: &Timed, start_ms: u64, rate: u64, now: u64) -> BootTime {
    BootTime((start_ms * 1_000 + now * model.step_ms * rate) * 1_000)
}

/// The grain as a node holds it.
pub type Held = (SessionId, Grant);
