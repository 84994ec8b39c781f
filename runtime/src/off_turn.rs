//! What an activation has under way beside its turns: spawned work and timers. All of it ends with the
//! activation, which it holds weakly.

use std::{sync::Arc, time::Duration};

use futures::future::AbortHandle;
use tokio::sync::oneshot;

use crate::{
    Grain,
    activation::{Activation, Fire, OFF_TURN, System, Timer},
    phase::Phase,
};

impl<G: Grain> Activation<G> {
    /// Stops timers and aborts spawned work. What timers would have run is dropped without a lock: it may
    /// have a `Drop` of its own, which may call grains.
    pub(crate) fn stop_off_turn(&self) {
        let (timers, work) = {
            let mut inner = self.inner.lock();
            let Some(cold) = inner.cold.as_mut() else { return };
            (std::mem::take(&mut cold.timers), cold.work.values().cloned().collect::<Vec<_>>())
        };
        for armed in timers.values().filter_map(|t| t.armed) {
            self.host.deps.timers.cancel(armed);
        }
        for w in work {
            w.abort();
        }
    }

    /// Resolves when no spawned work is left.
    pub(crate) fn work_gone(&self) -> Option<oneshot::Receiver<()>> {
        let mut inner = self.inner.lock();
        let cold = inner.cold.as_mut().filter(|c| !c.work.is_empty())?;
        let (tx, rx) = oneshot::channel();
        cold.no_work = Some(tx);
        Some(rx)
    }

    pub(crate) fn add_work(&self, handle: AbortHandle) -> Option<u32> {
        let mut inner = self.inner.lock();
        if matches!(inner.phase, Phase::Draining | Phase::Gone) || self.is_revoked() {
            return None;
        }
        let cold = inner.cold();
        if cold.work.len() >= OFF_TURN {
            return None;
        }
        let id = cold.fresh_id();
        cold.work.insert(id, handle);
        Some(id)
    }

    pub(crate) fn remove_work(&self, id: u32) {
        let mut inner = self.inner.lock();
        let Some(cold) = inner.cold.as_mut() else { return };
        cold.work.remove(&id);
        let waiter = if cold.work.is_empty() { cold.no_work.take() } else { None };
        drop(inner);
        drop(waiter);
    }

    pub(crate) fn add_timer(
        self: &Arc<Self>,
        after: Duration,
        every: Option<Duration>,
        fire: Fire<G>,
    ) -> Option<u32> {
        let id = {
            let mut inner = self.inner.lock();
            if matches!(inner.phase, Phase::Draining | Phase::Gone) {
                return None;
            }
            let cold = inner.cold();
            if cold.timers.len() >= OFF_TURN {
                return None;
            }
            let id = cold.fresh_id();
            cold.timers.insert(id, Timer { fire, every, armed: None });
            id
        };
        self.arm(id, after);
        Some(id)
    }

    fn arm(self: &Arc<Self>, id: u32, after: Duration) {
        let weak = Arc::downgrade(self);
        let job = Box::new(move || {
            if let Some(act) = weak.upgrade() {
                act.push_system(System::Tick(id));
            }
        });
        let armed = self.host.deps.timers.after(after, job);
        let orphan = {
            let mut inner = self.inner.lock();
            match inner.cold.as_mut().and_then(|c| c.timers.get_mut(&id)) {
                Some(t) => {
                    t.armed = Some(armed);
                    None
                }
                None => Some(armed),
            }
        };
        if let Some(t) = orphan {
            self.host.deps.timers.cancel(t);
        }
    }

    /// What a due timer runs; `None` if it was cancelled meanwhile.
    pub(crate) fn timer_due(&self, id: u32) -> Option<Fire<G>> {
        let mut inner = self.inner.lock();
        let cold = inner.cold.as_mut()?;
        let timer = cold.timers.get_mut(&id)?;
        timer.armed = None;
        let fire = timer.fire.clone();
        if timer.every.is_none() {
            cold.timers.remove(&id);
        }
        Some(fire)
    }

    /// Arms a periodic timer again, after its turn: firings never pile up.
    pub(crate) fn rearm(self: &Arc<Self>, id: u32) {
        let every = self.inner.lock().cold.as_ref().and_then(|c| c.timers.get(&id)).and_then(|t| t.every);
        if let Some(every) = every {
            self.arm(id, every);
        }
    }

    pub(crate) fn cancel_timer(&self, id: u32) {
        let timer = self.inner.lock().cold.as_mut().and_then(|c| c.timers.remove(&id));
        if let Some(armed) = timer.as_ref().and_then(|t| t.armed) {
            self.host.deps.timers.cancel(armed);
        }
    }

    /// Arranges for a flush of write-behind states, once.
    pub(crate) fn arm_flush(self: &Arc<Self>, after: Duration) {
        if std::mem::replace(&mut self.inner.lock().cold().flush_armed, true) {
            return;
        }
        let weak = Arc::downgrade(self);
        let job = Box::new(move || {
            if let Some(act) = weak.upgrade() {
                act.push_system(System::Flush);
            }
        });
        self.host.deps.timers.after(after, job);
    }

    pub(crate) fn flush_fired(&self) {
        if let Some(cold) = self.inner.lock().cold.as_mut() {
            cold.flush_armed = false;
        }
    }
}
