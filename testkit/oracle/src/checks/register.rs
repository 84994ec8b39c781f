//! I4 and I9 on registers: per register an order must exist in which every answer fits (see `wgl`).
//!
//! Written values are unique in a well-made workload. Then an operation with unknown outcome whose value
//! nobody saw may be left out (it took no effect that anybody could tell), and one whose value was seen
//! took effect before the first answer that shows it: both keep the search short.

use std::collections::{HashMap, HashSet};

use crate::{
    findings::Findings,
    history::{Call, Invariant, Micros, OpId, Value},
    run::{GrainNo, Op},
    wgl::{Answer, Effect, Interval, linearizable},
};

pub(super) fn check(f: &mut Findings<'_>) {
    let run = f.run;
    for (grain, ops) in
        run.by_grain(|op| matches!(op.call, Call::Read | Call::Write { .. } | Call::Cas { .. }))
    {
        let seen = Seen::of(&ops);
        lies(f, grain, &ops, &seen);
        let (mut ids, mut intervals) = (Vec::new(), Vec::new());
        for op in &ops {
            if let Some(interval) = interval(op, &seen) {
                ids.push(op.id);
                intervals.push(interval);
            }
        }
        f.checked(Invariant::Linearizable, intervals.len());
        match linearizable(&intervals) {
            Answer::Linearizable => {}
            Answer::Impossible(stuck) => {
                let stuck: Vec<OpId> = stuck.into_iter().map(|n| ids[n]).collect();
                let what =
                    "no order of the operations explains the answers; the search got no further than these";
                f.violated(Invariant::Linearizable, grain, &stuck, what);
            }
            Answer::GivenUp => {
                let why =
                    format!("{}: too many operations overlap, the search was given up", run.name(grain));
                f.invalid(Invariant::Linearizable, why);
            }
        }
    }
}

/// What was seen of values.
struct Seen {
    /// When an answer first showed a value.
    first: HashMap<u64, Micros>,
    /// Values that some compare-and-set expects.
    expected: HashSet<u64>,
    /// How many operations would write a value.
    writers: HashMap<u64, u32>,
}

impl Seen {
    fn of(ops: &[&Op]) -> Self {
        let mut me = Self { first: HashMap::new(), expected: HashSet::new(), writers: HashMap::new() };
        for op in ops {
            match op.call {
                Call::Write { value } => *me.writers.entry(value).or_default() += 1,
                Call::Cas { from, to } => {
                    me.expected.insert(from);
                    *me.writers.entry(to).or_default() += 1;
                }
                _ => {}
            }
            if let Some((at, _, Value::Register { value } | Value::Swapped { seen: value, .. })) = op.ok() {
                let first = me.first.entry(*value).or_insert(at);
                *first = at.min(*first);
            }
        }
        me
    }

    fn is_unique(&self, value: u64) -> bool {
        value != 0 && self.writers.get(&value) == Some(&1)
    }
}

/// An operation as the search takes it; `None` if it is left out.
fn interval(op: &Op, seen: &Seen) -> Option<Interval> {
    if op.had_no_effect() {
        return None;
    }
    let told = op.ok().map(|(at, _, value)| (at, value));
    let effect = match (&op.call, told) {
        (Call::Read, Some((_, Value::Register { value }))) => Effect::Read(*value),
        (Call::Write { value }, _) => Effect::Write(*value),
        (Call::Cas { from, to }, Some((_, Value::Swapped { seen, .. }))) => {
            Effect::Swap { from: *from, to: *to, seen: Some(*seen) }
        }
        (Call::Cas { from, to }, None) => Effect::Swap { from: *from, to: *to, seen: None },
        _ => return None,
    };
    let from = op.invoked;
    if let Some((at, _)) = told {
        return Some(Interval { from, until: Some(at), effect });
    }
    let (Effect::Write(value) | Effect::Swap { to: value, .. }) = effect else { return None };
    if !seen.is_unique(value) {
        return Some(Interval { from, until: None, effect });
    }
    match seen.first.get(&value) {
        // Shown before it was sent: no order will explain that.
        Some(shown) if *shown < from => Some(Interval { from, until: None, effect }),
        Some(shown) => Some(Interval { from, until: Some(*shown), effect }),
        None if seen.expected.contains(&value) => Some(Interval { from, until: None, effect }),
        None => None,
    }
}

/// I9: a value whose only writer surely did not run was never seen. And a compare-and-set that says it
/// wrote saw what it expected.
fn lies(f: &mut Findings<'_>, grain: GrainNo, ops: &[&Op], seen: &Seen) {
    for op in ops {
        if let (Call::Write { value } | Call::Cas { to: value, .. }, true) = (&op.call, op.had_no_effect()) {
            f.checked(Invariant::HonestFailure, 1);
            if seen.is_unique(*value) && seen.first.contains_key(value) {
                let what = format!("op {} was reported as not run, and its value {value} was read", op.id);
                f.violated(Invariant::HonestFailure, grain, &[op.id], what);
            }
        }
        if let (Call::Cas { from, .. }, Some((_, _, Value::Swapped { done, seen }))) = (&op.call, op.ok())
            && *done != (from == seen)
        {
            let what = format!("op {} compared with {from}, saw {seen}, and says done = {done}", op.id);
            f.violated(Invariant::Linearizable, grain, &[op.id], what);
        }
    }
}
