//! The oracle of the proof: one history format for simulation and torture, and the checkers that read it.
//!
//! - `history`, `reader`, `writer`: the format, as JSON lines.
//! - `run`: a history put together.
//! - `checks`: one file per family of invariants; `wgl` and
//!   `frontier` search the order of a register's operations.
//! - `verdict`, `report`, `findings`, `timeline`, `failover`, `spread`: the judgement, and how it is shown.
//!
//! Invariants are those of the guarantees page, numbered I1 to I12. I6 (reminders at least once) and I7
//! (safe pushes) are not checked: neither feature exists yet.
//!
//! The crate knows nothing of Millet itself: its types are the history's own.

mod checks;
mod failover;
mod findings;
mod frontier;
pub mod history;
mod reader;
mod report;
mod run;
mod spread;
mod timeline;
mod verdict;
pub mod wgl;
mod writer;

use std::io::BufRead;

pub use findings::{KEPT, Standing, Tally, Violation};
pub use history::{Header, Invariant, Limits, Line};
pub use reader::{HistoryError, LINE_BYTES, Reader};
pub use run::{GrainNo, Lease, Op, Outcome, Run, Settled, Write};
pub use spread::Spread;
pub use verdict::{Effects, Outcomes, Verdict, check};
pub use writer::Writer;

/// Reads a history and judges it.
///
/// # Errors
/// A line that cannot be read, or does not fit to those before it.
pub fn check_history(from: impl BufRead) -> Result<Verdict, HistoryError> {
    Run::read(from).map(|run| check(&run))
}
