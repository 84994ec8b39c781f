//! The holder's book of leased grains: which grants have been given up, and which requests are under
//! way (R1, R30). Pure.
//!
//! It remembers no held lease: a claim is with the activation that uses it, and asking the metadata
//! store again for a lease that is already this session's returns the same grant, which is adopted
//! (R30). So it holds only grains with a request under way, whatever the node hosts.

use std::collections::{BTreeMap, BTreeSet};

use millet_core::{
    GrainId, Grant, SessionId,
    control::{Rule, off},
};

use crate::meta::{Acquired, Holder};

/// Names one acquire under way.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct AcquireId(u64);

/// What an answered acquire means here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Acquisition {
    /// The grant may be used.
    Use(Grant),
    /// It may not: it has been given up here (R1), or the store said Retry. Ask again.
    AskAgain,
    /// Someone else holds the grain.
    Held(Holder),
    /// The session it was asked for is over.
    SessionOver,
}

/// The lease book of the current session.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct LeaseBook {
    session: Option<SessionId>,
    grains: BTreeMap<GrainId, Pending>,
    counter: u64,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
struct Pending {
    /// The highest grant given up: it and everything below is dead here.
    given_up: Option<Grant>,
    /// Releases and moves not yet answered.
    hand_backs: u32,
    acquires: BTreeSet<u64>,
    /// Acquires below this were sent before the last hand-back was answered.
    barrier: u64,
}

impl LeaseBook {
    /// A session begins, or (with `None`) the current one has ended: whatever was under way belonged to
    /// the old one, and a new session's grants are all higher.
    pub fn session(&mut self, session: Option<SessionId>) {
        *self = Self { session, grains: BTreeMap::new(), counter: self.counter };
    }

    /// A session has ended. Whoever hears of it late may find the next one's book: that one stays.
    pub fn ended(&mut self, session: SessionId) {
        if self.session == Some(session) {
            self.session(None);
        }
    }

    /// An acquire is about to be sent for the current session.
    pub fn acquire_sent(&mut self, grain: &GrainId) -> AcquireId {
        self.counter += 1;
        let id = self.counter;
        self.pending(grain).acquires.insert(id);
        AcquireId(id)
    }

    /// The answer to an acquire that was sent under `session`.
    pub fn acquire_answered(
        &mut self,
        grain: &GrainId,
        id: AcquireId,
        session: SessionId,
        answer: Acquired,
    ) -> Acquisition {
        if self.session != Some(session) {
            return Acquisition::SessionOver;
        }
        let given_up = self.grains.get(grain).and_then(|p| p.given_up).filter(|_| !off(Rule::R1));
        self.acquire_ended(grain, id);
        match answer {
            Acquired::Granted(grant) if given_up.is_some_and(|mark| grant <= mark) => Acquisition::AskAgain,
            Acquired::Granted(grant) => Acquisition::Use(grant),
            Acquired::Held(holder) => Acquisition::Held(holder),
            Acquired::Retry => Acquisition::AskAgain,
        }
    }

    /// An acquire ended without an answer, and none can come any more. If the store applies it all the
    /// same, the next acquire adopts the grant (R30).
    pub fn acquire_ended(&mut self, grain: &GrainId, id: AcquireId) {
        if let Some(pending) = self.grains.get_mut(grain) {
            pending.acquires.remove(&id.0);
            self.forget_if_settled(grain);
        }
    }

    /// A release or move of `grant` is queued: from here on the grant is dead on this node (R1). False:
    /// the grant is of another session or given up already, nothing is to be sent.
    pub fn give_up(&mut self, grain: &GrainId, session: SessionId, grant: Grant) -> bool {
        if self.session != Some(session) {
            return false;
        }
        let pending = self.pending(grain);
        if pending.given_up.is_some_and(|mark| grant <= mark) {
            return false;
        }
        pending.given_up = Some(grant);
        pending.hand_backs += 1;
        true
    }

    /// A release or move was answered (or its session is over).
    pub fn hand_back_answered(&mut self, grain: &GrainId, session: SessionId) {
        if self.session != Some(session) {
            return;
        }
        let barrier = self.counter + 1;
        if let Some(pending) = self.grains.get_mut(grain) {
            pending.hand_backs = pending.hand_backs.saturating_sub(1);
            pending.barrier = barrier;
            self.forget_if_settled(grain);
        }
    }

    /// Whether an unanswered hand-back makes an acquire pointless for now.
    pub fn is_handing_back(&self, grain: &GrainId) -> bool {
        self.grains.get(grain).is_some_and(|p| p.hand_backs > 0) && !off(Rule::R1)
    }

    /// Hand-backs not yet answered.
    pub fn hand_backs(&self) -> usize {
        self.grains.values().filter(|p| p.hand_backs > 0).count()
    }

    fn pending(&mut self, grain: &GrainId) -> &mut Pending {
        self.grains.entry(grain.clone()).or_default()
    }

    /// The mark is kept until the hand-back and every acquire sent before its answer are answered.
    fn forget_if_settled(&mut self, grain: &GrainId) {
        let Some(p) = self.grains.get_mut(grain) else { return };
        if p.hand_backs == 0 && p.acquires.first().is_none_or(|oldest| *oldest >= p.barrier) {
            p.given_up = None;
        }
        if p.given_up.is_none() && p.acquires.is_empty() {
            self.grains.remove(grain);
        }
    }
}
