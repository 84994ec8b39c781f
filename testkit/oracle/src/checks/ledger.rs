//! Ledgers: every append that was acknowledged is in every later reading exactly once, what failed never
//! is, and the entries show who wrote what in which order (I1, I2, I9, exactly once, idle return).
//!
//! A ledger keeps its own proof: every write appends one entry with the token, the activation and the
//! version it is stored as, and a write that overwrote another's would drop entries.

use std::collections::{HashMap, HashSet};

use crate::{
    findings::Findings,
    history::{Call, Entry, Invariant, Micros, OpId, Phase, Value, Workload},
    run::{GrainNo, Op, Outcome},
};

/// A reading: the operation that read, when it ended, what it saw.
type Reading<'a> = (&'a Op, Micros, &'a [Entry]);

pub(super) fn check(f: &mut Findings<'_>) {
    let run = f.run;
    let is_ledger = |op: &Op| matches!(op.call, Call::Append | Call::Ledger);
    for (grain, ops) in run.by_grain(is_ledger) {
        let appends: HashMap<OpId, &Op> =
            ops.iter().filter(|op| op.call == Call::Append).map(|op| (op.id, *op)).collect();
        let mut readings: Vec<Reading<'_>> = ops.iter().filter_map(|op| reading(op)).collect();
        readings.sort_by_key(|(_, at, _)| *at);
        for reading in &readings {
            lost(f, grain, &ops, reading);
            visible(f, grain, &appends, reading);
        }
        if let Some(last) = readings.last() {
            chain(f, grain, last);
            sealed(f, grain, &readings, last);
        }
        let read_back = run.phase(Phase::ReadBack);
        let has_effects = appends.values().any(|op| !op.had_no_effect());
        let is_read = readings.iter().any(|(op, ..)| read_back.is_none_or(|begin| op.invoked >= begin));
        if has_effects && !is_read {
            let why = format!("{} was never read back", run.name(grain));
            f.invalid(Invariant::NoLostWrite, why);
        }
        positions(f, grain, &ops);
    }
}

fn reading(op: &Op) -> Option<Reading<'_>> {
    match op.ok()? {
        (at, _, Value::Ledger { entries }) => Some((op, at, entries)),
        _ => None,
    }
}

/// I2: what was acknowledged before the reading began is in it.
fn lost(f: &mut Findings<'_>, grain: GrainNo, ops: &[&Op], (reader, _, entries): &Reading<'_>) {
    let seen: HashSet<OpId> = entries.iter().map(|e| e.op).collect();
    let mut acknowledged = 0;
    for op in ops.iter().filter(|op| op.call == Call::Append && op.invoked <= reader.invoked) {
        let Some((at, _, Value::Appended { .. })) = op.ok() else { continue };
        if at > reader.invoked {
            continue;
        }
        acknowledged += 1;
        if !seen.contains(&op.id) {
            let what =
                format!("op {} was acknowledged and is not in the ledger that op {} read", op.id, reader.id);
            f.violated(Invariant::NoLostWrite, grain, &[op.id, reader.id], what);
        }
    }
    f.checked(Invariant::NoLostWrite, acknowledged);
}

/// Exactly once, I9, and nothing that nobody sent.
fn visible(
    f: &mut Findings<'_>,
    grain: GrainNo,
    appends: &HashMap<OpId, &Op>,
    (reader, at, entries): &Reading<'_>,
) {
    let mut seen = HashSet::new();
    f.checked(Invariant::ExactlyOnce, entries.len());
    f.checked(Invariant::HonestFailure, appends.len());
    for entry in *entries {
        if !seen.insert(entry.op) {
            let what = format!("op {} is in the ledger twice", entry.op);
            f.violated(Invariant::ExactlyOnce, grain, &[entry.op, reader.id], what);
        }
        let ops = [entry.op, reader.id];
        match appends.get(&entry.op) {
            None => {
                let what = format!("op {} is in the ledger and nobody sent it there", entry.op);
                f.violated(Invariant::ExactlyOnce, grain, &ops, what);
            }
            Some(op) if op.invoked > *at => {
                let what = format!("op {} was read before it was sent", entry.op);
                f.violated(Invariant::ExactlyOnce, grain, &ops, what);
            }
            Some(op) => {
                if let Outcome::Fail(why) = &op.outcome {
                    let what = format!("op {} was reported as not run ({why}) and is in the ledger", op.id);
                    f.violated(Invariant::HonestFailure, grain, &ops, what);
                }
            }
        }
    }
}

/// I1: entries in the order of tokens, one activation per token, versions without a gap.
fn chain(f: &mut Findings<'_>, grain: GrainNo, (reader, _, entries): &Reading<'_>) {
    f.checked(Invariant::SingleActivation, entries.len());
    let mut lives = HashMap::new();
    for entry in *entries {
        let life = *lives.entry(entry.epoch).or_insert(entry.life);
        if life != entry.life {
            let what = format!(
                "token {} was used by activation {life} and by activation {}",
                entry.epoch, entry.life
            );
            f.violated(Invariant::SingleActivation, grain, &[entry.op, reader.id], what);
        }
    }
    for pair in entries.windows(2) {
        let (before, after) = (&pair[0], &pair[1]);
        let ops = [before.op, after.op, reader.id];
        if after.epoch < before.epoch {
            let what = format!("op {} was stored under {} after {}", after.op, after.epoch, before.epoch);
            f.violated(Invariant::SingleActivation, grain, &ops, what);
        }
        if after.version != before.version + 1 {
            let what = format!(
                "op {} was stored as version {} right after version {}",
                after.op, after.version, before.version
            );
            f.violated(Invariant::SingleActivation, grain, &ops, what);
        }
    }
}

/// G1(a): once an activation has opened a grain, the store takes nothing under a lower token. So what an
/// activation reads has every entry of lower tokens that is ever there.
fn sealed(f: &mut Findings<'_>, grain: GrainNo, readings: &[Reading<'_>], last: &Reading<'_>) {
    f.checked(Invariant::SingleActivation, readings.len());
    for (reader, _, entries) in readings {
        let Some((_, Some(by), _)) = reader.ok() else { continue };
        let seen: HashSet<OpId> = entries.iter().map(|e| e.op).collect();
        if let Some(late) = last.2.iter().find(|e| e.epoch < by.epoch && !seen.contains(&e.op)) {
            let what = format!(
                "op {} was stored under {} after {} had opened the grain and read it for op {}",
                late.op, late.epoch, by.epoch, reader.id
            );
            f.violated(Invariant::SingleActivation, grain, &[late.op, reader.id], what);
        }
    }
}

/// Answers that follow one another in real time name rising places; a collected grain goes on where it
/// was.
fn positions(f: &mut Findings<'_>, grain: GrainNo, ops: &[&Op]) {
    let answered = |op: &&Op| match op.ok() {
        Some((at, served, Value::Appended { position, .. })) => {
            Some((op.invoked, at, *position, op.id, served.map(|s| s.life), op.workload))
        }
        _ => None,
    };
    let begun: Vec<_> = ops.iter().filter_map(answered).collect();
    let mut ended = begun.clone();
    ended.sort_by_key(|(_, at, ..)| *at);
    let mut ended = ended.into_iter().peekable();
    // The highest place answered so far, and the last answer.
    let (mut highest, mut last) = ((0, 0), None);
    for (invoked, _, position, id, life, workload) in begun {
        while let Some((_, _, before, op, life, _)) = ended.next_if(|(_, at, ..)| *at < invoked) {
            highest = highest.max((before, op));
            last = Some((op, life));
        }
        let came_back = last.is_some_and(|(_, before)| before != life);
        let invariant = match workload {
            Workload::Idle if came_back => Invariant::IdleReturn,
            _ => Invariant::NoLostWrite,
        };
        if invariant == Invariant::IdleReturn {
            f.checked(invariant, 1);
        }
        if position <= highest.0 {
            let what =
                format!("op {id} got place {position} after op {} had got place {}", highest.1, highest.0);
            f.violated(invariant, grain, &[highest.1, id], what);
        }
    }
}
