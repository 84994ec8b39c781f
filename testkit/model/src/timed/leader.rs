//! The leader: the product's clock and renewals, and what `raft_meta::member::drive` does around them.

use std::{
    hash::{Hash, Hasher},
    time::Duration,
};

use millet_core::{
    BootTime, SessionId,
    control::{Rule, off},
    model::{Keepalive, KeepaliveAnswer, Verdict},
};
use millet_raft_meta::{
    leader::{LeaderClock, Offered, Proposal, Renewals, Turn},
    machine::{Command, Tick, Ticked},
};

use super::{Message, Timed, clock};
use crate::meta::Meta;

/// Who leads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Leader {
    rate: u64,
    /// Its clock when real time began.
    start_ms: u64,
    clock: LeaderClock,
    renewals: Renewals<usize>,
    /// The step of its last question to the clock, and whether a set is to be stamped.
    pub(super) asked: Option<u64>,
    pub(super) may_stamp: bool,
    proposal: Option<Proposal<usize>>,
    /// A reading from an earlier leadership: what a base must not be.
    earlier: BootTime,
    pub(super) stalled: bool,
}

impl Hash for Leader {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.rate, self.start_ms, &self.clock, &self.renewals, self.asked, self.may_stamp).hash(state);
        (self.earlier, self.stalled).hash(state);
        if let Some(proposal) = &self.proposal {
            proposal.command().encode().hash(state);
        }
    }
}

impl Leader {
    pub(super) fn first(rate: u64, model: &Timed) -> Self {
        let mut leader = Self::elected(rate, 1_000, model);
        leader.clock.start(0, leader.now(model, 0));
        leader
    }

    pub(super) fn elected(rate: u64, start_ms: u64, model: &Timed) -> Self {
        Self {
            rate,
            start_ms,
            clock: LeaderClock::new(Duration::from_millis(model.step_ms)),
            renewals: Renewals::new(),
            asked: None,
            may_stamp: false,
            proposal: None,
            earlier: clock(model, start_ms, rate, 0),
            stalled: false,
        }
    }

    /// A successor on another machine, whose clock differs by as much as clocks may.
    pub(super) fn successor(&self, model: &Timed) -> Self {
        let rate = model.rates.iter().copied().find(|r| *r != self.rate).unwrap_or(self.rate);
        Self::elected(rate, self.start_ms + 77_000, model)
    }

    fn now(&self, model: &Timed, now: u64) -> BootTime {
        clock(model, self.start_ms, self.rate, now)
    }

    pub(super) fn is_running(&self) -> bool {
        self.clock.is_running()
    }

    pub(super) fn has_proposal(&self) -> bool {
        self.proposal.is_some()
    }

    /// The first entry of its leadership has been applied. The base is read after that, its clock too (R21).
    pub(super) fn establish(&mut self, model: &Timed, now: u64, meta: &Meta) {
        let read = if off(Rule::R21) { self.earlier } else { self.now(model, now) };
        self.clock.start(meta.machine.time_ms(), read);
    }

    pub(super) fn offer(&mut self, meta: &Meta, node: usize, keepalive: &Keepalive) -> Option<Message> {
        match self.renewals.offer(&meta.machine, keepalive, node) {
            Offered::Queued { .. } => None,
            Offered::Answer(node, answer) => Some(message(node, &answer)),
        }
    }

    /// Asks whether to propose; what comes next may be a while later.
    pub(super) fn turn(&mut self, model: &Timed, now: u64) {
        self.asked = Some(now);
        self.may_stamp = self.clock.turn(self.now(model, now)) == Turn::Propose && self.proposal.is_none();
    }

    /// Closes the set, reads the clock, proposes (R6).
    pub(super) fn stamp(&mut self, model: &Timed, now: u64) {
        self.may_stamp = false;
        let read = self.now(model, now);
        match self.renewals.close().stamp(&mut self.clock, || read, 0) {
            Ok(proposal) => self.proposal = Some(proposal),
            Err(closed) => self.renewals.reopen(closed),
        }
    }

    /// What it has under way, for its successors: they may find it in the log.
    pub(super) fn last_words(&self) -> Option<Tick> {
        match self.proposal.as_ref()?.command() {
            Command::Tick(tick) => Some(tick.clone()),
            _ => None,
        }
    }

    /// The Tick to be applied.
    pub(super) fn tick(&self) -> Option<Command> {
        self.proposal.as_ref().map(|p| p.command().clone())
    }

    /// It has been applied: the answers are made from the result (R6).
    pub(super) fn applied(&mut self, model: &Timed, now: u64, meta: &Meta, ticked: &Ticked) -> Vec<Message> {
        self.clock.applied(ticked.time_ms, self.now(model, now));
        let Some(proposal) = self.proposal.take() else { return Vec::new() };
        let answers = proposal.applied(&meta.machine, ticked);
        answers.iter().map(|(node, answer)| message(*node, answer)).collect()
    }
}

fn message(node: usize, answer: &KeepaliveAnswer) -> Message {
    let KeepaliveAnswer { session, number, cluster_ms, .. } = *answer;
    let verdict = match answer.verdict {
        Verdict::Renewed => 0,
        Verdict::NotRenewed => 1,
        Verdict::Dead => 2,
    };
    Message::Answer { node, session, number, verdict, cluster_ms }
}

/// As it came over the network.
pub(super) fn keepalive(session: SessionId, number: u64, heard: u64) -> Keepalive {
    let revision = millet_core::Revision(u64::MAX);
    Keepalive { session, number, heard, revision, activations: 0, reserve_ms: 0 }
}
