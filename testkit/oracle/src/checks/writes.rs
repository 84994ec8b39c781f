//! I1 on what a store was seen to accept: tokens of a state never go down, a token belongs to one
//! session, and every version is the one before plus one.

use std::collections::HashMap;

use crate::{
    findings::Findings,
    history::{Epoch, Invariant},
    run::{GrainNo, Write},
};

pub(super) fn check(f: &mut Findings<'_>) {
    let run = f.run;
    let mut last: HashMap<(GrainNo, &str), &Write> = HashMap::new();
    let mut sessions: HashMap<(GrainNo, Epoch), u64> = HashMap::new();
    f.checked(Invariant::SingleActivation, run.writes.len());
    for write in &run.writes {
        let holder = *sessions.entry((write.grain, write.epoch)).or_insert(write.session);
        if holder != write.session {
            let what = format!(
                "token {} was used by session {holder} and by session {}",
                write.epoch, write.session
            );
            f.violated(Invariant::SingleActivation, write.grain, &[], what);
        }
        let Some(before) = last.insert((write.grain, &write.slot), write) else { continue };
        if write.epoch < before.epoch {
            let what = format!(
                "the store accepted version {} under {} after version {} under {}",
                write.version, write.epoch, before.version, before.epoch
            );
            f.violated(Invariant::SingleActivation, write.grain, &[], what);
        }
        // The same write again is answered as the first time: nothing new was stored.
        let again = (write.epoch, write.version) == (before.epoch, before.version);
        if !again && write.version != before.version + 1 {
            let what =
                format!("version {} of {} was stored after {}", write.version, write.slot, before.version);
            f.violated(Invariant::SingleActivation, write.grain, &[], what);
        }
    }
}
