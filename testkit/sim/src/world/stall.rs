//! Stalls at the places where a right was checked and its deed is still to come: product code says that
//! it has reached one, and the machine it runs on stops there if it was told to.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use millet_core::control::{Point, on_points};
use parking_lot::Mutex;

use super::Machine;

/// Which machine runs now. There is one thread, and machines take turns on it.
static RUNNING: AtomicUsize = AtomicUsize::new(usize::MAX);
/// By their numbers.
static MACHINES: OnceLock<Mutex<Vec<Arc<Machine>>>> = OnceLock::new();

/// A stall that waits for its place.
#[derive(Clone, Copy, Debug)]
pub struct Arm {
    /// Where.
    pub at: Point,
    /// After being there so many times more.
    pub after: u64,
    /// For how long.
    pub time: Duration,
}

pub(super) fn register(machine: &Arc<Machine>) {
    let mut machines = MACHINES.get_or_init(Mutex::default).lock();
    assert_eq!(machines.len(), machine.number, "machines are made in the order of their numbers");
    machines.push(machine.clone());
}

/// Something of that machine runs.
pub(super) fn runs(machine: usize) {
    RUNNING.store(machine, Ordering::Relaxed);
}

/// Whether no process runs on the machine of that name.
pub(super) fn is_down(name: &str) -> bool {
    let Some(machines) = MACHINES.get() else { return false };
    machines.lock().iter().any(|m| m.name == name && m.down.load(Ordering::Relaxed))
}

/// The machine that runs now, for log lines.
pub fn running() -> usize {
    RUNNING.load(Ordering::Relaxed)
}

/// From here on machines stop where they are told to.
pub fn watch_points() {
    on_points(|point| {
        let running = RUNNING.load(Ordering::Relaxed);
        let machine = MACHINES.get().and_then(|all| all.lock().get(running).cloned());
        if let Some(machine) = machine {
            machine.reached(point);
        }
    });
}

impl Machine {
    /// Tells it where to stop.
    pub fn arm(&self, arm: Arm) {
        *self.arm.lock() = Some(arm);
    }

    /// It shall not stop any more. Whether it has since it was told to.
    pub fn disarm(&self) -> bool {
        *self.arm.lock() = None;
        self.stalled.swap(false, Ordering::Relaxed)
    }

    /// Whether it has stopped since it was told to.
    pub fn has_stalled(&self) -> bool {
        self.stalled.load(Ordering::Relaxed)
    }

    fn reached(&self, point: Point) {
        let mut armed = self.arm.lock();
        let Some(arm) = armed.as_mut().filter(|arm| arm.at == point && !self.is_paused()) else { return };
        if arm.after > 0 {
            arm.after -= 1;
            return;
        }
        let time = arm.time;
        *armed = None;
        self.stalled.store(true, Ordering::Relaxed);
        self.pause(time);
    }
}
