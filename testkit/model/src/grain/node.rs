//! One node of the model: the product's lease book and session lease, and what runtime and directory do
//! around them: one slot per grain in the catalog, births, turns, ends.

use std::time::Duration;

use millet_core::{
    BootTime, Epoch, Grant, SessionId,
    control::{Rule, off},
};
use millet_directory::leases::{AcquireId, LeaseBook};

use crate::{
    holder::{Holder, Standing},
    meta::{Meta, TTL_MS},
};

/// Where an activation stands between two actions.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Stage {
    /// Its store is not open yet.
    Opening,
    /// No turn runs.
    Idle,
    /// A turn runs: it may run as long as it likes, through freezes and ends.
    Turn,
}

/// The one activation that a node may have of the grain.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Activation {
    /// The session it was born under, as its holder sees it: its own, for ever (R12).
    pub session: SessionId,
    /// Its grant.
    pub grant: Grant,
    /// The grant that a Move replaced by this one.
    pub previous: Option<Grant>,
    /// Its number within the process (R3).
    pub number: u32,
    /// See [`Stage`].
    pub stage: Stage,
    /// The version it has loaded or saved last.
    pub version: u64,
    /// What it knows.
    pub memory: u8,
    /// Whether it began with an image.
    pub from_image: bool,
}

impl Activation {
    /// The fencing token, as the runtime makes it.
    pub fn epoch(&self) -> Epoch {
        Epoch::of(self.grant, self.number)
    }
}

/// The catalog's place for the grain: there is never a second (R12).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Slot {
    /// Nothing.
    Empty,
    /// An acquire is under way.
    Claiming(AcquireId),
    /// Somebody.
    Active(Activation),
}

/// A node.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Node {
    /// Its place.
    pub n: usize,
    /// Process starts so far.
    pub starts: u32,
    /// Sessions asked for by this process.
    attempts: u32,
    /// The sessions of this process, the current one last.
    holders: Vec<Holder>,
    /// Whether the last of them is the current one.
    has_session: bool,
    /// Past the local deadline.
    pub frozen: bool,
    /// Whether it was told that a session of it is dead.
    pub heard_dead: bool,
    /// Sessions it was told are dead.
    pub past: Vec<SessionId>,
    /// The product's.
    pub book: LeaseBook,
    /// See [`Slot`].
    pub slot: Slot,
    /// Activations made by this process.
    numbers: u32,
    /// An image that has arrived.
    pub image: Option<super::Image>,
    /// The release or move (to whom) that is repeated until it is answered.
    pub handing_back: Option<(SessionId, Grant, Option<SessionId>)>,
    /// The session of the process before, of whose death a launcher knows (R18).
    pub gone: Option<SessionId>,
}

impl Node {
    /// A process that has just started.
    pub fn new(n: usize) -> Self {
        Self {
            n,
            starts: 0,
            attempts: 0,
            holders: Vec::new(),
            has_session: false,
            frozen: false,
            heard_dead: false,
            past: Vec::new(),
            book: LeaseBook::default(),
            slot: Slot::Empty,
            numbers: 0,
            image: None,
            handing_back: None,
            gone: None,
        }
    }

    /// Opens a session and hears of its first renewal.
    pub fn join(&mut self, meta: &mut Meta) {
        self.attempts += 1;
        let incarnation = 1000 * self.n as u128 + u128::from(self.starts);
        let session = meta.join(self.n, incarnation, self.attempts);
        let holder = Holder::opened(session, Duration::from_millis(TTL_MS));
        holder.lease().renewed(BootTime(0));
        self.holders.push(holder);
        self.has_session = true;
        self.frozen = false;
        self.book.session(Some(session));
    }

    /// The process is gone; the next one remembers nothing.
    pub fn crash(&mut self) {
        *self = Self { starts: self.starts + 1, gone: self.session(), ..Self::new(self.n) };
    }

    /// The session in use.
    pub fn session(&self) -> Option<SessionId> {
        self.holder().map(|h| h.lease().id())
    }

    fn holder(&self) -> Option<&Holder> {
        self.holders.last().filter(|_| self.has_session)
    }

    /// Whether the session in use is valid now.
    pub fn is_valid(&self) -> bool {
        self.holder().is_some_and(|h| h.lease().valid_at(self.now(h)))
    }

    /// A clock read: before or after the local deadline, which is all that an untimed model knows.
    fn now(&self, holder: &Holder) -> BootTime {
        let is_current = self.holder().is_some_and(|h| h == holder);
        if is_current && !self.frozen { BootTime(0) } else { holder.lease().valid_until() }
    }

    /// The entry and exit check of `runtime::fence`: the activation's own session, a fresh clock read (R12).
    pub fn standing(&self, act: &Activation) -> Standing {
        if off(Rule::R12) && self.is_valid() {
            return Standing::Valid;
        }
        let own = self.holders.iter().find(|h| h.lease().id() == act.session);
        own.map_or(Standing::Ended, |own| own.standing(self.now(own)))
    }

    /// The activation, if there is one.
    pub fn activation(&self) -> Option<&Activation> {
        match &self.slot {
            Slot::Active(act) => Some(act),
            Slot::Empty | Slot::Claiming(_) => None,
        }
    }

    /// The answer "dead" (R4): the lease object first, then the book, then what was done under it. A turn
    /// that runs is left to run: nothing of it leaves.
    pub fn hear_dead(&mut self) {
        let Some(session) = self.session() else { return };
        if let Some(holder) = self.holders.last() {
            holder.lease().end();
        }
        self.past.push(session);
        (self.has_session, self.frozen, self.heard_dead) = (false, false, true);
        self.book.ended(session);
        self.handing_back = None;
        match &self.slot {
            Slot::Active(act) if act.stage == Stage::Turn => {}
            Slot::Active(_) | Slot::Claiming(_) | Slot::Empty => self.slot = Slot::Empty,
        }
    }

    /// An activation is born: it has a number that no other of this process had (R3).
    pub fn born(&mut self, session: SessionId, grant: Grant, previous: Option<Grant>) {
        self.numbers += 1;
        self.slot = Slot::Active(Activation {
            session,
            grant,
            previous,
            number: self.numbers,
            stage: Stage::Opening,
            version: 0,
            memory: 0,
            from_image: false,
        });
    }
}
