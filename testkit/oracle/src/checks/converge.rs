//! I10: soon after the last fault every grain that was called before answers again, one member leads,
//! all members hold the same state, and no lease belongs to nobody.

use crate::{
    findings::Findings,
    history::{Invariant, Micros, Phase},
};

/// What 2 TTL are given on top.
const GRACE: Micros = 5_000_000;

pub(super) fn check(f: &mut Findings<'_>) {
    let run = f.run;
    let Some(over) = run.phase(Phase::FaultsOver) else {
        if !run.faults.is_empty() {
            f.invalid(Invariant::Convergence, "the run had faults and does not say when they were over");
        }
        return;
    };
    let bound = run.header.limits.converge_us.unwrap_or(2 * run.header.ttl_us + GRACE);
    for (grain, ops) in run.by_grain(|_| true) {
        if ops.iter().all(|op| op.invoked >= over) {
            continue;
        }
        f.checked(Invariant::Convergence, 1);
        let after: Vec<_> = ops.iter().filter(|op| op.ended.is_none_or(|at| at >= over)).collect();
        if after.iter().filter_map(|op| op.ok()).any(|(at, ..)| at <= over + bound) {
            continue;
        }
        let asked = after.iter().find(|op| op.invoked + bound / 2 <= over + bound);
        match asked {
            Some(op) => {
                let what = format!("no answer within {} ms after faults were over", bound / 1000);
                f.violated(Invariant::Convergence, grain, &[op.id], what);
            }
            None => {
                let why = format!("{} was not asked soon enough after faults were over", run.name(grain));
                f.invalid(Invariant::Convergence, why);
            }
        }
    }
    for settled in &run.settled {
        f.checked(Invariant::Convergence, 3);
        if settled.leaders != 1 {
            f.violated_elsewhere(
                Invariant::Convergence,
                "metadata",
                format!("{} members lead", settled.leaders),
            );
        }
        if settled.state_hashes.windows(2).any(|pair| pair[0] != pair[1]) {
            let what = format!("members hold different states: {}", settled.state_hashes.join(", "));
            f.violated_elsewhere(Invariant::Convergence, "metadata", what);
        }
        if settled.orphan_leases != 0 {
            let what = format!("{} leases name no living session", settled.orphan_leases);
            f.violated_elsewhere(Invariant::Convergence, "metadata", what);
        }
    }
}
