//! What can happen at a moment, and what it does.

use millet_core::SessionId;
use millet_raft_meta::machine::{Command, Op, OpResult, Reply, Ticked};

use super::{Action, Cut, Harm, Message, State, Timed, leader::keepalive};
use crate::meta::row;

impl Timed {
    /// What somebody does.
    pub(super) fn due(&self, state: &State, actions: &mut Vec<Action>) {
        let before = actions.len();
        let first = (0..self.nodes).find(|n| self.is_busy(state, *n));
        let in_order = |n: usize| self.delays > 0 || first.is_none_or(|first| first == n);
        for message in &state.net {
            if state.can_arrive(message) && message.addressee().is_none_or(in_order) {
                actions.push(Action::Deliver { message: *message, keep: false });
                if state.spent.dups < self.dups {
                    actions.push(Action::Deliver { message: *message, keep: true });
                }
            }
        }
        for (n, node) in state.nodes.iter().enumerate() {
            if node.is_due(self, state.now) && in_order(n) {
                actions.push(Action::Step(n));
            }
        }
        if !state.leader.stalled {
            self.leader_is_due(state, actions);
        }
        if state.now < self.horizon && self.may_pass(state) {
            actions.push(Action::Pass);
        }
        if !self.races {
            actions.truncate(before + 1);
            if !state.leader.is_running() && state.now < self.horizon && self.may_pass(state) {
                actions.push(Action::Pass); // an election takes as long as it takes
            }
        }
        if state.old_tick.is_some() && !state.leader.is_running() {
            actions.push(Action::CommitOld);
        }
    }

    /// Whether the node has something to do in this step.
    fn is_busy(&self, state: &State, n: usize) -> bool {
        let comes = |m: &Message| m.addressee() == Some(n) && state.can_arrive(m);
        state.nodes[n].is_due(self, state.now) || state.net.iter().any(comes)
    }

    fn leader_is_due(&self, state: &State, actions: &mut Vec<Action>) {
        let leader = &state.leader;
        if !leader.is_running() {
            actions.push(Action::Establish);
        } else if leader.has_proposal() {
            actions.push(Action::Commit);
        } else if leader.may_stamp {
            actions.push(Action::Stamp);
        } else if leader.asked != Some(state.now) {
            actions.push(Action::Turn);
        }
    }

    /// A step is over when everybody who does not stand still has done what is due.
    fn may_pass(&self, state: &State) -> bool {
        let leader = &state.leader;
        let is_busy = leader.has_proposal() || leader.may_stamp || leader.asked != Some(state.now);
        let waits_for_leader = !leader.stalled && leader.is_running() && is_busy;
        let waits_for_nodes = state.nodes.iter().any(|n| n.is_due(self, state.now));
        let late = state.net.iter().filter(|m| state.can_arrive(m)).count();
        !waits_for_leader
            && !waits_for_nodes
            && late + usize::from(state.spent.delays) <= usize::from(self.delays)
    }

    /// What goes wrong from the beginning of a step on.
    pub(super) fn faults(&self, state: &State, actions: &mut Vec<Action>) {
        let spent = &state.spent;
        if state.nodes[0].cut != Cut::Whole && self.heals {
            actions.push(Action::Cut(Cut::Whole));
        } else if state.nodes[0].cut == Cut::Whole && spent.cuts < self.cuts {
            actions.extend(self.kinds.iter().copied().map(Action::Cut));
        }
        if state.leader.stalled {
            actions.push(Action::Wake);
        } else if spent.stalls < self.stalls {
            actions.push(Action::Stall);
        }
        for (n, node) in state.nodes.iter().enumerate() {
            if node.paused {
                actions.push(Action::Resume(n));
            } else if spent.pauses < self.pauses {
                actions.push(Action::Pause(n));
            }
            if spent.crashes < self.crashes && node.grain.is_some() {
                actions.push(Action::Crash(n));
            }
        }
        if spent.elections < self.elections && state.leader.is_running() {
            actions.push(Action::Elect);
        }
    }

    /// What goes wrong where it hurts: between a leader's question to its clock and its Tick, and between
    /// its proposal and the commit.
    pub(super) fn faults_between(&self, state: &State, actions: &mut Vec<Action>) {
        let (leader, spent) = (&state.leader, &state.spent);
        if leader.may_stamp && !leader.stalled && spent.stalls < self.stalls {
            actions.push(Action::Stall);
        }
        if leader.has_proposal() && spent.elections < self.elections {
            actions.push(Action::Elect);
        }
    }
}

impl Message {
    fn addressee(&self) -> Option<usize> {
        match *self {
            Message::Opened { node, .. } | Message::Answer { node, .. } => Some(node),
            Message::Open { .. } | Message::Keepalive { .. } => None,
        }
    }
}

impl State {
    /// Whether its receiver could take it in now. What was sent over a cut link is not in the net.
    fn can_arrive(&self, message: &Message) -> bool {
        match *message {
            // Opened by whoever serves requests, not by the thread that keeps time.
            Message::Open { .. } => true,
            Message::Keepalive { .. } => !self.leader.stalled && self.leader.is_running(),
            Message::Opened { node, .. } | Message::Answer { node, .. } => !self.nodes[node].paused,
        }
    }

    /// The grain is free, or its holder's session has ended: asking makes a difference.
    fn may_be_granted(&self, session: SessionId) -> bool {
        let has_authority = self.meta.machine.session(session).is_some_and(|s| s.has_authority());
        has_authority && self.meta.machine.holder(row().0).is_none()
    }

    /// Puts messages on their way, over links that are whole.
    fn send(&mut self, messages: Vec<Message>) {
        for message in messages {
            let (node, up) = match message {
                Message::Open { node, .. } | Message::Keepalive { node, .. } => (node, true),
                Message::Opened { node, .. } | Message::Answer { node, .. } => (node, false),
            };
            let lost = match self.nodes[node].cut {
                Cut::Whole => false,
                Cut::Deaf => !up,
                Cut::Mute => up,
                Cut::Off => true,
            };
            if !lost && !self.net.contains(&message) {
                self.net.push(message);
            }
        }
    }

    pub(super) fn take(&mut self, model: &Timed, action: Action) {
        let is_fault = matches!(
            action,
            Action::Cut(_) | Action::Stall | Action::Wake | Action::Pause(_) | Action::Resume(_)
        );
        self.fresh = matches!(action, Action::Pass) || self.fresh && is_fault;
        match action {
            Action::Pass => {
                let late = self.net.iter().filter(|m| self.can_arrive(m)).count();
                self.spent.delays += u8::try_from(late).unwrap_or(u8::MAX);
                self.now += 1;
            }
            Action::Step(n) => {
                let mut out = Vec::new();
                let harm = self.nodes[n].step(model, self.now, &self.meta, &mut out);
                self.harm = self.harm.or(harm);
                self.send(out);
            }
            Action::Deliver { message, keep } => {
                if keep {
                    self.spent.dups += 1;
                } else {
                    self.net.retain(|m| *m != message);
                }
                self.deliver(model, message);
            }
            Action::Turn => self.leader.turn(model, self.now),
            Action::Stamp => self.leader.stamp(model, self.now),
            Action::Commit => self.commit(model),
            Action::CommitOld => {
                if let Some(tick) = self.old_tick.take() {
                    self.apply(Command::Tick(tick));
                }
            }
            Action::Establish => {
                self.old_tick = None; // what was not committed before is not any more
                self.leader.establish(model, self.now, &self.meta);
            }
            Action::Elect => {
                self.spent.elections += 1;
                self.old_tick = self.leader.last_words();
                self.leader = self.leader.successor(model);
                // Answers of the old leader may still be under way; what lay in its buffers is lost.
                self.net.retain(|m| !matches!(m, Message::Keepalive { .. }));
            }
            Action::Stall => {
                self.spent.stalls += 1;
                self.leader.stalled = true;
            }
            Action::Wake => self.leader.stalled = false,
            Action::Pause(n) => {
                self.spent.pauses += 1;
                self.nodes[n].paused = true;
            }
            Action::Resume(n) => self.nodes[n].paused = false,
            Action::Cut(cut) => {
                self.spent.cuts += u8::from(cut != Cut::Whole);
                self.nodes[0].cut = cut;
            }
            Action::Crash(n) => {
                self.spent.crashes += 1;
                self.nodes[n].crash(model);
            }
        }
    }

    fn deliver(&mut self, model: &Timed, message: Message) {
        match message {
            Message::Open { node, start, attempt } => {
                let incarnation = 1_000 * node as u128 + u128::from(start);
                if let Reply::Opened(opened) = self.meta.open(node, incarnation, attempt, model.ttl_ms) {
                    self.send(vec![Message::Opened { node, start, attempt, session: opened.session }]);
                }
            }
            Message::Keepalive { node, session, number, heard, .. } => {
                let at_once = self.leader.offer(&self.meta, node, &keepalive(session, number, heard));
                self.send(at_once.into_iter().collect());
            }
            Message::Opened { node, .. } | Message::Answer { node, .. } => {
                let mut out = Vec::new();
                let harm = self.nodes[node].hear(model, self.now, message, &self.meta, &mut out);
                self.harm = self.harm.or(harm);
                self.send(out);
            }
        }
    }

    /// Whoever may have the grain asks for it at once: how late requests behave is `grain`'s.
    pub(super) fn acquire(&mut self, model: &Timed, n: usize) {
        let wanted = self.nodes[n].wants(model, self.now);
        let Some(session) = wanted.filter(|session| self.may_be_granted(*session)) else { return };
        let (key, ty) = row();
        let granted = self.meta.batch(vec![Op::Acquire { key, ty, session }]).pop();
        if let Some(OpResult::Granted { grant, .. }) = granted {
            self.nodes[n].grain = Some((session, grant));
            self.nodes[n].has_served = true;
        }
    }

    fn commit(&mut self, model: &Timed) {
        let Some(tick) = self.leader.tick() else { return };
        let Some(ticked) = self.apply(tick) else { return };
        let answers = self.leader.applied(model, self.now, &self.meta, &ticked);
        self.send(answers);
    }

    /// Applies a Tick, and looks whom it has ended.
    fn apply(&mut self, tick: Command) -> Option<Ticked> {
        let before: Vec<SessionId> = self.meta.machine.sessions().map(|s| s.id).collect();
        let Reply::Ticked(ticked) = self.meta.apply(tick) else { return None };
        let ended = |id: SessionId| before.contains(&id) && self.meta.machine.is_ended(id);
        let unread = |m: &Message| match *m {
            Message::Keepalive { session, number, heard, sent, .. } => {
                // A stall of two intervals is no gap (R21).
                sent + 2 < self.now && number <= heard + 2 && ended(session)
            }
            _ => false,
        };
        if self.spent.delays == 0 && self.net.iter().any(unread) {
            self.harm = Some(Harm::NeedlessEnd);
        }
        Some(ticked)
    }
}
