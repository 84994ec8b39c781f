//! Loading and saving the states of an activation: which, when, and what a failure means.
//!
//! Every store an activation writes to was opened at its birth (R25). A save whose outcome nobody knows
//! ends the activation (R3); so does one that failed for good, because memory and store differ then.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use millet_core::{
    BootTime, ErrorKind, GrainId, PlatformError,
    control::{Point, reached},
    limits,
    model::Ownership,
    store::{StoreError, Stored, Version, Write},
};

use crate::{
    Ctx, Grain, Persistent, Storable,
    activation::{Activation, Born},
    fence::Standing,
    persistent::{Field, Mode, Persist, Slot},
};

/// Pauses between tries while a store does nothing: a failover of the built-in one takes up to 2.5 s.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// A changed state, ready to be saved.
struct Changed {
    slot: Arc<Slot>,
    version: Version,
    value: Result<Bytes, String>,
}

fn visit<G: Grain>(g: &mut G, mut see: impl FnMut(&mut dyn Field)) {
    g.persist(&mut Persist(&mut see));
}

/// Every visited slot, in order.
pub(crate) fn slots<G: Grain>(g: &mut G) -> Vec<Arc<Slot>> {
    let mut found = Vec::new();
    visit(g, |f| found.push(f.slot().clone()));
    found
}

/// How many states differ from the store.
pub(crate) fn dirty_count<G: Grain>(g: &mut G) -> u64 {
    let mut n = 0;
    visit(g, |f| n += u64::from(f.dirty()));
    n
}

/// Whether a turn that ends now has something to save or to arm.
pub(crate) fn is_dirty<G: Grain>(g: &mut G) -> bool {
    let mut dirty = false;
    visit(g, |f| dirty |= f.dirty() && f.mode() != Mode::Manual);
    dirty
}

/// The end of a turn: saves changed write-through states, arms the flush of write-behind ones.
pub(crate) async fn settle<G: Grain>(
    act: &Arc<Activation<G>>,
    g: &mut G,
    until: BootTime,
) -> Result<(), ErrorKind> {
    let mut behind: Option<u32> = None;
    visit(g, |f| {
        if let (true, Mode::Behind(ms)) = (f.dirty(), f.mode()) {
            behind = Some(behind.map_or(ms, |b| b.min(ms)));
        }
    });
    if let Some(ms) = behind {
        act.arm_flush(Duration::from_millis(u64::from(ms)));
    }
    save_where(act, g, |m| m == Mode::Through, until).await
}

/// Saves changed write-behind and write-through states.
pub(crate) async fn flush<G: Grain>(act: &Arc<Activation<G>>, g: &mut G) -> Result<(), ErrorKind> {
    let until = act.host.deps.clock.boottime().after(limits::DEFAULT_DEADLINE);
    save_where(act, g, |m| m != Mode::Manual, until).await
}

async fn save_where<G: Grain>(
    act: &Arc<Activation<G>>,
    g: &mut G,
    which: impl Fn(Mode) -> bool,
    until: BootTime,
) -> Result<(), ErrorKind> {
    let mut changed = Vec::new();
    visit(g, |f| {
        if f.dirty() && which(f.mode()) {
            changed.push(Changed { slot: f.slot().clone(), version: f.version(), value: f.encode() });
        }
    });
    for c in changed {
        let version = save(act, &c.slot, c.version, c.value, until).await?;
        visit(g, |f| {
            if Arc::ptr_eq(f.slot(), &c.slot) {
                f.saved(version);
            }
        });
    }
    Ok(())
}

/// Marks the activation as broken unless the write has a definite, good outcome: also if the future that
/// waits for it is dropped (R3).
struct UntilKnown<'a, G: Grain> {
    act: &'a Activation<G>,
    definite: bool,
}

impl<G: Grain> Drop for UntilKnown<'_, G> {
    fn drop(&mut self) {
        if !self.definite {
            self.act.break_down();
            self.act.host.mark_unsettled(&self.act.key);
        }
    }
}

async fn save<G: Grain>(
    act: &Activation<G>,
    slot: &Slot,
    version: Version,
    value: Result<Bytes, String>,
    until: BootTime,
) -> Result<Version, ErrorKind> {
    let saved = match value {
        Ok(bytes) if bytes.len() > limits::STATE_BYTES => {
            let what = format!("state {:?} of {} bytes", slot.name, bytes.len());
            Err(ErrorKind::TooLarge { what, limit: limits::STATE_BYTES })
        }
        Ok(bytes) => write(act, slot, version, Some(bytes), until).await,
        Err(why) => Err(ErrorKind::Unknown { why }),
    };
    match saved {
        Ok(version) => {
            act.host.deps.counters.saves.add(1);
            Ok(version)
        }
        Err(kind) => {
            act.break_down();
            act.host.deps.counters.saves_failed.add(1);
            tracing::warn!(grain = %act.id(), state = slot.name, error = %kind, "save failed; the activation ends");
            Err(kind)
        }
    }
}

/// One write, repeated while the store says that nothing was done. `None`: clear.
async fn write<G: Grain>(
    act: &Activation<G>,
    slot: &Slot,
    version: Version,
    value: Option<Bytes>,
    until: BootTime,
) -> Result<Version, ErrorKind> {
    let born = act.born.get().expect("an activation that runs has been born");
    let grain = act.id();
    let write = Write { grain: &grain, slot: slot.name, shard: born.shard, token: born.token(), version };
    let mut pause = FIRST_PAUSE;
    loop {
        if !act.may_leave(until).await {
            return Err(ErrorKind::Unknown {
                why: format!("state {:?} was not saved: the lease has ended", slot.name),
            });
        }
        let mut outcome = UntilKnown { act, definite: false };
        reached(Point::BeforeSave);
        let answer = match &value {
            Some(bytes) => slot.store.save(write, bytes.clone()).await,
            None => slot.store.clear(write).await,
        };
        let error = match answer {
            Ok(version) => {
                outcome.definite = true;
                return Ok(version);
            }
            Err(e) => e,
        };
        // `Unknown`, and whatever a newer store may say, leaves `outcome` indefinite.
        outcome.definite = matches!(
            error,
            StoreError::Fenced { .. }
                | StoreError::SessionEnded(_)
                | StoreError::Version { .. }
                | StoreError::TooLarge { .. }
                | StoreError::Unavailable(_)
        );
        let again = matches!(error, StoreError::Unavailable(_))
            && until > act.host.deps.clock.boottime().after(pause);
        if !again {
            return Err(match error {
                StoreError::TooLarge { bytes, limit } => {
                    ErrorKind::TooLarge { what: format!("state {:?} of {bytes} bytes", slot.name), limit }
                }
                e => ErrorKind::Unknown { why: format!("state {:?} may not be saved: {e}", slot.name) },
            });
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Why states could not be loaded.
pub(crate) enum LoadError {
    /// A newer activation has opened the grain, or the session is known to have ended.
    Fenced,
    /// The store did not answer in time.
    Unavailable(String),
    /// What is stored cannot be used.
    Unusable(String),
}

/// Opens (or, where a shard's floor guards it, loads) every state, in the order of `slots`.
pub(crate) async fn load<G: Grain>(
    act: &Activation<G>,
    g: &mut G,
    slots: &[Arc<Slot>],
) -> Result<(), LoadError> {
    if slots.is_empty() {
        return Ok(());
    }
    let born = act.born.get().expect("claimed before");
    let grain = act.id();
    let reopen = matches!(act.host.options.ownership, Ownership::Leased) || act.host.is_unsettled(&act.key);
    let until = act.host.deps.clock.boottime().after(limits::DEFAULT_DEADLINE);
    let mut stored = Vec::with_capacity(slots.len());
    for slot in slots {
        stored.push(load_one(act, &grain, slot, born, reopen, until).await?);
    }
    let mut error = None;
    let mut stored = stored.into_iter();
    visit(g, |f| {
        if let Some(s) = stored.next()
            && let Err(why) = f.load(s.version, s.value.as_deref())
        {
            error.get_or_insert(why);
        }
    });
    if let Some(why) = error {
        return Err(LoadError::Unusable(why));
    }
    if reopen {
        act.host.mark_settled(&act.key);
    }
    Ok(())
}

async fn load_one<G: Grain>(
    act: &Activation<G>,
    grain: &GrainId,
    slot: &Slot,
    born: &Born,
    reopen: bool,
    until: BootTime,
) -> Result<Stored, LoadError> {
    let mut pause = FIRST_PAUSE;
    loop {
        reached(Point::BeforeOpen);
        let answer = match born.shard {
            Some(shard) if !reopen => slot.store.load(grain, slot.name, shard, born.token()).await,
            _ => slot.store.open(grain, slot.name, born.token()).await,
        };
        let error = match answer {
            Ok(stored) => return Ok(stored),
            Err(e) => e,
        };
        // Opening again is safe whatever became of this try: the token is the same.
        let again = matches!(error, StoreError::Unavailable(_) | StoreError::Unknown(_));
        if !again {
            return Err(match error {
                StoreError::Fenced { .. } | StoreError::SessionEnded(_) => LoadError::Fenced,
                e => LoadError::Unusable(format!("state {:?}: {e}", slot.name)),
            });
        }
        if act.standing() == Standing::Ended {
            return Err(LoadError::Fenced);
        }
        if act.host.deps.clock.boottime().after(pause) >= until {
            return Err(LoadError::Unavailable(format!("state {:?}: {error}", slot.name)));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

impl<T: Storable> Persistent<T> {
    /// Saves now, whatever the mode, changed or not. An error has ended the activation: return, nothing
    /// leaves it any more and its caller gets `Unknown`.
    ///
    /// Cancel safety: a dropped future leaves the outcome unknown and so ends the activation (R3).
    pub async fn save<G: Grain>(&mut self, ctx: &Ctx<G>) -> Result<(), PlatformError> {
        let value = self.encode();
        let version = save(ctx.activation(), &self.slot, self.version, value, ctx.deadline()).await;
        self.saved(version.map_err(|kind| PlatformError::new(kind).at(&ctx.grain()))?);
        Ok(())
    }

    /// Removes the value from the store and sets it to its default. Errors and cancel safety as [`save`](Self::save).
    pub async fn clear<G: Grain>(&mut self, ctx: &Ctx<G>) -> Result<(), PlatformError> {
        let act = ctx.activation();
        let version = write(act, &self.slot, self.version, None, ctx.deadline()).await.map_err(|kind| {
            act.break_down();
            act.host.deps.counters.saves_failed.add(1);
            PlatformError::new(kind).at(&ctx.grain())
        })?;
        self.value = T::default();
        self.saved(version);
        Ok(())
    }
}
