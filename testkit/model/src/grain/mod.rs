//! Grain leases and the store, without time: two nodes and one grain over the product's `Machine`,
//! `LeaseBook`, `SessionLease` and store tables (R1, R2, R3, R12, R23, R24, the exit check).
//!
//! Time is abstracted to one promise: a session ends only when its holder is past its local deadline or
//! gone. That promise is what `session` and `rate` show. `node` mirrors what the runtime does around the
//! pure parts, `step` carries messages.

mod node;
mod step;

use millet_core::{Epoch, Grant, SessionId, memory_store::Tables};
use millet_directory::leases::AcquireId;
use stateright::{Model, Property};

use crate::{holder::Standing, meta::Meta};
pub use node::{Activation, Node, Slot, Stage};

/// Bounds and features of one run: the test's name states them.
#[derive(Clone, Copy, Debug)]
pub struct Grains {
    /// Nodes.
    pub nodes: usize,
    /// Messages in flight.
    pub in_flight: usize,
    /// Log entries, those of the start included.
    pub entries: u64,
    /// Acquires in all.
    pub claims: u8,
    /// Freezes in all.
    pub freezes: u8,
    /// Crashes in all.
    pub crashes: u8,
    /// Sessions opened after the start, in all.
    pub joins: u8,
    /// Messages delivered twice, in all.
    pub dups: u8,
    /// Messages lost, in all.
    pub losses: u8,
    /// Turns in all.
    pub turns: u8,
    /// Whether turns save.
    pub saves: Saves,
    /// Whether the leader packs several requests into one entry.
    pub batches: bool,
    /// Whether activations move with an image.
    pub moves: bool,
}

/// Whether turns save. Saves that travel are `store`'s.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Saves {
    /// They do not.
    No,
    /// At once.
    AtOnce,
}

/// What must never happen; the first that did ends the run.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Harm {
    /// An output left under a session that has ended in the log.
    LateOutput,
    /// A grant was not above all before it.
    GrantNotHigher,
    /// An activation began without a write that was acknowledged.
    LostWrite,
}

/// A message on its way.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[allow(missing_docs)]
pub enum Message {
    Acquire { node: usize, id: AcquireId, session: SessionId },
    Granted { node: usize, id: AcquireId, grant: Grant, previous: Option<Grant> },
    NotGranted { node: usize, id: AcquireId, retry: bool },
    Release { node: usize, session: SessionId, grant: Grant },
    Move { node: usize, session: SessionId, grant: Grant, to: SessionId },
    HandedBack { node: usize, session: SessionId },
    Close { session: SessionId },
    Image { to: usize, image: Image },
}

/// The memory of an activation that moves, stamped with its token and version (R23).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Image {
    /// The token it ran under.
    pub epoch: Epoch,
    /// The version it had loaded or saved last.
    pub version: u64,
    /// What it knew.
    pub memory: u8,
}

/// What is used up of the bounds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[allow(missing_docs)]
pub struct Spent {
    pub claims: u8,
    pub freezes: u8,
    pub thaws: u8,
    pub crashes: u8,
    pub joins: u8,
    pub dups: u8,
    pub losses: u8,
    pub turns: u8,
}

/// Everything at one moment.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct State {
    meta: Meta,
    nodes: Vec<Node>,
    /// Sorted: the network keeps no order.
    net: Vec<Message>,
    store: Tables,
    spent: Spent,
    /// The latest grant, and to whom.
    granted: Option<(Grant, SessionId)>,
    /// Whether the latest grant went to another session than the one before.
    changed_hands: bool,
    /// Version and content of the last accepted write.
    stored: (u64, u8),
    harm: Option<Harm>,
}

/// One thing that happens.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Action {
    /// The message is delivered; `keep`: a copy of it stays.
    Deliver {
        message: Message,
        keep: bool,
    },
    Lose(Message),
    /// The leader packs these into one entry, in this order.
    Batch(Vec<Message>),
    Claim(usize),
    /// The acquire is given up unanswered.
    Abandon(usize),
    Open(usize),
    StartTurn(usize),
    EndTurn(usize),
    Idle(usize),
    MoveTo {
        node: usize,
        to: usize,
    },
    /// An unanswered release is sent again.
    Resend(usize),
    Freeze(usize),
    Thaw(usize),
    EndSession(SessionId),
    HearDead(usize),
    Join(usize),
    Crash(usize),
    /// A launcher has seen the process die and says so (R18).
    LauncherCloses(usize),
}

impl Model for Grains {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut meta = Meta::default();
        let nodes = (0..self.nodes)
            .map(|n| {
                let mut node = Node::new(n);
                node.join(&mut meta);
                node
            })
            .collect();
        vec![State {
            meta,
            nodes,
            net: Vec::new(),
            store: Tables::default(),
            spent: Spent::default(),
            granted: None,
            changed_hands: false,
            stored: (0, 0),
            harm: None,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.harm.is_some() {
            return;
        }
        for (i, message) in state.net.iter().enumerate() {
            if i > 0 && state.net[i - 1] == *message {
                continue;
            }
            actions.push(Action::Deliver { message: *message, keep: false });
            if state.spent.dups < self.dups {
                actions.push(Action::Deliver { message: *message, keep: true });
            }
            if state.spent.losses < self.losses {
                actions.push(Action::Lose(*message));
            }
        }
        if self.batches {
            state.batches(actions);
        }
        (0..self.nodes).for_each(|n| self.node_actions(state, n, actions));
        let ends = state.meta.machine.sessions().map(|s| s.id).filter(|s| state.is_past_deadline(*s));
        actions.extend(ends.map(Action::EndSession));
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        next.take(self, action);
        next.net.sort_unstable();
        (next != *state).then_some(next)
    }

    fn within_boundary(&self, state: &State) -> bool {
        state.net.len() <= self.in_flight && state.meta.index <= self.entries
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut all = vec![
            Property::always(OVERLAP, |_, s: &State| {
                (0..s.nodes.len()).filter(|n| s.serves(*n)).count() <= 1
            }),
            Property::always(LATE_OUTPUT, |_, s: &State| s.harm != Some(Harm::LateOutput)),
            Property::always(BEHIND, |_, s: &State| !(0..s.nodes.len()).any(|n| s.is_behind(n))),
            Property::always(MONOTONE, |_, s: &State| s.harm != Some(Harm::GrantNotHigher)),
            Property::always(LOST_WRITE, |_, s: &State| s.harm != Some(Harm::LostWrite)),
            Property::always(DEAD_IS_FINAL, |_, s: &State| s.dead_is_final()),
            Property::sometimes("a grant is used", |_, s: &State| s.serves(0)),
            Property::sometimes("a grain goes from node to node", |_, s: &State| {
                s.changed_hands && s.serves(1)
            }),
        ];
        if self.freezes > 0 {
            all.push(Property::sometimes("an activation thaws with its memory", |_, s: &State| {
                s.spent.thaws > 0 && s.spent.joins == 0 && (0..s.nodes.len()).any(|n| s.serves(n))
            }));
            all.push(Property::sometimes("a grain fails over", |_, s: &State| {
                s.serves(1) && s.nodes[0].session().is_none_or(|id| s.meta.machine.is_ended(id))
            }));
        }
        if self.moves {
            all.push(Property::sometimes("an image is used", |_, s: &State| {
                s.nodes.iter().any(|n| n.activation().is_some_and(|a| a.from_image))
            }));
        }
        all
    }
}

/// G1(b).
pub const OVERLAP: &str = "g1b: leases never overlap";
/// G1(b).
pub const LATE_OUTPUT: &str = "g1b: no output of an ended lease leaves";
/// G1(a): what an activation knows is what is stored.
pub const BEHIND: &str = "g1a: no write lands behind a live activation";
/// R24.
pub const MONOTONE: &str = "r24: every grant is above all before it";
/// G2, R23.
pub const LOST_WRITE: &str = "r23: an acknowledged write stays in view";
/// R6.
pub const DEAD_IS_FINAL: &str = "r6: dead is final";

impl State {
    /// Whether a turn could start on `n` now.
    fn serves(&self, n: usize) -> bool {
        let node = &self.nodes[n];
        node.activation().is_some_and(|a| a.stage != Stage::Opening && node.standing(a) == Standing::Valid)
    }

    /// Whether an activation that serves knows less than the store.
    fn is_behind(&self, n: usize) -> bool {
        let act = self.nodes[n].activation();
        act.is_some_and(|a| a.stage == Stage::Idle && self.serves(n) && a.version != self.stored.0)
    }

    /// Whether its holder is past its local deadline, or gone.
    fn is_past_deadline(&self, session: SessionId) -> bool {
        let holder = self.nodes.iter().find(|n| n.session() == Some(session));
        holder.is_none_or(|n| n.frozen)
    }

    fn dead_is_final(&self) -> bool {
        let ended = |id: &SessionId| self.meta.machine.is_ended(*id);
        self.nodes.iter().filter(|n| n.heard_dead).all(|n| n.past.iter().all(ended))
    }
}
