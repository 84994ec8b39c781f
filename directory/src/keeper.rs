//! The session keeper: a pure state machine that opens a session, keeps it renewed, freezes at its
//! local deadline, thaws when renewed, and gives it up only when it is dead.
//!
//! Inputs carry `now`, outputs are [`Effect`]s; `keeper_loop` turns them into calls. No clock, task or
//! random source lives here. Rules kept: R4, R5, R6, R7, R9, R17, R22.

use std::{collections::VecDeque, time::Duration};

use millet_core::{
    BootTime, Revision, SessionId, SessionLease,
    control::{Rule, off},
    limits,
    model::{Keepalive, KeepaliveAnswer, OpenedSession, Verdict, WorkerLease},
};

use crate::{
    keeper_table::{Happening, Phase},
    rate::Rate,
};

/// A keepalive unanswered for this long is sent again, to every member (R5).
pub const HEDGE_AFTER: Duration = Duration::from_millis(250);
/// And from then on this often (R5).
pub const HEDGE_EVERY: Duration = Duration::from_millis(100);
/// An unanswered `OpenSession` is repeated after this, with the same attempt (R7).
const OPEN_AGAIN: Duration = Duration::from_millis(1000);
/// A failed one after this, doubling up to [`OPEN_AGAIN`].
const OPEN_BACKOFF: Duration = Duration::from_millis(50);
/// "At once" after a `NotRenewed` (R22), but a member that keeps saying so is not asked more often.
const AT_ONCE: Duration = Duration::from_millis(20);
/// Keepalives whose first send is remembered; with eight a TTL, older ones could renew nothing.
const REMEMBERED: usize = 16;
/// A watch that stays behind starts over this often, less one, in the TTL after which the session is given
/// up: often enough to find one good member among three.
const WATCH_TRIES: u32 = 4;

/// How often, and for how long.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct KeeperSettings {
    /// Wished time to live; the store's answer decides.
    pub ttl: Duration,
}

impl Default for KeeperSettings {
    fn default() -> Self {
        Self { ttl: limits::SESSION_TTL }
    }
}

/// What keepalives report about the node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Default)]
pub struct Report {
    /// How far the watch is.
    pub revision: Revision,
    /// Activations alive.
    pub activations: u64,
    /// Snowflake milliseconds asked for (R33).
    pub reserve_ms: u64,
}

/// To whom a keepalive goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum To {
    /// The member that answered last.
    Member(usize),
    /// Every member.
    All,
}

/// Why a session is no longer used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum EndReason {
    /// The store said so. Final.
    Dead,
    /// The watch stayed behind for a whole TTL: the node can not know who owns what (R17).
    LeftBehind,
}

/// What the driver has to do, in this order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Send `OpenSession` with the process's incarnation and this attempt (R7).
    Open {
        /// Rises with every session.
        attempt: u32,
    },
    /// Send a keepalive. `keepalive.number` is the same for repeats (R5).
    Send {
        /// To whom.
        to: To,
        /// What.
        keepalive: Keepalive,
    },
    /// A session has been opened; it grants nothing yet (R7).
    Opened {
        /// The session.
        session: SessionId,
        /// Its fixed time to live.
        ttl: Duration,
        /// Its snowflake worker.
        worker: Option<WorkerLease>,
    },
    /// Credit a renewal to the instant before the named keepalive was first sent (R6).
    Renewed {
        /// The session.
        session: SessionId,
        /// That instant.
        sent: BootTime,
        /// Snowflake milliseconds reserved.
        reserved_ms: u64,
    },
    /// First renewal: the session may be used (R7).
    Ready {
        /// The session.
        session: SessionId,
    },
    /// The local deadline has passed: nothing starts, nothing leaves (R4).
    Frozen {
        /// The session.
        session: SessionId,
    },
    /// Renewed after a freeze: everything goes on (R4).
    Thawed {
        /// The session.
        session: SessionId,
    },
    /// Drop everything that was done under this session, without saving (R4).
    Ended {
        /// The session.
        session: SessionId,
        /// Why.
        why: EndReason,
    },
    /// These sessions of other nodes have ended, as of this revision (R17).
    EndedElsewhere {
        /// Which.
        sessions: Vec<SessionId>,
        /// As of when.
        revision: Revision,
    },
    /// Too many have ended to say which, or the watch does not get on: it must start over, at another
    /// member (R17).
    Resync,
    /// For people: clocks run apart, the node lags.
    Alarm(String),
}

/// The keeper's whole state.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub struct Keeper {
    settings: KeeperSettings,
    phase: Phase,
    attempt: u32,
    /// Opening: when to (re)send. Resting: when to go on.
    wake: BootTime,
    open_backoff: Duration,
    live: Option<Live>,
    report: Report,
}

/// One opened session.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
struct Live {
    id: SessionId,
    ttl: Duration,
    /// The latest number sent; 0: none.
    number: u64,
    /// The latest number answered (R22).
    heard: u64,
    /// First sends, oldest first; at most [`REMEMBERED`].
    sent: VecDeque<(u64, BootTime)>,
    last_sent: BootTime,
    next_at: BootTime,
    hedge_at: BootTime,
    /// The newest keepalive has been repeated, or is about to be: failures do not hasten it again.
    hedged: bool,
    until: BootTime,
    preferred: usize,
    /// The last answer was `NotRenewed`, and the one before it too.
    refused: (bool, bool),
    /// Revisions named in answers that the watch has not reached, and since when (R17).
    behind: VecDeque<(BootTime, Revision)>,
    /// A watch that stays behind is not told to start over again before this.
    restart_at: BootTime,
    rate: Rate,
}

impl Keeper {
    /// A keeper that will open its first session at its first [`Keeper::step`].
    pub fn new(settings: KeeperSettings) -> Self {
        Self {
            settings,
            phase: Phase::Opening,
            attempt: 1,
            wake: BootTime(0),
            open_backoff: OPEN_BACKOFF,
            live: None,
            report: Report::default(),
        }
    }

    /// Where it stands.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The session that keepalives are sent for.
    pub fn session(&self) -> Option<SessionId> {
        self.live.as_ref().map(|l| l.id)
    }

    /// The end of the session's validity as renewed so far.
    pub fn valid_until(&self) -> BootTime {
        self.live.as_ref().map_or(BootTime(0), |l| l.until)
    }

    /// Wished time to live, for `OpenSession`.
    pub fn ttl(&self) -> Duration {
        self.settings.ttl
    }

    /// Takes what the next keepalives report. The watch's revision never goes back.
    pub fn report(&mut self, report: Report) {
        let revision = self.report.revision.max(report.revision);
        self.report = Report { revision, ..report };
        if let Some(live) = &mut self.live {
            while live.behind.front().is_some_and(|(_, r)| *r <= revision) {
                live.behind.pop_front();
            }
        }
    }

    /// When [`Keeper::step`] has something to do next.
    pub fn next_wake(&self) -> BootTime {
        match self.phase {
            Phase::Opening | Phase::Resting => self.wake,
            Phase::Stopped => BootTime::NEVER,
            Phase::Opened | Phase::Serving | Phase::Frozen => {
                self.live.as_ref().map_or(BootTime::NEVER, |l| {
                    let freeze = if self.phase == Phase::Serving { l.until } else { BootTime::NEVER };
                    let hedge = if l.heard < l.number { l.hedge_at } else { BootTime::NEVER };
                    let lag = l.behind.front().map_or(BootTime::NEVER, |(since, _)| since.after(l.ttl));
                    l.next_at.min(freeze).min(hedge).min(lag).min(l.restart_watch_at())
                })
            }
        }
    }

    /// Does what is due at `now`.
    pub fn step(&mut self, now: BootTime) -> Vec<Effect> {
        let mut effects = Vec::new();
        match self.phase {
            Phase::Stopped => {}
            Phase::Resting if now < self.wake => {}
            Phase::Resting => {
                self.go(Happening::Rested);
                self.open(now, &mut effects);
            }
            Phase::Opening if now < self.wake => {}
            Phase::Opening => self.open(now, &mut effects),
            Phase::Opened | Phase::Serving | Phase::Frozen => self.step_live(now, &mut effects),
        }
        effects
    }

    /// The answer to `OpenSession` with this attempt. Late answers to earlier attempts are ignored.
    pub fn opened(&mut self, now: BootTime, attempt: u32, opened: &OpenedSession) -> Vec<Effect> {
        if self.phase != Phase::Opening || attempt != self.attempt {
            return Vec::new();
        }
        self.go(Happening::OpenAnswered);
        self.live = Some(Live::new(opened, now));
        let mut effects =
            vec![Effect::Opened { session: opened.session, ttl: opened.ttl, worker: opened.worker }];
        if off(Rule::R7) {
            effects.push(Effect::Renewed { session: opened.session, sent: now, reserved_ms: 0 });
            effects.push(Effect::Ready { session: opened.session });
        }
        self.step_live(now, &mut effects);
        effects
    }

    /// `OpenSession` failed or its outcome is unknown: it is repeated with the same attempt (R7).
    pub fn open_failed(&mut self, now: BootTime, attempt: u32) {
        if self.phase == Phase::Opening && attempt == self.attempt {
            self.wake = now.after(self.open_backoff);
            self.open_backoff = (self.open_backoff * 2).min(OPEN_AGAIN);
        }
    }

    /// A keepalive could not be delivered to a member: the others are asked without waiting (R5).
    pub fn send_failed(&mut self, now: BootTime, number: u64) {
        if let Some(live) = &mut self.live
            && number == live.number
            && live.heard < number
            && !live.hedged
        {
            live.hedged = true;
            live.hedge_at = now.max(live.last_sent.after(AT_ONCE));
        }
    }

    /// An answer to a keepalive, from the member at this position.
    pub fn answered(&mut self, now: BootTime, from: usize, answer: &KeepaliveAnswer) -> Vec<Effect> {
        let mut effects = Vec::new();
        let revision = self.report.revision;
        let Some(live) = self.live.as_mut().filter(|l| l.id == answer.session && answer.number <= l.number)
        else {
            return effects;
        };
        live.hear(now, from, revision, answer);
        if let Some(sessions) = &answer.ended {
            if !sessions.is_empty() {
                let sessions = sessions.clone();
                effects.push(Effect::EndedElsewhere { sessions, revision: answer.revision });
            }
        } else {
            effects.push(Effect::Resync);
        }
        match answer.verdict {
            Verdict::Renewed => self.renewed(now, answer, &mut effects),
            Verdict::NotRenewed => live.next_soon(now, answer.number),
            Verdict::Dead => {
                self.end(now, EndReason::Dead, &mut effects);
                effects.extend(self.step(now));
            }
        }
        effects
    }

    /// Sends nothing any more, for ever: a graceful leave, or the watchdog.
    pub fn stop(&mut self) {
        if self.phase != Phase::Stopped {
            self.go(Happening::Stop);
            self.live = None;
        }
    }

    fn step_live(&mut self, now: BootTime, effects: &mut Vec<Effect>) {
        let Some(live) = &mut self.live else { return };
        if live.behind.front().is_some_and(|(since, _)| now >= since.after(live.ttl)) {
            effects.push(Effect::Alarm(format!(
                "the watch is at {}, behind what keepalive answers named for a whole ttl: session {} is given up",
                self.report.revision, live.id
            )));
            self.end(now, EndReason::LeftBehind, effects);
            return;
        }
        if now >= live.restart_watch_at() {
            live.restart_at = now.after(live.ttl / WATCH_TRIES);
            effects.push(Effect::Resync);
        }
        if self.phase == Phase::Serving && now >= live.until && off(Rule::R4) {
            return self.end(now, EndReason::Dead, effects);
        }
        if self.phase == Phase::Serving && now >= live.until {
            effects.push(Effect::Frozen { session: live.id });
            self.phase = self.phase.on(Happening::Deadline);
        }
        if now >= live.next_at {
            live.number += 1;
            live.first_send(now);
            // A leader that is cut off and does not know it yet refuses for ever.
            let to = if live.refused == (true, true) { To::All } else { To::Member(live.preferred) };
            effects.push(Effect::Send { to, keepalive: live.keepalive(self.report) });
        } else if live.heard < live.number && now >= live.hedge_at {
            live.hedged = true;
            live.hedge_at = now.after(HEDGE_EVERY);
            effects.push(Effect::Send { to: To::All, keepalive: live.keepalive(self.report) });
        }
    }

    fn renewed(&mut self, now: BootTime, answer: &KeepaliveAnswer, effects: &mut Vec<Effect>) {
        let Some(live) = &mut self.live else { return };
        effects.extend(live.rate.judge(now, answer.cluster_ms).map(Effect::Alarm));
        let Some(sent) = live.sent.iter().find(|(n, _)| *n == answer.number).map(|(_, at)| *at) else {
            return;
        };
        live.until = live.until.max(sent.after(SessionLease::validity(live.ttl)));
        effects.push(Effect::Renewed { session: live.id, sent, reserved_ms: answer.reserved_ms });
        if now >= live.until {
            return; // too late an answer: it thaws nothing
        }
        match self.phase {
            Phase::Opened => {
                self.open_backoff = OPEN_BACKOFF;
                effects.push(Effect::Ready { session: live.id });
            }
            Phase::Frozen => effects.push(Effect::Thawed { session: live.id }),
            Phase::Serving | Phase::Opening | Phase::Resting | Phase::Stopped => {}
        }
        self.go(Happening::Renewed);
    }

    fn end(&mut self, now: BootTime, why: EndReason, effects: &mut Vec<Effect>) {
        let Some(live) = self.live.take() else { return };
        effects.push(Effect::Ended { session: live.id, why });
        self.attempt += 1;
        match why {
            // At once, unless it died before it was ever of use: a store that keeps ending sessions (or a
            // clone of this process that opens its own) is not stormed.
            EndReason::Dead if self.phase == Phase::Opened => {
                self.wake = now.after(self.open_backoff);
                self.open_backoff = (self.open_backoff * 2).min(OPEN_AGAIN);
                self.go(Happening::Dead);
            }
            EndReason::Dead => {
                self.wake = now;
                self.go(Happening::Dead);
            }
            // The old session is fenced here, but its turns may still run: it is left to expire by
            // itself before a higher attempt would end it (R18).
            EndReason::LeftBehind => {
                self.wake = now.after(live.ttl);
                self.go(Happening::LeftBehind);
            }
        }
    }

    fn open(&mut self, now: BootTime, effects: &mut Vec<Effect>) {
        self.wake = now.after(OPEN_AGAIN);
        effects.push(Effect::Open { attempt: self.attempt });
    }

    fn go(&mut self, happening: Happening) {
        self.phase = self.phase.on(happening);
    }
}

impl Live {
    fn new(opened: &OpenedSession, now: BootTime) -> Self {
        Self {
            id: opened.session,
            ttl: opened.ttl,
            number: 0,
            heard: 0,
            sent: VecDeque::new(),
            last_sent: now,
            next_at: now,
            hedge_at: BootTime::NEVER,
            hedged: false,
            until: BootTime(0),
            preferred: 0,
            refused: (false, false),
            behind: VecDeque::new(),
            restart_at: BootTime(0),
            rate: Rate::default(),
        }
    }

    fn first_send(&mut self, now: BootTime) {
        if self.sent.len() == REMEMBERED {
            self.sent.pop_front();
        }
        self.sent.push_back((self.number, now));
        self.last_sent = now;
        self.next_at = now.after(self.ttl / 8);
        self.hedge_at = now.after(HEDGE_AFTER);
        self.hedged = false;
    }

    fn keepalive(&self, report: Report) -> Keepalive {
        Keepalive {
            session: self.id,
            number: self.number,
            heard: self.heard,
            revision: report.revision,
            activations: report.activations,
            reserve_ms: report.reserve_ms,
        }
    }

    fn hear(&mut self, now: BootTime, from: usize, mine: Revision, answer: &KeepaliveAnswer) {
        self.heard = self.heard.max(answer.number);
        self.preferred = from;
        self.refused = (answer.verdict == Verdict::NotRenewed, self.refused.0);
        let known = self.behind.back().map_or(mine, |(_, r)| *r);
        if answer.revision > known.max(mine) {
            let full = self.behind.len() == REMEMBERED;
            match self.behind.back_mut() {
                Some(back) if full => back.1 = answer.revision, // the earlier instant stays: stricter
                Some(_) | None => self.behind.push_back((now, answer.revision)),
            }
        }
    }

    fn next_soon(&mut self, now: BootTime, number: u64) {
        if number == self.number {
            self.next_at = self.next_at.min(now.max(self.last_sent.after(AT_ONCE)));
        }
    }

    /// The member that serves the watch may be cut off while the others are well: another one is tried
    /// before the session is given up.
    fn restart_watch_at(&self) -> BootTime {
        let behind = self.behind.front().map(|(since, _)| since.after(self.ttl / WATCH_TRIES));
        behind.map_or(BootTime::NEVER, |at| at.max(self.restart_at))
    }
}
