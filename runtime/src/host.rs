//! One grain type on this node: delivers messages to activations, sweeps idle ones, ends those whose
//! right has gone.

use std::{
    any::{Any, TypeId},
    collections::HashSet,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use millet_core::{
    BootTime, BoxFuture, ErrorKind, GrainId, GrainType, Grant, Key, MethodId, MethodInfo, PlatformError,
    Service, SessionId, ShardId,
    hash::{key_hash, shard_of},
    model::Ownership,
};
use parking_lot::Mutex;

use crate::{
    EndReason, Grain, GrainOptions, Hosted,
    activation::{Activation, EndGuard, NotTaken, System},
    catalog::{Catalog, PARTS},
    create::Source,
    deps::Deps,
    life,
    parcel::{Blocker, FirstPoll, Parcel},
    persistent::Slot,
    run::answer_panic,
    service::caught_now,
    trouble::Troubles,
};

/// Activations a sweep ends per part and tick; the rest waits for the next round.
const SWEPT_AT_ONCE: usize = 64;
/// Parts of the catalog per sweep: a round takes [`PARTS`] / this sweeps.
const PARTS_AT_ONCE: usize = 16;
/// Keys remembered whose last write has an unknown outcome; beyond it every activation of the type opens.
const UNSETTLED: usize = 16_384;

pub(crate) struct Host<G: Grain> {
    me: Weak<Self>,
    pub(crate) ty: GrainType,
    pub(crate) options: GrainOptions,
    pub(crate) idle_ms: Option<u32>,
    pub(crate) deps: Arc<Deps>,
    pub(crate) catalog: Catalog<G>,
    numbers: AtomicU32,
    slots: Mutex<Vec<(String, Arc<Slot>)>>,
    troubles: Mutex<Troubles>,
    troubled: AtomicUsize,
    unsettled: Mutex<HashSet<Key>>,
    all_unsettled: AtomicBool,
    swept: AtomicUsize,
}

/// Who may be made to take a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Activate {
    /// An activation is made if there is none.
    Yes,
    /// Only where the directory would put the grain here.
    IfPreferred,
}

/// Why a message was not taken.
pub(crate) enum NotDelivered {
    /// Not active here, and not to be activated here.
    Elsewhere,
    /// It will not run.
    Refused(ErrorKind),
}

/// A message that was not taken, and why.
pub(crate) type Undelivered<S> = Box<(NotDelivered, Parcel<S>)>;

/// The way to grains of a service on this node, blind to the type that implements them.
pub(crate) trait Deliver<S: Hosted>: Send + Sync {
    fn deliver(
        &self,
        key: &Key,
        parcel: Parcel<S>,
        poll: FirstPoll,
        activate: Activate,
    ) -> Result<(), Undelivered<S>>;
    fn blocker(&self, key: &Key) -> Option<Blocker>;
}

impl<G: Grain> Host<G> {
    pub(crate) fn new(ty: GrainType, options: GrainOptions, deps: Arc<Deps>) -> Arc<Self> {
        let idle_ms = options.idle_after.map(|d| u32::try_from(d.as_millis()).unwrap_or(u32::MAX).max(1));
        let catalog = Catalog::new(deps.entropy.next_u64());
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            ty,
            options,
            idle_ms,
            deps,
            catalog,
            numbers: AtomicU32::new(0),
            slots: Mutex::default(),
            troubles: Mutex::default(),
            troubled: AtomicUsize::new(0),
            unsettled: Mutex::default(),
            all_unsettled: AtomicBool::new(false),
            swept: AtomicUsize::new(0),
        })
    }

    pub(crate) fn method(&self, id: MethodId) -> Option<&'static MethodInfo> {
        <G::Service as Service>::METHODS.iter().find(|m| m.id == id)
    }

    /// Activation numbers never repeat within a process (R3); `None` when they are used up.
    pub(crate) fn next_number(&self) -> Option<u32> {
        let n = self.numbers.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_add(1)).ok()?;
        n.checked_add(1)
    }

    // ------------------------------------------------------------ messages that do not run

    /// Answers a message with an error of this grain type.
    pub(crate) fn refuse(&self, parcel: Parcel<G::Service>, kind: ErrorKind) {
        self.refuse_with(parcel, kind.into());
    }

    pub(crate) fn refuse_with(&self, parcel: Parcel<G::Service>, error: PlatformError) {
        if parcel.head.one_way {
            self.deps.counters.tells_lost.add(1);
            tracing::warn!(ty = %self.ty, %error, "tell lost");
        }
        parcel.reject(error);
    }

    fn deliver_here(
        &self,
        key: &Key,
        mut parcel: Parcel<G::Service>,
        poll: FirstPoll,
        activate: Activate,
    ) -> Result<(), Undelivered<G::Service>> {
        loop {
            let act = match self.catalog.find(key) {
                Some(act) => act,
                None => match self.make(key, activate) {
                    Ok(act) => act,
                    Err(not) => return Err(Box::new((not, parcel))),
                },
            };
            match act.push(self, parcel, poll) {
                Ok(()) => return Ok(()),
                Err(NotTaken::Gone(act, back)) => {
                    self.catalog.remove(&act);
                    parcel = back;
                }
                Err(NotTaken::Full(act, back)) => {
                    self.deps.counters.overloaded.add(1);
                    let what = format!("the mailbox of {} holds {} messages", act.id(), self.options.mailbox);
                    let kind = ErrorKind::Overloaded { retry_after: Duration::from_millis(100), what };
                    return Err(Box::new((NotDelivered::Refused(kind), back)));
                }
            }
        }
    }

    fn make(&self, key: &Key, activate: Activate) -> Result<Arc<Activation<G>>, NotDelivered> {
        if activate == Activate::IfPreferred
            && !self.deps.owners.prefers_here(&GrainId::new(self.ty.clone(), key.clone()))
        {
            return Err(NotDelivered::Elsewhere);
        }
        self.may_activate(key).map_err(NotDelivered::Refused)?;
        let made =
            self.me.upgrade().and_then(|me| self.catalog.find_or(key, || Activation::new(key.clone(), me)));
        made.ok_or_else(|| {
            NotDelivered::Refused(ErrorKind::Unavailable { what: "this runtime has stopped".into() })
        })
    }

    // ------------------------------------------------------------ trouble

    /// Not in quarantine, not waiting for its next try.
    pub(crate) fn may_activate(&self, key: &Key) -> Result<(), ErrorKind> {
        if self.troubled.load(Ordering::Acquire) == 0 {
            return Ok(());
        }
        let now = self.deps.clock.boottime();
        self.troubles.lock().check(key, now)
    }

    pub(crate) fn activated(&self, key: &Key) {
        self.deps.counters.activated.add(1);
        if self.troubled.load(Ordering::Acquire) > 0 {
            self.with_troubles(|t| t.activated(key));
        }
    }
    pub(crate) fn activation_failed(&self, key: &Key, why: &str, now: BootTime) {
        self.deps.counters.activations_failed.add(1);
        self.with_troubles(|t| t.failed(key, why, now));
    }
    pub(crate) fn panicked(&self, key: &Key, now: BootTime) {
        if self.with_troubles(|t| t.panicked(key, now)) {
            tracing::error!(grain = %GrainId::new(self.ty.clone(), key.clone()), "panicked too often: in quarantine");
        }
    }
    fn with_troubles<T>(&self, f: impl FnOnce(&mut Troubles) -> T) -> T {
        let mut troubles = self.troubles.lock();
        let out = f(&mut troubles);
        self.troubled.store(troubles.len(), Ordering::Release);
        out
    }

    // ------------------------------------------------------------ unknown outcomes (R3)

    pub(crate) fn mark_unsettled(&self, key: &Key) {
        let mut unsettled = self.unsettled.lock();
        if unsettled.len() < UNSETTLED {
            unsettled.insert(key.clone());
        } else {
            self.all_unsettled.store(true, Ordering::Release);
        }
    }
    pub(crate) fn mark_settled(&self, key: &Key) {
        self.unsettled.lock().remove(key);
    }
    pub(crate) fn is_unsettled(&self, key: &Key) -> bool {
        self.all_unsettled.load(Ordering::Acquire) || self.unsettled.lock().contains(key)
    }

    // ------------------------------------------------------------ ends

    /// Drops an activation whose right has gone. Idle: at once. Running: after its turn, which nobody hears.
    /// What waits for it goes elsewhere.
    fn drop_revoked(&self, act: &Arc<Activation<G>>, reason: EndReason) -> u64 {
        act.revoke();
        let waiting = act.take_queue();
        let mut dirty = 0;
        if let Some(mut g) = act.seize_idle() {
            dirty = life::count_dirty(act, &mut *g, reason);
            if let Err(panic) = caught_now(|| drop(g)) {
                answer_panic(act, panic, "drop");
            }
            life::bury(act, reason, waiting.into());
        } else {
            for parcel in waiting {
                self.refuse(parcel, ErrorKind::Fenced);
            }
            // Wakes a run that waits among readers or for its session.
            act.push_system(System::End(reason, None));
        }
        dirty
    }

    fn end_where(&self, wanted: impl Fn(&Activation<G>) -> bool, reason: EndReason, guard: &EndGuard) {
        for part in 0..PARTS {
            for act in self.catalog.pick(part, usize::MAX, &wanted) {
                act.push_system(System::End(reason, Some(guard.clone())));
            }
        }
    }
}

impl<G: Grain> Source for Host<G> {
    fn slot(&self, store: &str, name: &'static str) -> Result<Arc<Slot>, String> {
        let mut slots = self.slots.lock();
        if let Some((_, slot)) = slots.iter().find(|(s, slot)| s == store && slot.name == name) {
            return Ok(slot.clone());
        }
        let found = self.deps.stores.get(store).ok_or_else(|| {
            let mut known: Vec<_> = self.deps.stores.keys().map(String::as_str).collect();
            known.sort_unstable();
            format!(
                "no state store {store:?} for state {name:?}; known: {}; add it with `.store({store:?}, …)`",
                known.join(", ")
            )
        })?;
        let slot = Arc::new(Slot { name, store: found.clone() });
        slots.push((store.to_owned(), slot.clone()));
        Ok(slot)
    }

    fn resource(&self, ty: TypeId, name: &'static str) -> Result<Arc<dyn Any + Send + Sync>, String> {
        let found = self.deps.resources.get(&ty).cloned();
        found
            .ok_or_else(|| format!("no resource of type {name}; give one to the builder with `.resource(…)`"))
    }
}

impl<G: Grain> Deliver<G::Service> for Host<G> {
    fn deliver(
        &self,
        key: &Key,
        parcel: Parcel<G::Service>,
        poll: FirstPoll,
        activate: Activate,
    ) -> Result<(), Undelivered<G::Service>> {
        self.deliver_here(key, parcel, poll, activate)
    }
    fn blocker(&self, key: &Key) -> Option<Blocker> {
        self.catalog.find(key)?.blocker()
    }
}

/// A host without its type.
pub(crate) trait AnyHost: Send + Sync {
    fn dispatch(self: Arc<Self>, envelope: millet_core::Envelope)
    -> BoxFuture<'static, millet_core::Outcome>;
    /// Starts the idle sweep.
    fn start(&self);
    fn session_ended(&self, session: SessionId) -> (u64, u64);
    fn close_shard(&self, shard: ShardId, grant: Grant, guard: &EndGuard);
    fn drain(&self, guard: &EndGuard);
    fn outranked(&self, key: &Key, grant: Grant);
    fn len(&self) -> usize;
    fn quarantined(&self) -> usize;
    fn clear(&self);
}

impl<G: Grain> AnyHost for Host<G> {
    fn dispatch(
        self: Arc<Self>,
        envelope: millet_core::Envelope,
    ) -> BoxFuture<'static, millet_core::Outcome> {
        crate::dispatch::dispatch(self, envelope)
    }

    fn start(&self) {
        let Some(idle) = self.options.idle_after else { return };
        let rounds = u32::try_from(PARTS / PARTS_AT_ONCE).expect("a small number");
        let every = (idle / (4 * rounds)).clamp(Duration::from_millis(10), Duration::from_secs(1));
        sweep_later(&self.me, every, &self.deps);
    }

    fn session_ended(&self, session: SessionId) -> (u64, u64) {
        let (mut ended, mut dirty) = (0, 0);
        for part in 0..PARTS {
            for act in self.catalog.pick(part, usize::MAX, |a| a.session() == Some(session)) {
                ended += 1;
                dirty += self.drop_revoked(&act, EndReason::SessionEnded);
            }
        }
        (ended, dirty)
    }

    fn close_shard(&self, shard: ShardId, grant: Grant, guard: &EndGuard) {
        let Ownership::Sharded { shards } = self.options.ownership else { return };
        let of_shard = |a: &Activation<G>| match a.born.get() {
            Some(born) => born.shard == Some(shard) && born.grant <= grant,
            // Its claim may just have been granted: it ends before its first turn.
            None => shard_of(key_hash(self.ty.id(), &a.key), shards) == shard,
        };
        self.end_where(of_shard, EndReason::ShardMoved, guard);
    }

    fn drain(&self, guard: &EndGuard) {
        if self.options.ownership == Ownership::Leased {
            self.end_where(|_| true, EndReason::Drain, guard);
        }
    }

    fn outranked(&self, key: &Key, grant: Grant) {
        if let Some(act) = self.catalog.find(key)
            && act.born.get().is_some_and(|b| b.grant < grant)
        {
            tracing::warn!(grain = %act.id(), %grant, "outranked: another activation holds a higher grant");
            self.drop_revoked(&act, EndReason::Outranked);
        }
    }

    fn len(&self) -> usize {
        self.catalog.len()
    }
    fn quarantined(&self) -> usize {
        let now = self.deps.clock.boottime();
        self.troubles.lock().quarantined(now)
    }
    fn clear(&self) {
        self.catalog.clear();
    }
}

fn sweep_later<G: Grain>(host: &Weak<Host<G>>, every: Duration, deps: &Arc<Deps>) {
    let host = host.clone();
    let job = Box::new(move || {
        if let Some(h) = host.upgrade() {
            h.sweep();
            sweep_later(&host, every, &h.deps);
        }
    });
    deps.timers.after(every, job);
}

impl<G: Grain> Host<G> {
    /// Looks at some parts of the catalog and ends activations that nobody has called for long.
    fn sweep(&self) {
        let Some(idle_ms) = self.idle_ms else { return };
        let clock = self.deps.clock.boottime();
        let now = self.deps.ms(clock);
        let first = self.swept.fetch_add(PARTS_AT_ONCE, Ordering::Relaxed);
        for part in first..first + PARTS_AT_ONCE {
            for act in self.catalog.pick(part, SWEPT_AT_ONCE, |a| a.is_idle_since(now, idle_ms)) {
                if !act.push_system(System::Collect) {
                    act.touch(clock);
                }
            }
        }
        if self.troubled.load(Ordering::Acquire) > 0 {
            self.with_troubles(|t| t.forget(clock));
        }
    }
}
