//! What is not about operations: memory stayed below its limit (I11), every kind of fault that was
//! scheduled took effect as often as asked (I12), the run finished, and what had to be checked was.

use std::collections::BTreeMap;

use crate::{
    findings::{Findings, Standing},
    history::{Fault, Invariant},
    verdict::Effects,
};

pub(super) fn check(f: &mut Findings<'_>) {
    let run = f.run;
    if let Some(limit) = run.header.limits.rss_bytes {
        f.checked(Invariant::Memory, run.rss.len());
        if run.rss.is_empty() {
            f.invalid(Invariant::Memory, "a limit was set and no process was measured");
        }
        let mut largest: BTreeMap<&str, u64> = BTreeMap::new();
        for (_, process, bytes) in &run.rss {
            let most = largest.entry(process).or_default();
            *most = (*most).max(*bytes);
        }
        for (process, bytes) in largest.into_iter().filter(|(_, bytes)| *bytes > limit) {
            let what = format!("{bytes} bytes resident, the limit is {limit}");
            f.violated_elsewhere(Invariant::Memory, process, what);
        }
    }
    f.checked(Invariant::Coverage, run.faults.len());
    for why in short_of(&effects(&run.faults), &run.header.limits.effects) {
        f.invalid(Invariant::Coverage, why);
    }
    if run.ended.is_none() {
        f.invalid(Invariant::Coverage, "the history has no end line: the run did not finish");
    }
    for required in &run.header.limits.requires {
        if f.tallies.get(required).is_none_or(|t| t.standing() == Standing::Idle) {
            f.invalid(*required, "nothing was there to check");
        }
    }
}

/// Counts faults and effects by kind.
pub(crate) fn effects(faults: &[Fault]) -> BTreeMap<String, Effects> {
    let mut counts: BTreeMap<String, Effects> = BTreeMap::new();
    for fault in faults {
        let count = counts.entry(fault.kind.clone()).or_default();
        count.scheduled += 1;
        count.effective += u64::from(fault.took_effect);
    }
    counts
}

/// Which kinds took effect too seldom.
pub(crate) fn short_of(counts: &BTreeMap<String, Effects>, wanted: &BTreeMap<String, u64>) -> Vec<String> {
    let short = |(kind, least): (&String, &u64)| {
        let count = counts.get(kind).copied().unwrap_or_default();
        (count.effective < *least).then(|| {
            format!(
                "fault {kind} took effect {} times of {} scheduled; {least} are needed",
                count.effective, count.scheduled
            )
        })
    };
    wanted.iter().filter_map(short).collect()
}
