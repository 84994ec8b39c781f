//! One live grain: its mailbox with two lanes, its phase, and whether its outputs may leave.
//!
//! Idle, it is this object and the boxed grain: no task, no channel, no buffer. What it does while it
//! runs is `run`'s; how it begins and ends is `life`'s.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering},
    },
    task::Waker,
    time::Duration,
};

use futures::future::AbortHandle;
use millet_core::{
    BootTime, BoxFuture, Epoch, GrainId, Grant, Key, MethodId, SessionLease, ShardId, store::Token,
};
use millet_directory::Claim;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::{
    Ctx, EndReason, Grain,
    host::Host,
    mailbox::Mailbox,
    parcel::{Blocker, FirstPoll, Parcel},
    phase::{Event, Phase},
    run,
    service::Panic,
    wheel::TimerId,
};

/// Work spawned by one activation and not finished, and timers it has; more are refused.
pub(crate) const OFF_TURN: usize = 1024;

/// A piece of work that runs as an exclusive turn.
pub(crate) type Work<G> = Box<dyn for<'a> FnOnce(&'a mut G, &'a Ctx<G>) -> BoxFuture<'a, ()> + Send>;
/// What a timer runs.
pub(crate) type Fire<G> = Arc<dyn for<'a> Fn(&'a mut G, &'a Ctx<G>) -> BoxFuture<'a, ()> + Send + Sync>;

/// Held by whoever ends; when all copies are dropped, the one who waits knows.
pub(crate) type EndGuard = Arc<oneshot::Sender<()>>;

/// The system lane: goes ahead of the user lane.
pub(crate) enum System<G: Grain> {
    /// A continuation of spawned work.
    Continue(Work<G>),
    /// Spawned work panicked.
    WorkPanicked(Panic),
    /// A timer is due.
    Tick(u32),
    /// Write-behind states are due.
    Flush,
    /// End it if nobody has used it since.
    Collect,
    /// End it.
    End(EndReason, Option<EndGuard>),
}

/// The right under which an activation lives, for ever (R12).
pub(crate) struct Born {
    pub(crate) session: Arc<SessionLease>,
    pub(crate) grant: Grant,
    pub(crate) shard: Option<ShardId>,
    pub(crate) number: u32,
}

impl Born {
    pub(crate) fn epoch(&self) -> Epoch {
        Epoch::of(self.grant, self.number)
    }
    pub(crate) fn token(&self) -> Token {
        Token { epoch: self.epoch(), session: self.session.id() }
    }
    pub(crate) fn claim(&self) -> Claim {
        Claim { session: self.session.clone(), grant: self.grant, shard: self.shard, previous: None }
    }
}

/// In this order: what senders write lies more than a cache line before what a run writes, so that a sender
/// and a run on two cores do not take the line from each other with every message.
#[repr(C)]
pub(crate) struct Activation<G: Grain> {
    pub(crate) inner: Mutex<Inner<G>>,
    pub(crate) key: Key,
    pub(crate) host: Arc<Host<G>>,
    pub(crate) born: OnceLock<Born>,
    /// The turn that started last: method id in the high half, when in the low (milliseconds since the
    /// runtime's start). Tells timed-out callers what was in their way.
    turn: AtomicU64,
    /// When it was last called, in milliseconds since the runtime's start.
    last_used: AtomicU32,
    pub(crate) flags: AtomicU8,
}

/// No turn is under way.
const BETWEEN: u64 = 0;

/// Something waits in the system lane.
pub(crate) const SYSTEM: u8 = 1;

pub(crate) struct Inner<G: Grain> {
    grain: Option<Box<G>>,
    queue: Mailbox<Parcel<G::Service>>,
    pub(crate) phase: Phase,
    pub(crate) cold: Option<Box<Cold<G>>>,
}

/// What most idle activations do not have.
pub(crate) struct Cold<G: Grain> {
    system: VecDeque<System<G>>,
    reader_wake: Option<Waker>,
    pub(crate) work: HashMap<u32, AbortHandle>,
    pub(crate) timers: HashMap<u32, Timer<G>>,
    next_id: u32,
    pub(crate) flush_armed: bool,
    guards: Vec<EndGuard>,
    pub(crate) no_work: Option<oneshot::Sender<()>>,
}

pub(crate) struct Timer<G: Grain> {
    pub(crate) fire: Fire<G>,
    pub(crate) every: Option<Duration>,
    pub(crate) armed: Option<TimerId>,
}

impl<G: Grain> Default for Cold<G> {
    fn default() -> Self {
        Self {
            system: VecDeque::new(),
            reader_wake: None,
            work: HashMap::new(),
            timers: HashMap::new(),
            next_id: 0,
            flush_armed: false,
            guards: Vec::new(),
            no_work: None,
        }
    }
}

impl<G: Grain> Inner<G> {
    pub(crate) fn cold(&mut self) -> &mut Cold<G> {
        self.cold.get_or_insert_default()
    }
    fn go(&mut self, event: Event) {
        match self.phase.step(event) {
            Ok(next) => self.phase = next,
            Err(illegal) => {
                debug_assert!(false, "{illegal}");
                tracing::error!(%illegal, "activation phase");
            }
        }
    }
    /// Wakes a run that waits among its readers.
    fn reader_wake(&mut self) -> Option<Waker> {
        self.cold.as_mut()?.reader_wake.take()
    }
}

/// Why a mailbox did not take a message, which comes back.
pub(crate) enum NotTaken<G: Grain> {
    /// The activation has ended: look again.
    Gone(Arc<Activation<G>>, Parcel<G::Service>),
    /// The mailbox is full.
    Full(Arc<Activation<G>>, Parcel<G::Service>),
}

/// What is left when both lanes were looked at.
pub(crate) enum Next<G: Grain> {
    /// The grain was put back; the run is over.
    Idle,
    /// There is more to do.
    More(Box<G>),
    /// There is nothing at the moment.
    Nothing(Box<G>),
}

impl<G: Grain> Activation<G> {
    pub(crate) fn new(key: Key, host: Arc<Host<G>>) -> Self {
        Self {
            key,
            host,
            born: OnceLock::new(),
            turn: AtomicU64::new(0),
            last_used: AtomicU32::new(0),
            flags: AtomicU8::new(0),
            inner: Mutex::new(Inner {
                grain: None,
                queue: Mailbox::default(),
                phase: Phase::New,
                cold: None,
            }),
        }
    }

    /// The next activation of the same grain, with what waited for the last one.
    pub(crate) fn successor(of: &Self, waiting: Vec<Parcel<G::Service>>) -> Self {
        let next = Self::new(of.key.clone(), of.host.clone());
        {
            let mut inner = next.inner.lock();
            inner.queue = waiting.into();
            inner.go(Event::Called);
        }
        next
    }

    pub(crate) fn id(&self) -> GrainId {
        GrainId::new(self.host.ty.clone(), self.key.clone())
    }

    /// Takes a message: an idle activation starts to run with it, a busy one queues it. `host` is its own.
    pub(crate) fn push(
        self: Arc<Self>,
        host: &Host<G>,
        parcel: Parcel<G::Service>,
        poll: FirstPoll,
    ) -> Result<(), NotTaken<G>> {
        let grain = {
            let mut inner = self.inner.lock();
            match inner.phase {
                Phase::Gone => {
                    drop(inner);
                    return Err(NotTaken::Gone(self, parcel));
                }
                Phase::New => {
                    inner.go(Event::Called);
                    None
                }
                Phase::Idle => {
                    inner.go(Event::Woken);
                    inner.grain.take()
                }
                Phase::Claiming | Phase::Loading | Phase::Running | Phase::Draining => {
                    if let Err(parcel) = inner.queue.push(parcel, host.options.mailbox) {
                        drop(inner);
                        return Err(NotTaken::Full(self, parcel));
                    }
                    let wake = inner.reader_wake();
                    drop(inner);
                    if let Some(w) = wake {
                        w.wake();
                    }
                    return Ok(());
                }
            }
        };
        run::start(self, &*host.deps.spawner, grain, Some(parcel), poll);
        Ok(())
    }

    /// Puts an item into the system lane. False if the activation takes none: not begun, or ending.
    pub(crate) fn push_system(self: &Arc<Self>, item: System<G>) -> bool {
        let grain = {
            let mut inner = self.inner.lock();
            match inner.phase {
                Phase::New | Phase::Gone => return false,
                Phase::Draining => {
                    // It ends already: who waits for the end waits for this one.
                    let System::End(_, Some(guard)) = item else { return false };
                    inner.cold().guards.push(guard);
                    return true;
                }
                // A busy one is not idle; it need not be told.
                Phase::Claiming | Phase::Loading | Phase::Running if matches!(item, System::Collect) => {
                    return false;
                }
                Phase::Claiming | Phase::Loading | Phase::Running | Phase::Idle => {}
            }
            inner.cold().system.push_back(item);
            self.flags.fetch_or(SYSTEM, Ordering::Release);
            if inner.phase != Phase::Idle {
                let wake = inner.reader_wake();
                drop(inner);
                if let Some(w) = wake {
                    w.wake();
                }
                return true;
            }
            inner.go(Event::Woken);
            inner.grain.take()
        };
        run::start(self.clone(), &*self.host.deps.spawner, grain, None, FirstPoll::Spawned);
        true
    }

    // ------------------------------------------------------------ for the run that owns the grain

    pub(crate) fn has_system(&self) -> bool {
        self.flags.load(Ordering::Acquire) & SYSTEM != 0
    }

    pub(crate) fn take_system(&self) -> VecDeque<System<G>> {
        let mut inner = self.inner.lock();
        self.flags.fetch_and(!SYSTEM, Ordering::AcqRel);
        inner.cold.as_mut().map(|c| std::mem::take(&mut c.system)).unwrap_or_default()
    }

    /// Fills `batch`, which is empty, with what has gathered, or puts the grain back if nothing has. Who would
    /// `linger` keeps the grain.
    pub(crate) fn refill(
        &self,
        grain: Box<G>,
        batch: &mut VecDeque<Parcel<G::Service>>,
        linger: bool,
    ) -> Next<G> {
        let mut inner = self.inner.lock();
        if self.has_system() {
            return Next::More(grain);
        }
        if inner.queue.is_empty() {
            if linger {
                return Next::Nothing(grain);
            }
            drop(inner.queue.take());
            if inner.cold.as_ref().is_some_and(|c| c.is_empty()) {
                inner.cold = None;
            }
            inner.grain = Some(grain);
            inner.go(Event::Emptied);
            return Next::Idle;
        }
        inner.queue.swap(batch);
        Next::More(grain)
    }

    /// Readers wait here for more readers: takes from the queue those that may join, or leaves a waker.
    /// `all` up to the first writer; otherwise only calls of chains that this grain waits in.
    pub(crate) fn more_readers(
        &self,
        waker: &Waker,
        mut take: impl FnMut(&mut Vec<Parcel<G::Service>>) -> Vec<Parcel<G::Service>>,
    ) -> Vec<Parcel<G::Service>> {
        let mut inner = self.inner.lock();
        let taken = take(inner.queue.waiting());
        if taken.is_empty() {
            inner.cold().reader_wake = Some(waker.clone());
        }
        taken
    }

    pub(crate) fn no_more_readers(&self) {
        let wake = self.inner.lock().reader_wake();
        drop(wake);
    }

    /// Notes that a turn starts.
    pub(crate) fn mark_turn(&self, method: MethodId, now: BootTime, used: bool) {
        let ms = self.host.deps.ms(now);
        self.turn.store((u64::from(method.0) << 32) | u64::from(ms), Ordering::Release);
        if used {
            self.last_used.store(ms, Ordering::Relaxed);
        }
        self.host.deps.counters.turn();
    }

    /// Notes that a turn has ended, before the clock is read for the next: a caller that still sees the
    /// old turn after its deadline knows that its own will not start.
    pub(crate) fn between_turns(&self) {
        self.turn.store(BETWEEN, Ordering::SeqCst);
    }

    /// What keeps it busy, for a caller whose deadline has passed.
    pub(crate) fn blocker(&self) -> Option<Blocker> {
        let phase = self.inner.lock().phase;
        let now = self.host.deps.clock.boottime();
        let turn = self.turn.load(Ordering::SeqCst);
        #[expect(clippy::cast_possible_truncation, reason = "two halves")]
        let (method, since) = ((turn >> 32) as u32, turn as u32);
        let busy_for = Duration::from_millis(u64::from(self.host.deps.ms(now).wrapping_sub(since)));
        let (what, busy_for, alone) = match phase {
            Phase::Claiming => ("(acquiring its lease)", Duration::ZERO, true),
            Phase::Loading => ("(being activated)", Duration::ZERO, true),
            Phase::Draining => ("(ending)", busy_for, false),
            Phase::Running if turn == BETWEEN => ("(between turns)", Duration::ZERO, false),
            Phase::Running => {
                let info = self.host.method(MethodId(method));
                let alone = info.is_some_and(|i| !i.shared);
                (info.map_or("(timer or continuation)", |i| i.name), busy_for, alone)
            }
            Phase::New | Phase::Idle | Phase::Gone => return None,
        };
        // Millisecond steps: the turn may have begun up to one later than noted.
        let since = BootTime(now.0.saturating_sub(u64::try_from(busy_for.as_nanos()).unwrap_or(u64::MAX)));
        let alone_since = match phase {
            Phase::Claiming | Phase::Loading => Some(BootTime(0)),
            _ => alone.then(|| since.after(Duration::from_millis(2))),
        };
        Some(Blocker { grain: self.id(), what, busy_for, alone_since })
    }

    /// Nobody has called it for `idle_ms`, as far as can be seen without its lock.
    pub(crate) fn is_idle_since(&self, now_ms: u32, idle_ms: u32) -> bool {
        now_ms.wrapping_sub(self.last_used.load(Ordering::Relaxed)) >= idle_ms
    }

    /// As a run sees it while it holds the grain: has it been unused for so long, with no work under way?
    pub(crate) fn may_be_collected(&self, now_ms: u32, idle_ms: u32) -> bool {
        let inner = self.inner.lock();
        inner.queue.is_empty()
            && inner.cold.as_ref().is_none_or(|c| c.work.is_empty())
            && now_ms.wrapping_sub(self.last_used.load(Ordering::Relaxed)) >= idle_ms
    }

    pub(crate) fn touch(&self, now: BootTime) {
        self.last_used.store(self.host.deps.ms(now), Ordering::Relaxed);
    }

    pub(crate) fn go(&self, event: Event) {
        self.inner.lock().go(event);
    }

    /// The last step: nothing is taken any more. Returns what was waiting, and what is to be let go of
    /// without a lock: users' closures may have a `Drop` of their own.
    pub(crate) fn close(&self, event: Event) -> (Vec<Parcel<G::Service>>, Remains<G>) {
        let mut inner = self.inner.lock();
        inner.go(event);
        (inner.queue.take(), Remains { _cold: inner.cold.take() })
    }

    pub(crate) fn keep_guard(&self, guard: Option<EndGuard>) {
        if let Some(guard) = guard {
            self.inner.lock().cold().guards.push(guard);
        }
    }

    /// Takes the grain of an idle activation whose right has gone; its queue is empty then. With it goes
    /// everything else.
    pub(crate) fn seize_idle(&self) -> Option<Box<G>> {
        let mut inner = self.inner.lock();
        if inner.phase != Phase::Idle {
            return None;
        }
        inner.go(Event::Ending);
        inner.grain.take()
    }

    /// Takes what waits in the user lane, for an activation whose right has gone.
    pub(crate) fn take_queue(&self) -> Vec<Parcel<G::Service>> {
        self.inner.lock().queue.take()
    }
}

/// What an ended activation leaves behind: the guards of those who wait for its end, continuations that
/// never ran.
pub(crate) struct Remains<G: Grain> {
    _cold: Option<Box<Cold<G>>>,
}

impl<G: Grain> Default for Remains<G> {
    fn default() -> Self {
        Self { _cold: None }
    }
}

impl<G: Grain> Cold<G> {
    pub(crate) fn fresh_id(&mut self) -> u32 {
        self.next_id = self.next_id.wrapping_add(1);
        self.next_id
    }
    fn is_empty(&self) -> bool {
        self.system.is_empty()
            && self.work.is_empty()
            && self.timers.is_empty()
            && self.guards.is_empty()
            && !self.flush_armed
            && self.no_work.is_none()
    }
}
