//! G1(b): no output of an ended session leaves its activation. Answers are timed against the end of their
//! session as its own node knew it, where a run can say how long an answer is under way at most.

use std::collections::HashMap;

use crate::{
    findings::Findings,
    history::{Invariant, Micros},
};

pub(super) fn check(f: &mut Findings<'_>) {
    let run = f.run;
    let Some(late) = run.header.limits.late_us else { return };
    let over: HashMap<u64, Micros> = run.leases.iter().map(|lease| (lease.session, lease.until)).collect();
    for op in &run.ops {
        let Some((at, Some(served), _)) = op.ok() else { continue };
        f.checked(Invariant::SingleActivation, 1);
        let Some(until) = over.get(&served.session).filter(|until| at > **until + late) else { continue };
        let what = format!(
            "op {} was answered under session {}, {} ms after that was over for its node",
            op.id,
            served.session,
            (at - until) / 1000
        );
        f.violated(Invariant::SingleActivation, op.grain, &[op.id], what);
    }
}
