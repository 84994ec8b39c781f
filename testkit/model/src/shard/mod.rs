//! Hand-over of one shard between two nodes, without time, over the product's `Machine`, `ShardBook`,
//! `View`, `SessionLease` and store tables (R1, R8, R17, G1b, G1c).
//!
//! The leader proposes any decision about the row as it was at any earlier time: a superset of what the
//! planner does. Watches reconnect to members that lag. `node` mirrors the directory around its parts.

mod node;

use millet_core::{
    Grant, Revision, SessionId, ShardId,
    memory_store::Tables,
    model::{ShardState, ViewSnapshot},
};
use millet_directory::meta::ShardAck;
use millet_raft_meta::machine::{Command, Decision, Op, ShardSet};
use stateright::{Model, Property};
use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use crate::meta::{Meta, sharded};
pub use node::Node;

/// The one shard.
pub const SHARD: ShardId = ShardId(0);

/// Bounds of one run.
#[derive(Clone, Copy, Debug)]
pub struct Shards {
    /// Decisions that the leader proposes, in all.
    pub decisions: u8,
    /// Messages in flight.
    pub in_flight: usize,
    /// Messages delivered twice, in all.
    pub dups: u8,
    /// Watches that begin anew at a member that lags, in all.
    pub lags: u8,
    /// Freezes in all; a frozen node's session may end.
    pub freezes: u8,
    /// Sessions opened after the start, in all.
    pub joins: u8,
    /// Whether turns run.
    pub work: bool,
}

/// A row in a form that sorts.
type Row = (u8, SessionId, Grant, SessionId);

/// A message on its way.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[allow(missing_docs)]
pub enum Message {
    Ack {
        session: SessionId,
        grant: Grant,
        given_up: bool,
    },
    /// `to`: revoke or assign; `None`: cancel.
    Decide {
        expect: Row,
        to: Option<SessionId>,
    },
}

/// A view that some member has, or had.
#[derive(Clone, Debug)]
pub struct Past {
    revision: Revision,
    /// Of what the models see of it.
    hash: u64,
    view: Arc<ViewSnapshot>,
}

impl Past {
    fn of(view: ViewSnapshot) -> Self {
        let mut hasher = DefaultHasher::new();
        view.sessions.iter().for_each(|s| (s.id, s.state).hash(&mut hasher));
        view.shards.iter().for_each(|(_, _, row)| row.hash(&mut hasher));
        Self { revision: view.revision, hash: hasher.finish(), view: Arc::new(view) }
    }
}
impl PartialEq for Past {
    fn eq(&self, other: &Self) -> bool {
        (self.revision, self.hash) == (other.revision, other.hash)
    }
}
impl Eq for Past {}
impl Hash for Past {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.revision, self.hash).hash(state);
    }
}

/// What is used up of the bounds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
struct Spent {
    decisions: u8,
    dups: u8,
    lags: u8,
    freezes: u8,
    joins: u8,
}

/// Everything at one moment.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct State {
    meta: Meta,
    /// Every view that a watch may still tell of.
    past: Vec<Past>,
    nodes: Vec<Node>,
    net: Vec<Message>,
    store: Tables,
    spent: Spent,
    /// The highest grant of the shard so far.
    highest: Grant,
    not_higher: bool,
}

/// One thing that happens.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Action {
    Deliver {
        message: Message,
        keep: bool,
    },
    Propose(Message),
    /// The next event of the watch.
    Event(usize),
    /// The watch begins anew, with the view of this revision.
    Resync {
        node: usize,
        revision: Revision,
    },
    /// A keepalive answer names the sessions that have ended.
    Ended(usize),
    /// The store has answered `open_shard`.
    Opened(usize),
    /// Everything of the shard has ended, or the revoke bound has come first.
    Closed {
        node: usize,
        ended: bool,
    },
    /// The ack is sent again.
    AckAgain(usize),
    StartWork(usize),
    EndWork(usize),
    Freeze(usize),
    Thaw(usize),
    EndSession(SessionId),
    HearDead(usize),
    Join(usize),
}

/// G1(b).
pub const OVERLAP: &str = "g1b: shard leases never overlap";
/// G1(c).
pub const ENDED_STAYS_ENDED: &str = "g1c: a session known to have ended is never believed again";
/// R24.
pub const MONOTONE: &str = "r24: every grant is above all before it";

impl Model for Shards {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut meta = Meta::default();
        let mut nodes: Vec<Node> = (0..2).map(Node::new).collect();
        nodes.iter_mut().for_each(|node| node.join(&mut meta));
        let mut state = State {
            meta,
            past: Vec::new(),
            nodes,
            net: Vec::new(),
            store: Tables::default(),
            spent: Spent::default(),
            highest: Grant::default(),
            not_higher: false,
        };
        let first = state.nodes[0].session();
        state.deliver(Message::Decide { expect: sorted(ShardState::Free), to: first });
        state.settle();
        state.note(self);
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for message in &state.net {
            actions.push(Action::Deliver { message: *message, keep: false });
            if state.spent.dups < self.dups {
                actions.push(Action::Deliver { message: *message, keep: true });
            }
        }
        if state.spent.decisions < self.decisions {
            state.proposals(actions);
        }
        for (n, node) in state.nodes.iter().enumerate() {
            node.actions(n, actions, self, (state.spent.freezes, state.spent.joins));
            if node.acked.is_some() && state.spent.dups < self.dups {
                actions.push(Action::AckAgain(n));
            }
            if node.view.revision() < state.meta.machine.revision() {
                actions.push(Action::Event(n));
                if !state.meta.machine.ended_since(node.view.revision()).unwrap_or_default().is_empty() {
                    actions.push(Action::Ended(n));
                }
            }
            if state.spent.lags < self.lags {
                let revisions = state.past.iter().map(|p| p.revision);
                let others = revisions.filter(|r| *r != node.view.revision());
                actions.extend(others.map(|revision| Action::Resync { node: n, revision }));
            }
        }
        let holder = |s: &SessionId| state.nodes.iter().find(|n| n.session() == Some(*s));
        let ends = state.meta.machine.sessions().map(|s| s.id);
        actions.extend(ends.filter(|s| holder(s).is_none_or(|n| n.frozen)).map(Action::EndSession));
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        next.take(action);
        next.note(self);
        next.net.sort_unstable();
        next.net.dedup();
        (next != *state).then_some(next)
    }

    fn within_boundary(&self, state: &State) -> bool {
        state.net.len() <= self.in_flight
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut all = vec![
            Property::always(OVERLAP, |_, s: &State| s.nodes.iter().filter(|n| n.serves()).count() <= 1),
            Property::always(ENDED_STAYS_ENDED, |_, s: &State| s.nodes.iter().all(Node::remembers_the_dead)),
            Property::always(MONOTONE, |_, s: &State| !s.not_higher),
            Property::sometimes("a shard is open", |_, s: &State| s.nodes[0].serves()),
            Property::sometimes("a shard goes from node to node, live", |_, s: &State| {
                let [a, b] = &s.nodes[..] else { return false };
                b.serves() && a.has_given_up && a.is_valid()
            }),
        ];
        if self.freezes > 0 && self.joins > 0 {
            all.push(Property::sometimes("a shard fails over", |_, s: &State| {
                let [a, b] = &s.nodes[..] else { return false };
                b.serves() && a.has_served && !a.has_given_up
            }));
        }
        all
    }
}

impl State {
    /// Remembers the view of this revision, as a member that lags will tell it, and checks the grant.
    fn note(&mut self, bounds: &Shards) {
        let machine = &self.meta.machine;
        if self.past.last().is_none_or(|p| p.revision < machine.revision()) {
            self.past.push(Past::of(machine.view()));
            let holder = machine.shard(sharded().id(), SHARD).and_then(|row| row.holder());
            let holder = holder.filter(|(session, _)| machine.session(*session).is_some());
            if let Some((_, grant)) = holder.filter(|(_, grant)| *grant != self.highest) {
                self.not_higher |= grant < self.highest;
                self.highest = grant;
            }
        }
        if self.spent.lags == bounds.lags {
            // What nobody can be told of any more makes no difference.
            let slowest = self.nodes.iter().map(|n| n.view.revision()).min().unwrap_or_default();
            let latest = self.past.last().map_or(Revision(0), |p| p.revision);
            self.past.retain(|p| p.revision > slowest || p.revision == latest);
        }
    }

    /// Every node hears of everything, and the shard opens where it is assigned.
    fn settle(&mut self) {
        let Self { nodes, meta, net, store, .. } = self;
        for node in nodes {
            node.resync(&meta.machine.view(), net);
            node.open(store);
        }
    }

    fn row(&self) -> ShardState {
        self.meta.machine.shard(sharded().id(), SHARD).unwrap_or(ShardState::Free)
    }

    /// What a leader might decide about the row as it is now.
    fn proposals(&self, actions: &mut Vec<Action>) {
        let expect = sorted(self.row());
        let sessions = self.meta.machine.sessions().map(|s| Some(s.id));
        for to in sessions.chain([None]) {
            let message = Message::Decide { expect, to };
            if !self.net.contains(&message) {
                actions.push(Action::Propose(message));
            }
        }
    }

    fn take(&mut self, action: Action) {
        match action {
            Action::Deliver { message, keep } => {
                if keep {
                    self.spent.dups += 1;
                } else {
                    self.net.retain(|m| *m != message);
                }
                self.deliver(message);
            }
            Action::Propose(message) => {
                self.spent.decisions += 1;
                self.net.push(message);
            }
            Action::Event(n) => {
                let events =
                    self.meta.machine.events_since(self.nodes[n].view.revision()).unwrap_or_default();
                if let Some(event) = events.first() {
                    self.nodes[n].event(event, &mut self.net);
                }
            }
            Action::Resync { node, revision } => {
                self.spent.lags += 1;
                if let Some(past) = self.past.iter().find(|p| p.revision == revision) {
                    self.nodes[node].resync(&past.view, &mut self.net);
                }
            }
            Action::Ended(n) => {
                let machine = &self.meta.machine;
                let ended = machine.ended_since(self.nodes[n].view.revision()).unwrap_or_default();
                self.nodes[n].ended_elsewhere(&ended, machine.revision(), &mut self.net);
            }
            Action::Opened(n) => self.nodes[n].open(&mut self.store),
            Action::Closed { node, ended } => self.nodes[node].closed(ended, &mut self.net),
            Action::AckAgain(n) => {
                self.spent.dups += 1;
                self.net.extend(self.nodes[n].acked.as_ref().map(ack));
            }
            Action::StartWork(n) => self.nodes[n].start_work(),
            Action::EndWork(n) => self.nodes[n].work = None,
            Action::Freeze(n) => {
                self.spent.freezes += 1;
                self.nodes[n].frozen = true;
            }
            Action::Thaw(n) => {
                let alive = self.nodes[n].session().is_some_and(|s| self.meta.machine.session(s).is_some());
                self.nodes[n].frozen = !alive;
            }
            Action::EndSession(session) => self.meta.end(session),
            Action::HearDead(n) => {
                if self.nodes[n].session().is_some_and(|s| self.meta.machine.is_ended(s)) {
                    self.nodes[n].end_session();
                }
            }
            Action::Join(n) => {
                self.spent.joins += 1;
                let Self { nodes, meta, net, .. } = self;
                nodes[n].join(meta);
                nodes[n].ready(net);
            }
        }
    }

    fn deliver(&mut self, message: Message) {
        match message {
            Message::Ack { session, grant, given_up } => {
                let op = Op::AckShard { ty: sharded().id(), shard: SHARD, session, grant, given_up };
                self.meta.batch(vec![op]);
            }
            Message::Decide { expect, to } => {
                let expect = unsorted(expect);
                let living =
                    |(session, _): &(SessionId, Grant)| self.meta.machine.session(*session).is_some();
                let set = match (to, expect.holder().filter(living)) {
                    (Some(to), Some(_)) => ShardSet::Revoke { to },
                    (Some(to), None) => ShardSet::Assign { to },
                    (None, _) => ShardSet::Cancel,
                };
                let d = Decision { ty: sharded().id(), generation: 1, shard: SHARD, expect, set };
                self.meta.apply(Command::ShardDecisions(vec![d]));
            }
        }
    }
}

/// As it travels.
fn ack(ack: &ShardAck) -> Message {
    Message::Ack { session: ack.session, grant: ack.grant, given_up: ack.given_up }
}

fn sorted(row: ShardState) -> Row {
    let none = SessionId(0);
    match row {
        ShardState::Free => (0, none, Grant::default(), none),
        ShardState::Assigned { session, grant } => (1, session, grant, none),
        ShardState::Revoking { session, grant, to } => (2, session, grant, to),
    }
}

fn unsorted((kind, session, grant, to): Row) -> ShardState {
    match kind {
        0 => ShardState::Free,
        1 => ShardState::Assigned { session, grant },
        _ => ShardState::Revoking { session, grant, to },
    }
}
