//! What can happen next, and what it does: the network, the store, the leader's batches.

use bytes::Bytes;
use millet_core::{
    Epoch, SessionId,
    control::{Rule, off},
    store::{ImageStamp, Token, Version, Write},
};
use millet_directory::{Acquired, leases::Acquisition};
use millet_raft_meta::machine::{Op, OpResult};

use super::{Action, Activation, Grains, Harm, Image, Message, Saves, Slot, Stage, State};
use crate::{
    holder::Standing,
    meta::{grain, row},
};

const SLOT: &str = "s";

impl Grains {
    pub(super) fn node_actions(&self, state: &State, n: usize, actions: &mut Vec<Action>) {
        let node = &state.nodes[n];
        match &node.slot {
            Slot::Empty
                if node.is_valid()
                    && state.spent.claims < self.claims
                    && !node.book.is_handing_back(grain()) =>
            {
                actions.push(Action::Claim(n));
            }
            Slot::Empty => {}
            Slot::Claiming(_) => actions.push(Action::Abandon(n)),
            Slot::Active(act) => self.activation_actions(state, n, act, actions),
        }
        let releases = |m: &Message| match m {
            Message::Release { node, .. } | Message::Move { node, .. } | Message::HandedBack { node, .. } => {
                *node == n
            }
            _ => false,
        };
        if node.handing_back.is_some() && !state.net.iter().any(releases) {
            actions.push(Action::Resend(n));
        }
        match node.session() {
            Some(_) if node.frozen => {
                actions.push(Action::Thaw(n));
                actions.push(Action::HearDead(n));
            }
            Some(_) if state.spent.freezes < self.freezes => actions.push(Action::Freeze(n)),
            Some(_) => {}
            None if state.spent.joins < self.joins => actions.push(Action::Join(n)),
            None => {}
        }
        if state.spent.crashes < self.crashes && node.session().is_some() {
            actions.push(Action::Crash(n));
        }
        if self.batches && node.starts > 0 {
            actions.push(Action::LauncherCloses(n));
        }
    }

    fn activation_actions(&self, state: &State, n: usize, act: &Activation, actions: &mut Vec<Action>) {
        let valid = state.nodes[n].standing(act) == Standing::Valid;
        match act.stage {
            Stage::Opening => actions.push(Action::Open(n)),
            Stage::Idle if valid => {
                if state.spent.turns < self.turns {
                    actions.push(Action::StartTurn(n));
                }
                actions.push(Action::Idle(n));
                if self.moves {
                    let others = (0..self.nodes).filter(|to| *to != n);
                    actions.extend(others.map(|to| Action::MoveTo { node: n, to }));
                }
            }
            Stage::Idle => {}
            Stage::Turn => actions.push(Action::EndTurn(n)),
        }
    }
}

impl State {
    /// Every way to pack requests in flight into one entry.
    pub(super) fn batches(&self, actions: &mut Vec<Action>) {
        let ops: Vec<Message> = self.net.iter().copied().filter(|m| op(m).is_some()).collect();
        for (i, a) in ops.iter().enumerate() {
            for (j, b) in ops.iter().enumerate().filter(|(j, _)| *j != i) {
                actions.push(Action::Batch(vec![*a, *b]));
                let rest = ops.iter().enumerate().filter(|(k, _)| *k != i && *k != j);
                actions.extend(rest.map(|(_, c)| Action::Batch(vec![*a, *b, *c])));
            }
        }
    }

    pub(super) fn take(&mut self, bounds: &Grains, action: Action) {
        match action {
            Action::Deliver { message, keep } => {
                if keep {
                    self.spent.dups += 1
                } else {
                    self.remove(&message)
                }
                self.deliver(message);
            }
            Action::Lose(message) => {
                self.spent.losses += 1;
                self.remove(&message);
            }
            Action::Batch(messages) => {
                messages.iter().for_each(|m| self.remove(m));
                self.commit(&messages);
            }
            Action::Freeze(n) => {
                self.spent.freezes += 1;
                self.nodes[n].frozen = true;
            }
            Action::Thaw(n) => self.thaw(n),
            Action::EndSession(session) => self.meta.end(session),
            Action::HearDead(n) => {
                if self.nodes[n].session().is_some_and(|s| self.meta.machine.is_ended(s)) {
                    self.nodes[n].hear_dead();
                }
            }
            Action::Join(n) => {
                self.spent.joins += 1;
                self.nodes[n].join(&mut self.meta);
            }
            Action::Crash(n) => self.crash(n),
            Action::LauncherCloses(n) => {
                let gone = self.nodes[n].gone.take();
                self.net.extend(gone.map(|session| Message::Close { session }));
            }
            Action::Claim(n) => {
                self.spent.claims += 1;
                let node = &mut self.nodes[n];
                let Some(session) = node.session() else { return };
                let id = node.book.acquire_sent(grain());
                node.slot = Slot::Claiming(id);
                self.net.push(Message::Acquire { node: n, id, session });
            }
            Action::Abandon(n) => self.claim_ended(n),
            Action::Open(n) => self.open(n),
            Action::StartTurn(n) => {
                self.spent.turns += 1;
                self.stage(n, Stage::Turn);
            }
            Action::EndTurn(n) => self.end_turn(n, bounds.saves),
            Action::Idle(n) => self.end_activation(n, None),
            Action::MoveTo { node, to } => self.move_to(node, to),
            Action::Resend(n) => self.send_hand_back(n),
        }
    }

    fn remove(&mut self, message: &Message) {
        if let Some(at) = self.net.iter().position(|m| m == message) {
            self.net.remove(at);
        }
    }

    fn act(&mut self, n: usize) -> Option<&mut Activation> {
        match &mut self.nodes[n].slot {
            Slot::Active(act) => Some(act),
            Slot::Empty | Slot::Claiming(_) => None,
        }
    }

    fn stage(&mut self, n: usize, stage: Stage) {
        if let Some(act) = self.act(n) {
            act.stage = stage;
        }
    }

    /// An answer that says "renewed" (R4): only the log decides whether it can.
    fn thaw(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        if node.session().is_some_and(|s| self.meta.machine.session(s).is_some()) {
            node.frozen = false;
            self.spent.thaws += 1;
        }
    }

    /// What was sent to the process is lost with its connections; what it sent is on its way.
    fn crash(&mut self, n: usize) {
        self.spent.crashes += 1;
        self.nodes[n].crash();
        self.net.retain(|m| match *m {
            Message::Granted { node, .. }
            | Message::NotGranted { node, .. }
            | Message::HandedBack { node, .. } => node != n,
            Message::Image { to, .. } => to != n,
            Message::Acquire { .. }
            | Message::Release { .. }
            | Message::Move { .. }
            | Message::Close { .. } => true,
        });
    }

    fn deliver(&mut self, message: Message) {
        match message {
            Message::Acquire { .. }
            | Message::Release { .. }
            | Message::Move { .. }
            | Message::Close { .. } => {
                self.commit(&[message]);
            }
            Message::Granted { node, id, grant, previous } => {
                self.answered(node, id, Acquired::Granted(grant), previous);
            }
            Message::NotGranted { node, id, retry: _ } => self.answered(node, id, Acquired::Retry, None),
            Message::HandedBack { node, session } => {
                let node = &mut self.nodes[node];
                node.book.hand_back_answered(grain(), session);
                node.handing_back = node.handing_back.filter(|(s, ..)| *s != session);
            }
            Message::Image { to, image } => self.nodes[to].image = Some(image),
        }
    }

    /// One entry of the log, and its answers.
    fn commit(&mut self, messages: &[Message]) {
        let ops = messages.iter().filter_map(op).collect();
        let results = self.meta.batch(ops);
        for (message, result) in messages.iter().zip(results) {
            self.note_grant(message, &result);
            let answer = match (*message, result) {
                (Message::Acquire { node, id, .. }, OpResult::Granted { grant, previous }) => {
                    Some(Message::Granted { node, id, grant, previous })
                }
                (Message::Acquire { node, id, .. }, _) => Some(Message::NotGranted { node, id, retry: true }),
                (Message::Release { node, session, .. } | Message::Move { node, session, .. }, _) => {
                    Some(Message::HandedBack { node, session })
                }
                (_, _) => None,
            };
            self.net.extend(answer.filter(|a| self.is_awaited(message, a)));
        }
    }

    /// An answer goes to a call that waits for it; calls end with their process.
    fn is_awaited(&self, request: &Message, answer: &Message) -> bool {
        let (node, session) = match *request {
            Message::Acquire { node, session, .. }
            | Message::Release { node, session, .. }
            | Message::Move { node, session, .. } => (&self.nodes[node], session),
            _ => return false,
        };
        let waits = match *answer {
            Message::Granted { id, .. } | Message::NotGranted { id, .. } => node.slot == Slot::Claiming(id),
            _ => node.handing_back.is_some(),
        };
        waits && node.session() == Some(session)
    }

    fn note_grant(&mut self, message: &Message, result: &OpResult) {
        let OpResult::Granted { grant, .. } = *result else { return };
        let to = match *message {
            Message::Acquire { session, .. } => session,
            Message::Move { to, .. } => to,
            _ => return,
        };
        if self.granted == Some((grant, to)) {
            return; // said again
        }
        if self.granted.is_some_and(|(last, _)| grant <= last) {
            self.harm = Some(Harm::GrantNotHigher);
        }
        self.changed_hands = self.granted.is_some_and(|(_, from)| from != to);
        self.granted = Some((grant, to));
    }

    fn claim_ended(&mut self, n: usize) {
        if let Slot::Claiming(id) = self.nodes[n].slot {
            self.nodes[n].book.acquire_ended(grain(), id);
            self.nodes[n].slot = Slot::Empty;
        }
        self.net.retain(
            |m| !matches!(m, Message::Granted { node, .. } | Message::NotGranted { node, .. } if *node == n),
        );
    }

    fn answered(
        &mut self,
        n: usize,
        id: millet_directory::leases::AcquireId,
        answer: Acquired,
        previous: Option<millet_core::Grant>,
    ) {
        let node = &mut self.nodes[n];
        let (true, Some(session)) = (node.slot == Slot::Claiming(id), node.session()) else { return };
        node.slot = Slot::Empty;
        match node.book.acquire_answered(grain(), id, session, answer) {
            Acquisition::Use(grant) => node.born(session, grant, previous),
            Acquisition::AskAgain | Acquisition::Held(_) | Acquisition::SessionOver => {}
        }
    }

    /// Opens the store, and begins with what it returns or with the image (R2, R23).
    fn open(&mut self, n: usize) {
        let Some(act) = self.act(n).cloned() else { return };
        let token = Token { epoch: act.epoch(), session: act.session };
        let Ok(stored) = self.store.open(grain(), SLOT, token) else { return self.end_activation(n, None) };
        let image = self.nodes[n].image.take().filter(|image| {
            ImageStamp { epoch: image.epoch, version: Version(image.version) }
                .fits(act.previous, stored.version)
        });
        let loaded = stored.value.as_ref().and_then(|v| v.first().copied()).unwrap_or_default();
        let memory = image.map_or(loaded, |image| image.memory);
        if memory < self.stored.1 {
            self.harm = Some(Harm::LostWrite);
        }
        let born = Activation {
            stage: Stage::Idle,
            version: stored.version.0,
            memory,
            from_image: image.is_some(),
            ..act
        };
        self.nodes[n].slot = Slot::Active(born);
    }

    fn write(&mut self, epoch: Epoch, session: SessionId, version: u64, memory: u8) -> bool {
        let write = Write {
            grain: grain(),
            slot: SLOT,
            shard: None,
            token: Token { epoch, session },
            version: Version(version),
        };
        let Ok(now) = self.store.write(write, Some(Bytes::copy_from_slice(&[memory]))) else { return false };
        self.stored = self.stored.max((now.0, memory));
        true
    }

    /// The end of a turn: the exit check, once for the save and once for the answer (R12).
    fn end_turn(&mut self, n: usize, saves: Saves) {
        let node = &self.nodes[n];
        let Some(act) = node.activation().cloned() else { return };
        match node.standing(&act) {
            _ if off(Rule::Exit) => {}
            Standing::Valid => {}
            Standing::Frozen => return, // it waits
            Standing::Ended => return self.end_activation(n, None),
        }
        let memory = act.memory + 1;
        let mut version = act.version;
        match saves {
            Saves::No => {}
            Saves::AtOnce if self.write(act.epoch(), act.session, act.version, memory) => version += 1,
            Saves::AtOnce => return self.end_activation(n, None),
        }
        self.nodes[n].slot = Slot::Active(Activation { stage: Stage::Idle, version, memory, ..act });
        self.leave(n);
    }

    /// The answer leaves, if it may; otherwise it is dropped and the activation ends.
    fn leave(&mut self, n: usize) {
        let node = &self.nodes[n];
        let Some(act) = node.activation() else { return };
        if off(Rule::Exit) || node.standing(act) == Standing::Valid {
            if self.meta.machine.is_ended(act.session) {
                self.harm = Some(Harm::LateOutput);
            }
        } else if node.standing(act) == Standing::Ended {
            self.end_activation(n, None);
        }
    }

    /// It is over: its grant is dead on this node before anybody is told (R1).
    fn end_activation(&mut self, n: usize, to: Option<SessionId>) {
        let node = &mut self.nodes[n];
        let Some(Activation { session, grant, .. }) = node.activation().cloned() else { return };
        node.slot = Slot::Empty;
        if node.session() == Some(session) && node.book.give_up(grain(), session, grant) {
            node.handing_back = Some((session, grant, to));
            self.send_hand_back(n);
        }
    }

    fn send_hand_back(&mut self, n: usize) {
        let Some((session, grant, to)) = self.nodes[n].handing_back else { return };
        self.net.push(match to {
            Some(to) => Message::Move { node: n, session, grant, to },
            None => Message::Release { node: n, session, grant },
        });
    }

    /// Sends image and Move: the grant is given up with it (R23).
    fn move_to(&mut self, n: usize, to: usize) {
        let Some(act) = self.nodes[n].activation().cloned() else { return };
        let Some(session) = self.nodes[to].session() else { return };
        let image = Image { epoch: act.epoch(), version: act.version, memory: act.memory };
        self.net.push(Message::Image { to, image });
        self.end_activation(n, Some(session));
    }
}

/// As an operation of the log.
fn op(message: &Message) -> Option<Op> {
    let (key, ty) = row();
    Some(match *message {
        Message::Acquire { session, .. } => Op::Acquire { key, ty, session },
        Message::Release { session, grant, .. } => Op::Release { key, ty, session, grant },
        Message::Move { session, grant, to, .. } => Op::Move { key, ty, session, grant, to },
        Message::Close { session } => Op::Close { session },
        Message::Granted { .. }
        | Message::NotGranted { .. }
        | Message::HandedBack { .. }
        | Message::Image { .. } => return None,
    })
}
