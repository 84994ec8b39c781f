//! The checkers: each a function from a run to findings, linear in the operations but for `register`.

mod converge;
mod epochs;
mod ids;
mod late;
mod ledger;
mod register;
mod surroundings;
mod transfers;
mod writes;

pub(crate) use epochs::{overlaps, session_of};
pub(crate) use surroundings::{effects, short_of};

use crate::findings::Findings;

/// Runs all of them.
pub(crate) fn all(findings: &mut Findings<'_>) {
    writes::check(findings);
    ledger::check(findings);
    epochs::check(findings);
    late::check(findings);
    register::check(findings);
    ids::check(findings);
    transfers::check(findings);
    converge::check(findings);
    surroundings::check(findings);
}
