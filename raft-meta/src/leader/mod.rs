//! What a metadata leader decides: cluster time, renewals, shard assignments. Pure: instants are passed
//! in, decisions come out; the service proposes them.
//!
//! The order of one tick (R6, R21), which the types enforce: ask `LeaderClock::turn`; if it says
//! `Propose`, `Renewals::close` the set, `ClosedSet::stamp` it (which reads the clock only then),
//! propose `Proposal::command`; answer from the reply with `Proposal::applied`, or put the renewals back
//! with `Proposal::failed`.

mod clock;
mod planner;
mod renewals;

pub use clock::{LeaderClock, Turn};
pub use planner::Planner;
pub use renewals::{ClosedSet, Offered, Proposal, Renewals};

use crate::machine::{Command, Machine};

/// Lease rows that one sweep looks at: a fraction of a millisecond of apply, so that no Tick waits for it.
const SWEEP_ROWS: u32 = 4096;

/// The sweep to propose, if rows of dead sessions are left; to be asked about ten times a second and
/// only while nothing more urgent waits. Sweeping frees memory and nothing else.
pub fn sweep(machine: &Machine) -> Option<Command> {
    (machine.dead_rows() > 0).then_some(Command::Sweep { rows: SWEEP_ROWS })
}

#[cfg(test)]
mod tests;
