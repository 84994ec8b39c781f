//! Keepalives on their way into a Tick, and the answers on their way back (R6, R22).
//!
//! `W` is whatever carries an answer to its node (a oneshot sender in the service).

use std::collections::{BTreeMap, VecDeque};

use millet_core::{
    BootTime, Revision, SessionId,
    control::{Rule, off},
    limits,
    model::{Keepalive, KeepaliveAnswer, Verdict},
};

use super::LeaderClock;
use crate::machine::{Command, Machine, Renewed, Tick, Ticked};

/// How many numbers back the last heard answer may be for a session to be renewed (R22).
const HEARD_WITHIN: u64 = 2;

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Waiter<W> {
    number: u64,
    revision: Revision,
    to: W,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Pending<W> {
    newest: Renewed,
    waiters: VecDeque<Waiter<W>>,
}

impl<W> Pending<W> {
    /// Takes over what came in later or earlier for the same session; returns a waiter over the limit.
    fn merge(&mut self, renewed: Renewed, waiters: impl IntoIterator<Item = Waiter<W>>) -> Option<W> {
        if renewed.number >= self.newest.number {
            let reserve_ms = self.newest.reserve_ms.max(renewed.reserve_ms);
            self.newest = Renewed { reserve_ms, ..renewed };
        }
        self.waiters.extend(waiters);
        let mut dropped = None;
        while self.waiters.len() > limits::KEEPALIVE_WAITERS {
            dropped = self.waiters.pop_front().map(|w| w.to);
        }
        dropped
    }
}

type Set<W> = BTreeMap<SessionId, Pending<W>>;

/// What became of a keepalive as it came in.
#[derive(Debug)]
pub enum Offered<W> {
    /// It waits for the next Tick. `dropped`: the oldest repeat, over its limit; let go of it unanswered.
    Queued {
        /// See above.
        dropped: Option<W>,
    },
    /// Answered at once: not renewed (R22), or dead already.
    Answer(W, KeepaliveAnswer),
}

/// Collects keepalives between two Ticks: at most one entry per living session.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Renewals<W> {
    open: Set<W>,
}

impl<W> Default for Renewals<W> {
    fn default() -> Self {
        Self { open: BTreeMap::new() }
    }
}

fn answer(
    machine: &Machine,
    node_is_at: Revision,
    verdict: Verdict,
    renewed: (SessionId, u64, u64),
) -> KeepaliveAnswer {
    let (session, number, reserved_ms) = renewed;
    KeepaliveAnswer {
        session,
        number,
        verdict,
        revision: machine.revision(),
        ended: machine.ended_since(node_is_at),
        reserved_ms,
        cluster_ms: machine.time_ms(),
    }
}

impl<W> Renewals<W> {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a keepalive in. `machine` is the leader's own, with the first entry of its leadership
    /// applied. A session that does not hear answers is not renewed (R22); a dead one stays dead.
    pub fn offer(&mut self, machine: &Machine, keepalive: &Keepalive, to: W) -> Offered<W> {
        let Keepalive { session, number, heard, revision, activations, reserve_ms } = *keepalive;
        let at_once = if machine.is_ended(session) {
            Some(Verdict::Dead)
        } else if machine.session(session).is_none()
            || number.saturating_sub(heard) > HEARD_WITHIN && !off(Rule::R22)
        {
            Some(Verdict::NotRenewed)
        } else {
            None
        };
        if let Some(verdict) = at_once {
            return Offered::Answer(to, answer(machine, revision, verdict, (session, number, 0)));
        }
        let newest = Renewed { session, number, reserve_ms, load: activations };
        let pending = self.open.entry(session).or_insert(Pending { newest, waiters: VecDeque::new() });
        Offered::Queued { dropped: pending.merge(newest, [Waiter { number, revision, to }]) }
    }

    /// Sessions heard from since the last close.
    pub fn len(&self) -> usize {
        self.open.len()
    }
    /// Whether none was.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Closes the set: what comes in from now on belongs to the next Tick. The clock is read after this
    /// and never before (R6), which is why only a closed set can be stamped.
    pub fn close(&mut self) -> ClosedSet<W> {
        ClosedSet { set: std::mem::take(&mut self.open) }
    }

    /// Puts a set back that was not stamped.
    pub fn reopen(&mut self, closed: ClosedSet<W>) {
        for (session, pending) in closed.set {
            match self.open.entry(session) {
                std::collections::btree_map::Entry::Vacant(slot) => {
                    slot.insert(pending);
                }
                std::collections::btree_map::Entry::Occupied(mut slot) => {
                    slot.get_mut().merge(pending.newest, pending.waiters);
                }
            }
        }
    }
}

/// A set of keepalives that takes no more in.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ClosedSet<W> {
    set: Set<W>,
}

impl<W> ClosedSet<W> {
    /// Reads the clock and makes the Tick. `read` is a fresh read of CLOCK_BOOTTIME, called here.
    /// `wall_ms` bounds snowflake reservations only. Gives the set back if the clock says that this is
    /// no time to propose (a stall since the set was closed, leadership over): `Renewals::reopen` it.
    pub fn stamp(
        self,
        clock: &mut LeaderClock,
        read: impl FnOnce() -> BootTime,
        wall_ms: u64,
    ) -> Result<Proposal<W>, Self> {
        let now = if off(Rule::R6) { clock.asked() } else { read() };
        let Some(time_ms) = clock.stamp(now) else { return Err(self) };
        let renewed = self.set.values().map(|pending| pending.newest).collect();
        let command = Command::Tick(Tick { time_ms, wall_ms, renewed });
        Ok(Proposal { command, set: self.set })
    }
}

/// A Tick to be proposed, for the proposer's own term only.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Proposal<W> {
    command: Command,
    set: Set<W>,
}

impl<W> Proposal<W> {
    /// The Tick.
    pub fn command(&self) -> &Command {
        &self.command
    }

    /// The answers, made from the apply result (R6): each waiter hears of its own keepalive number. The
    /// caller hands the time in `ticked`, and a clock read after it, to `LeaderClock::applied`.
    pub fn applied(mut self, machine: &Machine, ticked: &Ticked) -> Vec<(W, KeepaliveAnswer)> {
        let mut answers = Vec::with_capacity(ticked.answers.len());
        for result in &ticked.answers {
            let Some(pending) = self.set.remove(&result.session) else { continue };
            for waiter in pending.waiters {
                let renewed = (result.session, waiter.number, result.reserved_ms);
                let mut answer = answer(machine, waiter.revision, result.verdict(), renewed);
                answer.revision = ticked.revision;
                // More entries may have been applied since: their ends are the next answer's.
                answer.ended = machine.ended_between(waiter.revision, ticked.revision);
                answer.cluster_ms = ticked.time_ms;
                answers.push((waiter.to, answer));
            }
        }
        answers
    }

    /// It failed, or nobody knows: its renewals go into the next Tick (R21).
    pub fn failed(self, renewals: &mut Renewals<W>) {
        renewals.reopen(ClosedSet { set: self.set });
    }
}
