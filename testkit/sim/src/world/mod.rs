//! A simulated machine: its clocks, disk, network and tasks, and the World it gives a node. Everything on
//! it can be stopped for a while ([`Machine::pause`]), as SIGSTOP does: its tasks are not polled and its
//! sockets neither give nor take, but its clocks go on.

mod clock;
mod net;
mod stall;
mod tasks;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use millet::world::World;
use millet_testkit::{SeededEntropy, SimDisk};
use parking_lot::Mutex;

pub use clock::{SimClock, set_now, sim_ns};
pub use net::{Conns, SimNet};
pub use stall::{Arm, running, watch_points};
pub use tasks::{Gated, SimTasks};

/// See the module.
pub struct Machine {
    /// Its host name.
    pub name: String,
    /// Its number in traces.
    pub number: usize,
    /// Its clocks.
    pub clock: SimClock,
    /// Its disk; survives crashes.
    pub disk: SimDisk,
    /// Its sockets.
    pub conns: Conns,
    entropy: Arc<SeededEntropy>,
    /// A poll of a thread that writes files waits so long first: what a slow disk costs.
    disk_delay_us: AtomicU64,
    /// Simulated nanoseconds until which it is stopped; 0: it runs.
    paused_until: AtomicU64,
    arm: Mutex<Option<Arm>>,
    stalled: AtomicBool,
    /// No process runs on it.
    down: AtomicBool,
    waiting: Mutex<Vec<Waker>>,
    /// Why its process wants to end.
    fatal: Mutex<Option<String>>,
    /// Tasks that have panicked, and what they said.
    panics: Mutex<Vec<String>>,
}

impl Machine {
    /// A machine with an empty disk.
    pub fn new(name: &str, number: usize, seed: u64) -> Arc<Self> {
        let machine = Arc::new(Self {
            name: name.to_owned(),
            number,
            clock: SimClock::of(number),
            disk: SimDisk::new(),
            conns: Conns::default(),
            entropy: Arc::new(SeededEntropy::new(seed)),
            disk_delay_us: AtomicU64::new(0),
            paused_until: AtomicU64::new(0),
            arm: Mutex::default(),
            stalled: AtomicBool::new(false),
            down: AtomicBool::new(false),
            waiting: Mutex::default(),
            fatal: Mutex::default(),
            panics: Mutex::default(),
        });
        stall::register(&machine);
        machine
    }

    /// What a process that starts on it now sees.
    pub fn world(self: &Arc<Self>) -> World {
        let tasks = Arc::new(SimTasks(self.clone()));
        let machine = self.clone();
        World {
            clock: Arc::new(self.clock.clone()),
            entropy: self.entropy.clone(),
            disk: Arc::new(self.disk.clone()),
            threads: tasks.clone(),
            spawner: tasks.clone(),
            io: tasks,
            net: Arc::new(SimNet(self.clone())),
            fatal: Arc::new(move |why| {
                machine.fatal.lock().get_or_insert(why);
                // A process that has aborted runs no further.
                machine.pause(Duration::MAX);
            }),
        }
    }

    /// Stops everything on it for so long. What it was doing it does at the end of that time: its clocks
    /// show the end at once, and nothing leaves before.
    pub fn pause(&self, time: Duration) {
        let until = clock::sim_ns().saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
        self.paused_until.store(until.max(1), Ordering::Relaxed);
        if time < Duration::MAX {
            self.clock.set_stalled(until);
        }
    }

    /// Lets everything go on if its time has come; true if it has.
    pub fn resume_if_due(&self) -> bool {
        let until = self.paused_until.load(Ordering::Relaxed);
        let due = until > 0 && until <= clock::sim_ns();
        if due {
            self.resume();
        }
        due
    }

    /// Lets everything go on.
    pub fn resume(&self) {
        self.paused_until.store(0, Ordering::Relaxed);
        self.clock.set_stalled(0);
        self.waiting.lock().drain(..).for_each(Waker::wake);
    }

    /// Whether it is stopped.
    pub fn is_paused(&self) -> bool {
        self.paused_until.load(Ordering::Relaxed) > 0
    }

    /// Ready while the machine runs; else the waker is called when it does again.
    pub fn poll_running(&self, cx: &Context<'_>) -> Poll<()> {
        if self.is_paused() {
            self.waiting.lock().push(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    /// Lets files take so long from now on.
    pub fn set_disk_delay(&self, delay: Duration) {
        self.disk_delay_us.store(u64::try_from(delay.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// How long files take now.
    pub fn disk_delay(&self) -> Duration {
        Duration::from_micros(self.disk_delay_us.load(Ordering::Relaxed))
    }

    /// Its process is gone: nothing of it is left to wake, and nothing stops the next one.
    pub fn process_gone(&self) {
        self.resume();
        *self.fatal.lock() = None;
        *self.arm.lock() = None;
    }

    /// A process runs on it, or none.
    pub fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::Relaxed);
    }

    /// Why its process has ended itself, if it has.
    pub fn fatal(&self) -> Option<String> {
        self.fatal.lock().clone()
    }

    /// What panicked tasks said since the last look.
    pub fn take_panics(&self) -> Vec<String> {
        std::mem::take(&mut *self.panics.lock())
    }

    /// Adds an event of this machine to the trace.
    pub fn note(&self, what: &[u8]) {
        crate::trace::note(clock::sim_ns(), self.number, what);
    }
}
