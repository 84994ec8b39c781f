//! The one task that drives the runtime's timer wheel: 10 ms ticks of the boot clock.
//!
//! Jobs are short: they push an item into a mailbox and return.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use millet_core::{BootTime, Clock, world::Spawner};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::wheel::{TimerId, Wheel};

const TICK_NS: u64 = 10_000_000;
/// The task looks at the clock at least this often: a machine may have slept.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

pub(crate) type Job = Box<dyn FnOnce() + Send>;

pub(crate) struct Timers {
    clock: Arc<dyn Clock>,
    wheel: Mutex<Wheel<Job>>,
    wake: Arc<Notify>,
}

impl Timers {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        let wheel = Mutex::new(Wheel::new(clock.boottime().0 / TICK_NS));
        Arc::new(Self { clock, wheel, wake: Arc::new(Notify::new()) })
    }

    /// Starts the task; it ends when the last other owner of `self` is gone.
    pub(crate) fn start(self: &Arc<Self>, spawner: &dyn Spawner) {
        spawner.spawn("timer-wheel", Box::pin(drive(Arc::downgrade(self), self.wake.clone())));
    }

    /// Runs `job` at the first tick that is not before `at`.
    pub(crate) fn at(&self, at: BootTime, job: Job) -> TimerId {
        let (id, first) = {
            let mut wheel = self.wheel.lock();
            let before = wheel.next_tick();
            let id = wheel.insert(at.0.div_ceil(TICK_NS), job);
            (id, wheel.next_tick() != before)
        };
        if first {
            self.wake.notify_one();
        }
        id
    }

    /// Runs `job` after `d`.
    pub(crate) fn after(&self, d: Duration, job: Job) -> TimerId {
        self.at(self.clock.boottime().after(d), job)
    }

    pub(crate) fn cancel(&self, id: TimerId) {
        let job = self.wheel.lock().cancel(id);
        drop(job);
    }

    fn fire(&self) -> Duration {
        let now = self.clock.boottime().0;
        let (due, next) = {
            let mut wheel = self.wheel.lock();
            (wheel.advance(now / TICK_NS), wheel.next_tick())
        };
        for job in due {
            job();
        }
        let wait = next.map_or(LONGEST_SLEEP, |t| Duration::from_nanos((t * TICK_NS).saturating_sub(now)));
        wait.min(LONGEST_SLEEP)
    }
}

impl Drop for Timers {
    fn drop(&mut self) {
        self.wake.notify_one();
    }
}

async fn drive(timers: Weak<Timers>, wake: Arc<Notify>) {
    loop {
        let Some(wait) = timers.upgrade().map(|t| t.fire()) else { return };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = wake.notified() => {}
        }
    }
}
