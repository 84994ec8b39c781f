//! What the checkers of one run report into: counts, violations, reasons for which the run is invalid.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    history::{Invariant, OpId},
    run::{GrainNo, Run},
    timeline::timeline,
};

/// Violations kept with their timelines; all are counted.
pub const KEPT: usize = 20;
/// Operations that one violation names.
const OPS: usize = 12;

/// A broken promise.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Violation {
    /// Which invariant.
    pub invariant: Invariant,
    /// The run's seed.
    pub seed: u64,
    /// The grain, or whatever else it is about.
    pub grain: String,
    /// What is wrong.
    pub what: String,
    /// The operations concerned.
    pub ops: Vec<OpId>,
    /// What happened around them, one line each.
    pub timeline: Vec<String>,
}

/// What is known of one invariant.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Tally {
    /// Items that were checked.
    pub checked: u64,
    /// Items that broke it.
    pub violations: u64,
    /// Why nothing can be said.
    pub invalid: Vec<String>,
}

/// How an invariant fared.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Standing {
    /// Nothing was there to check, and nothing had to be.
    Idle,
    /// All items hold.
    Pass,
    /// The run does not show it.
    Invalid,
    /// It is broken.
    Fail,
}

impl Tally {
    /// How it fared. A violation outweighs everything.
    pub fn standing(&self) -> Standing {
        match self {
            Self { violations: 1.., .. } => Standing::Fail,
            Self { invalid, .. } if !invalid.is_empty() => Standing::Invalid,
            Self { checked: 0, .. } => Standing::Idle,
            _ => Standing::Pass,
        }
    }
}

/// The collected reports on one run.
pub(crate) struct Findings<'a> {
    pub(crate) run: &'a Run,
    pub(crate) tallies: BTreeMap<Invariant, Tally>,
    pub(crate) violations: Vec<Violation>,
}

impl<'a> Findings<'a> {
    pub(crate) fn new(run: &'a Run) -> Self {
        let tallies = Invariant::ALL.into_iter().map(|i| (i, Tally::default())).collect();
        Self { run, tallies, violations: Vec::new() }
    }

    fn tally(&mut self, invariant: Invariant) -> &mut Tally {
        self.tallies.entry(invariant).or_default()
    }

    /// So many items were looked at.
    pub(crate) fn checked(&mut self, invariant: Invariant, items: usize) {
        self.tally(invariant).checked += items as u64;
    }

    /// Nothing can be said, for this reason.
    pub(crate) fn invalid(&mut self, invariant: Invariant, why: impl Into<String>) {
        let reasons = &mut self.tally(invariant).invalid;
        if reasons.len() < KEPT {
            reasons.push(why.into());
        }
    }

    /// An item broke it.
    pub(crate) fn violated(
        &mut self,
        invariant: Invariant,
        grain: GrainNo,
        ops: &[OpId],
        what: impl Into<String>,
    ) {
        self.tally(invariant).violations += 1;
        if self.violations.len() < KEPT {
            let timeline = timeline(self.run, grain, ops);
            self.keep(invariant, self.run.name(grain).to_owned(), ops, what.into(), timeline);
        }
    }

    /// Something that is no grain broke it.
    pub(crate) fn violated_elsewhere(&mut self, invariant: Invariant, of: &str, what: impl Into<String>) {
        self.tally(invariant).violations += 1;
        if self.violations.len() < KEPT {
            self.keep(invariant, of.to_owned(), &[], what.into(), Vec::new());
        }
    }

    fn keep(
        &mut self,
        invariant: Invariant,
        grain: String,
        ops: &[OpId],
        what: String,
        timeline: Vec<String>,
    ) {
        let ops = ops.iter().copied().take(OPS).collect();
        let seed = self.run.header.seed;
        self.violations.push(Violation { invariant, seed, grain, what, ops, timeline });
    }
}
