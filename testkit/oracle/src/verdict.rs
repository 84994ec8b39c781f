//! The judgement on a run, and on many: tallies, violations, faults, failover times. Verdicts are JSON
//! and merge, so that one process per seed can hand its own to the driver.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    checks::{self, effects, overlaps, short_of},
    failover::failovers,
    findings::{Findings, KEPT, Standing, Tally, Violation},
    history::{Invariant, Micros},
    run::{Outcome, Run},
    spread::Spread,
};

/// A kind of fault: how often it was scheduled, and did what it is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Effects {
    /// Scheduled.
    pub scheduled: u64,
    /// Of these effective.
    pub effective: u64,
}

/// Operations by outcome.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Outcomes {
    /// Answered.
    pub ok: u64,
    /// Surely not run.
    pub fail: u64,
    /// May have run; also those without an end.
    pub unknown: u64,
}

/// The judgement.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Verdict {
    /// Runs.
    pub seeds: u64,
    /// The time they covered.
    pub time_us: Micros,
    /// Operations.
    pub ops: Outcomes,
    /// Faults by kind.
    pub faults: BTreeMap<String, Effects>,
    /// Per invariant.
    pub invariants: BTreeMap<Invariant, Tally>,
    /// Broken promises, the first [`KEPT`] with timelines.
    pub violations: Vec<Violation>,
    /// Milliseconds from a fault to the first answer of each grain it hit.
    pub failover_ms: Spread,
    /// Observed leases of one grain or shard that overlapped.
    pub overlaps: u64,
    /// The longest of these overlaps.
    pub longest_overlap_us: Micros,
    /// Must-fail controls that failed as they must; the driver counts them.
    pub controls_caught: u64,
    /// Must-fail controls that were run.
    pub controls: u64,
}

/// Judges a run.
pub fn check(run: &Run) -> Verdict {
    let mut findings = Findings::new(run);
    checks::all(&mut findings);
    let overlaps = overlaps(&run.leases);
    let mut ops = Outcomes::default();
    for op in &run.ops {
        *match op.outcome {
            Outcome::Ok { .. } => &mut ops.ok,
            Outcome::Fail(_) => &mut ops.fail,
            Outcome::Unknown(_) | Outcome::Pending => &mut ops.unknown,
        } += 1;
    }
    Verdict {
        seeds: 1,
        time_us: run.last_instant(),
        ops,
        faults: effects(&run.faults),
        invariants: findings.tallies,
        violations: findings.violations,
        failover_ms: failovers(run),
        overlaps: overlaps.count,
        longest_overlap_us: overlaps.longest_us,
        controls_caught: 0,
        controls: 0,
    }
}

impl Verdict {
    /// Adds another verdict to this one.
    pub fn merge(&mut self, other: Self) {
        self.seeds += other.seeds;
        self.time_us += other.time_us;
        self.ops.ok += other.ops.ok;
        self.ops.fail += other.ops.fail;
        self.ops.unknown += other.ops.unknown;
        for (kind, effects) in other.faults {
            let sum = self.faults.entry(kind).or_default();
            sum.scheduled += effects.scheduled;
            sum.effective += effects.effective;
        }
        for (invariant, tally) in other.invariants {
            let sum = self.invariants.entry(invariant).or_default();
            sum.checked += tally.checked;
            sum.violations += tally.violations;
            sum.invalid.extend(tally.invalid);
            sum.invalid.truncate(KEPT);
        }
        self.violations.extend(other.violations);
        self.violations.truncate(KEPT);
        self.failover_ms.merge(&other.failover_ms);
        self.overlaps += other.overlaps;
        self.longest_overlap_us = self.longest_overlap_us.max(other.longest_overlap_us);
        self.controls_caught += other.controls_caught;
        self.controls += other.controls;
    }

    /// I12 over everything merged: each kind named must have taken effect so often, and each kind that
    /// was scheduled at all at least once.
    pub fn cover(&mut self, wanted: &BTreeMap<String, u64>) {
        let mut wanted = wanted.clone();
        self.faults.keys().for_each(|kind| _ = wanted.entry(kind.clone()).or_insert(1));
        let short = short_of(&self.faults, &wanted);
        self.invariants.entry(Invariant::Coverage).or_default().invalid.extend(short);
    }

    /// Counts a must-fail control.
    pub fn control(&mut self, caught: bool) {
        self.controls += 1;
        self.controls_caught += u64::from(caught);
    }

    /// How the whole fared: the worst of the invariants.
    pub fn standing(&self) -> Standing {
        let worst = |worst: Standing, tally: &Tally| match (worst, tally.standing()) {
            (Standing::Fail, _) | (_, Standing::Fail) => Standing::Fail,
            (Standing::Invalid, _) | (_, Standing::Invalid) => Standing::Invalid,
            (Standing::Idle, Standing::Idle) => Standing::Idle,
            _ => Standing::Pass,
        };
        self.invariants.values().fold(Standing::Idle, worst)
    }

    /// Broken promises in all.
    pub fn violation_count(&self) -> u64 {
        self.invariants.values().map(|t| t.violations).sum()
    }
}
