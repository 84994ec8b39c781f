//! What answers say about who served them, in the order of real time: tokens of a grain never go back
//! (I3), nor do grants of a singleton's one shard, whichever of its grains is asked; one token is one
//! activation (I1); every answer of a grain names its token, and overlapping leases are counted (I5).

use std::collections::HashMap;

use crate::{
    findings::Findings,
    history::{Epoch, Invariant, Micros, OpId, Served, Workload},
    run::{GrainNo, Lease, Op},
};

/// Leases that overlapped, as far as they were observed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Overlaps {
    pub(crate) count: u64,
    pub(crate) longest_us: Micros,
}

struct Answered {
    invoked: Micros,
    ended: Micros,
    epoch: Epoch,
    op: OpId,
    grain: GrainNo,
}

pub(super) fn check(f: &mut Findings<'_>) {
    let run = f.run;
    let mut singletons: HashMap<&str, Vec<Answered>> = HashMap::new();
    for (grain, ops) in run.by_grain(|op| op.workload != Workload::Store) {
        let mut answers = Vec::new();
        let mut lives: HashMap<Epoch, (Served, OpId)> = HashMap::new();
        for op in &ops {
            let Some((ended, served, _)) = op.ok() else { continue };
            f.checked(Invariant::Routing, 1);
            let Some(served) = served else {
                let what = format!("the answer to op {} does not say which activation gave it", op.id);
                f.violated(Invariant::Routing, grain, &[op.id], what);
                continue;
            };
            let (first, by) = lives.entry(served.epoch).or_insert((*served, op.id));
            if (first.life, first.session) != (served.life, served.session) {
                let what = format!(
                    "token {} answered as activation {} of session {} and as activation {} of session {}",
                    served.epoch, first.life, first.session, served.life, served.session
                );
                f.violated(Invariant::SingleActivation, grain, &[*by, op.id], what);
            }
            answers.push(Answered { invoked: op.invoked, ended, epoch: served.epoch, op: op.id, grain });
            if op.workload == Workload::Singleton {
                // All grains of the type share one shard, and so its grant.
                let epoch = Epoch { activation: 0, ..served.epoch };
                let of = singletons.entry(type_of(run.name(grain))).or_default();
                of.push(Answered { invoked: op.invoked, ended, epoch, op: op.id, grain });
            }
        }
        f.checked(Invariant::MonotoneEpochs, answers.len());
        in_order(f, Invariant::MonotoneEpochs, answers);
    }
    for mut answers in singletons.into_values() {
        answers.sort_by_key(|a| a.invoked);
        f.checked(Invariant::AtMostOne, answers.len());
        in_order(f, Invariant::AtMostOne, answers);
    }
}

fn type_of(grain: &str) -> &str {
    grain.split_once('/').map_or(grain, |(ty, _)| ty)
}

/// Whatever was asked after an answer of a token had come is answered by that token or a higher one.
fn in_order(f: &mut Findings<'_>, invariant: Invariant, answers: Vec<Answered>) {
    let mut ended: Vec<(Micros, Epoch, OpId)> = answers.iter().map(|a| (a.ended, a.epoch, a.op)).collect();
    ended.sort_unstable();
    let mut ended = ended.into_iter().peekable();
    let mut highest = (Epoch::default(), 0);
    for a in answers {
        while let Some((_, epoch, op)) = ended.next_if(|(at, ..)| *at < a.invoked) {
            highest = highest.max((epoch, op));
        }
        if a.epoch >= highest.0 || !f.run.header.limits.clocks_within_bound {
            continue;
        }
        let what = format!(
            "op {} was answered under {} though op {} had been answered under {} before it was sent",
            a.op, a.epoch, highest.1, highest.0
        );
        f.violated(invariant, a.grain, &[highest.1, a.op], what);
    }
}

/// Counts overlaps of leases of the same grain or shard.
pub(crate) fn overlaps(leases: &[Lease]) -> Overlaps {
    let mut of: HashMap<&str, Vec<&Lease>> = HashMap::new();
    for lease in leases {
        of.entry(&lease.of).or_default().push(lease);
    }
    let mut found = Overlaps::default();
    for held in of.values_mut() {
        held.sort_by_key(|lease| lease.from);
        let mut longest: Option<&Lease> = None;
        for lease in held {
            if let Some(before) = longest.filter(|l| l.session != lease.session && l.until > lease.from) {
                found.count += 1;
                found.longest_us = found.longest_us.max(before.until.min(lease.until) - lease.from);
            }
            if longest.is_none_or(|l| lease.until > l.until) {
                longest = Some(lease);
            }
        }
    }
    found
}

/// Whether the operation was answered by a session.
pub(crate) fn session_of(op: &Op) -> Option<u64> {
    op.ok().and_then(|(_, served, _)| served).map(|s| s.session)
}
