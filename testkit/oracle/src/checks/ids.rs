//! I8: no id is issued twice anywhere, and the ids of one issuer (a session) rise in the order of real
//! time.

use std::collections::HashMap;

use crate::{
    findings::Findings,
    history::{Invariant, Value},
    run::Op,
};

struct Batch<'a> {
    op: &'a Op,
    ended: u64,
    ids: &'a [u64],
}

pub(super) fn check(f: &mut Findings<'_>) {
    let run = f.run;
    let mut all: Vec<(u64, &Op)> = Vec::new();
    let mut issuers: HashMap<u64, Vec<Batch<'_>>> = HashMap::new();
    for op in &run.ops {
        let Some((ended, served, Value::Ids { ids })) = op.ok() else { continue };
        all.extend(ids.iter().map(|id| (*id, op)));
        if let Some(served) = served {
            issuers.entry(served.session).or_default().push(Batch { op, ended, ids });
        }
        if let Some(pair) = ids.windows(2).find(|pair| pair[0] >= pair[1]) {
            let what = format!("id {} was issued after id {}", pair[1], pair[0]);
            f.violated(Invariant::Ids, op.grain, &[op.id], what);
        }
    }
    f.checked(Invariant::Ids, all.len());
    all.sort_unstable_by_key(|(id, op)| (*id, op.id));
    for pair in all.windows(2).filter(|pair| pair[0].0 == pair[1].0) {
        let (first, second) = (pair[0].1, pair[1].1);
        let what = format!("id {} was issued twice, also by {}", pair[0].0, run.name(first.grain));
        f.violated(Invariant::Ids, second.grain, &[first.id, second.id], what);
    }
    for batches in issuers.values_mut() {
        rising(f, batches);
    }
}

/// Of one issuer: what was asked for after an answer had come is above all of that answer.
fn rising(f: &mut Findings<'_>, batches: &mut [Batch<'_>]) {
    let mut ended: Vec<(u64, u64, u64)> =
        batches.iter().filter_map(|b| b.ids.iter().max().map(|max| (b.ended, *max, b.op.id))).collect();
    ended.sort_unstable();
    let mut ended = ended.into_iter().peekable();
    batches.sort_by_key(|b| b.op.invoked);
    let mut highest = (0, 0);
    for b in batches {
        while let Some((_, max, op)) = ended.next_if(|(at, ..)| *at < b.op.invoked) {
            highest = highest.max((max, op));
        }
        if let Some(low) = b.ids.iter().min().filter(|low| **low <= highest.0) {
            let what = format!("its issuer had given {} to op {} before it gave {low}", highest.0, highest.1);
            f.violated(Invariant::Ids, b.op.grain, &[highest.1, b.op.id], what);
        }
    }
}
