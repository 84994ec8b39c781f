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

#[cfg(test)]
mod tests;
