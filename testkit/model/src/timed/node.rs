//! A node: the product's keeper and session lease, and what `keeper_loop` does with the keeper's effects.

use std::time::Duration;

use millet_core::{
    BootTime, Revision, SessionId,
    model::{KeepaliveAnswer, OpenedSession, Verdict},
};
use millet_directory::{
    Keeper, KeeperSettings,
    keeper::{Effect, EndReason, Report},
};

use super::{Harm, Held, Message, State, Timed, clock};
use crate::{holder::Holder, meta::Meta};

/// Which way a node is cut off from the leader.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Cut {
    /// Not at all.
    Whole,
    /// It hears nothing.
    Deaf,
    /// It is not heard.
    Mute,
    /// Both.
    Off,
}

/// A node.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Node {
    pub(super) n: usize,
    rate: u64,
    pub(super) start: u32,
    keeper: Keeper,
    /// The session opened last.
    holder: Option<Holder>,
    /// Whether it has become ready (R7).
    ready: bool,
    /// The grain, and the session it was granted to.
    pub(super) grain: Option<Held>,
    pub(super) cut: Cut,
    pub(super) paused: bool,
    /// The step in which it last did what is due.
    pub(super) stepped: Option<u64>,
    /// The step in which it last heard of its session.
    heard_at: u64,
    frozen: bool,
    pub(super) thawed_with_grain: bool,
    pub(super) has_served: bool,
}

impl Node {
    pub(super) fn new(n: usize, rate: u64, model: &Timed) -> Self {
        let mut keeper = Keeper::new(KeeperSettings { ttl: Duration::from_millis(model.ttl_ms) });
        // The watch is `shard`'s: here it is always up to date.
        keeper.report(Report { revision: Revision(u64::MAX), ..Report::default() });
        Self {
            n,
            rate,
            start: 0,
            keeper,
            holder: None,
            ready: false,
            grain: None,
            cut: Cut::Whole,
            paused: false,
            stepped: None,
            heard_at: 0,
            frozen: false,
            thawed_with_grain: false,
            has_served: false,
        }
    }

    /// The next process knows nothing.
    pub(super) fn crash(&mut self, model: &Timed) {
        *self = Self {
            start: self.start + 1,
            cut: self.cut,
            has_served: true,
            ..Self::new(self.n, self.rate, model)
        };
    }

    fn clock(&self, model: &Timed, now: u64) -> BootTime {
        clock(model, 5_000, self.rate, now)
    }

    /// The session, if it is valid now.
    pub(super) fn valid(&self, model: &Timed, now: u64) -> Option<SessionId> {
        let lease = self.holder.as_ref().filter(|_| self.ready)?.lease();
        lease.valid_at(self.clock(model, now)).then_some(lease.id())
    }

    /// Whether a turn of the grain could start, or an output leave.
    pub(super) fn serves(&self, model: &Timed, now: u64) -> bool {
        self.grain.is_some_and(|(session, _)| self.valid(model, now) == Some(session))
    }

    /// R22: a session outlives what its holder has heard of it by a bounded time.
    pub(super) fn is_heard_or_over(&self, model: &Timed, state: &State) -> bool {
        let alive =
            self.holder.as_ref().is_some_and(|h| state.meta.machine.session(h.lease().id()).is_some());
        !alive || state.now <= self.heard_at + model.deaf_limit
    }

    /// Whether the keeper has something to do.
    pub(super) fn is_due(&self, model: &Timed, now: u64) -> bool {
        !self.paused && self.stepped != Some(now) && self.keeper.next_wake() <= self.clock(model, now)
    }

    /// Asks for the grain, under a session that is valid: at once, as the untimed models show messages.
    pub(super) fn wants(&self, model: &Timed, now: u64) -> Option<SessionId> {
        self.valid(model, now)
            .filter(|id| self.grain.is_none_or(|(session, _)| session != *id) && !self.paused)
    }

    pub(super) fn step(
        &mut self,
        model: &Timed,
        now: u64,
        meta: &Meta,
        out: &mut Vec<Message>,
    ) -> Option<Harm> {
        self.stepped = Some(now);
        let effects = self.keeper.step(self.clock(model, now));
        self.perform(effects, now, meta, out)
    }

    pub(super) fn hear(
        &mut self,
        model: &Timed,
        now: u64,
        message: Message,
        meta: &Meta,
        out: &mut Vec<Message>,
    ) -> Option<Harm> {
        let at = self.clock(model, now);
        let effects = match message {
            Message::Opened { start, attempt, session, .. } if start == self.start => {
                let opened =
                    OpenedSession { session, ttl: Duration::from_millis(model.ttl_ms), worker: None };
                self.heard_at = now;
                self.keeper.opened(at, attempt, &opened)
            }
            Message::Answer { session, number, verdict, cluster_ms, .. } => {
                if self.keeper.session() == Some(session) {
                    self.heard_at = now;
                }
                let verdict = [Verdict::Renewed, Verdict::NotRenewed, Verdict::Dead][usize::from(verdict)];
                let answer = KeepaliveAnswer {
                    session,
                    number,
                    verdict,
                    revision: Revision(0),
                    ended: Some(Vec::new()),
                    reserved_ms: 0,
                    cluster_ms,
                };
                self.keeper.answered(at, 0, &answer)
            }
            Message::Opened { .. } | Message::Open { .. } | Message::Keepalive { .. } => return None,
        };
        self.perform(effects, now, meta, out)
    }

    /// As `keeper_loop::Driver::perform`.
    fn perform(
        &mut self,
        effects: Vec<Effect>,
        now: u64,
        meta: &Meta,
        out: &mut Vec<Message>,
    ) -> Option<Harm> {
        let is_over = |session: SessionId| meta.machine.session(session).is_none();
        let mut harm = None;
        for effect in effects {
            match effect {
                Effect::Open { attempt } => {
                    out.push(Message::Open { node: self.n, start: self.start, attempt });
                }
                Effect::Send { to: _, keepalive: k } => out.push(Message::Keepalive {
                    node: self.n,
                    session: k.session,
                    number: k.number,
                    heard: k.heard,
                    sent: now,
                }),
                Effect::Opened { session, ttl, .. } => {
                    (self.holder, self.ready, self.frozen) =
                        (Some(Holder::opened(session, ttl)), false, false);
                }
                Effect::Renewed { sent, .. } => {
                    if let Some(holder) = &self.holder {
                        holder.lease().renewed(sent);
                    }
                }
                Effect::Ready { .. } => self.ready = true,
                Effect::Frozen { .. } => self.frozen = true,
                Effect::Thawed { session } => {
                    self.thawed_with_grain |= self.grain.is_some_and(|(under, _)| under == session);
                    self.frozen = false;
                    harm = harm.or(is_over(session).then_some(Harm::ThawedDead));
                }
                Effect::Ended { session, why } => {
                    if let Some(holder) = self.holder.take() {
                        holder.lease().end();
                    }
                    (self.grain, self.ready, self.frozen) = (None, false, false);
                    let alive = why == EndReason::Dead && !is_over(session);
                    harm = harm.or(alive.then_some(Harm::DroppedAlive));
                }
                Effect::EndedElsewhere { .. } | Effect::Resync | Effect::Alarm(_) => {}
            }
        }
        harm
    }
}
