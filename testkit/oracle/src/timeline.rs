//! The minimal timeline of one grain: the operations a violation names, those around them, the writes
//! and the faults that fell into that time.

use crate::{
    history::{Micros, OpId, Value},
    run::{GrainNo, Op, Outcome, Run},
};

/// Lines of a timeline.
const LINES: usize = 40;
/// Shown before the first and after the last operation named, at least.
const AROUND: Micros = 500_000;

/// The lines, in the order of time.
pub(crate) fn timeline(run: &Run, grain: GrainNo, ops: &[OpId]) -> Vec<String> {
    let named = || ops.iter().filter_map(|id| run.op(*id));
    let from = named().map(|op| op.invoked).min().unwrap_or(0).saturating_sub(AROUND);
    let until = named().map(end).max().unwrap_or(Micros::MAX).saturating_add(AROUND);
    let mut lines: Vec<(Micros, bool, String)> = Vec::new();
    for op in run.ops.iter().filter(|op| op.invoked <= until && end(op) >= from) {
        let named = ops.contains(&op.id);
        if op.grain == grain {
            lines.push((op.invoked, named, describe(op)));
        } else if named {
            lines.push((op.invoked, named, format!("{} at {}", describe(op), run.name(op.grain))));
        }
    }
    for write in run.writes.iter().filter(|w| w.grain == grain && (from..=until).contains(&w.at)) {
        let text = format!(
            "{}  stored {} version {} under {} of session {}",
            at(write.at),
            write.slot,
            write.version,
            write.epoch,
            write.session
        );
        lines.push((write.at, false, text));
    }
    for fault in run.faults.iter().filter(|f| f.start <= until && f.end >= from) {
        let text =
            format!("{}..{}  FAULT {} of {}", at(fault.start), at(fault.end), fault.kind, fault.target);
        lines.push((fault.start, false, text));
    }
    for (when, note) in run.notes.iter().filter(|(when, _)| (from..=until).contains(when)) {
        lines.push((*when, false, format!("{}  {note}", at(*when))));
    }
    // The named operations always stay; of the others those that are nearest to them.
    lines.sort_by_key(|(when, named, _)| (!named, distance(*when, from, until)));
    lines.truncate(LINES);
    lines.sort_by_key(|(when, ..)| *when);
    lines.into_iter().map(|(_, named, text)| format!("{} {text}", if named { '>' } else { ' ' })).collect()
}

fn end(op: &Op) -> Micros {
    op.ended.unwrap_or(op.invoked)
}

/// How far from the part between the two margins.
fn distance(when: Micros, from: Micros, until: Micros) -> Micros {
    let (from, until) = (from.saturating_add(AROUND), until.saturating_sub(AROUND));
    from.saturating_sub(when).max(when.saturating_sub(until))
}

fn at(when: Micros) -> String {
    format!("{:>4}.{:06}s", when / 1_000_000, when % 1_000_000)
}

fn describe(op: &Op) -> String {
    let until = op.ended.map_or_else(|| "   …        ".to_owned(), at);
    let head = format!("{}..{until}  client {} op {} {:?}", at(op.invoked), op.client, op.id, op.call);
    match &op.outcome {
        Outcome::Ok { served, value } => {
            let by = served.map_or_else(String::new, |s| {
                format!(" by {} (session {}, life {})", s.epoch, s.session, s.life)
            });
            format!("{head} -> {}{by}", short(value))
        }
        Outcome::Fail(why) => format!("{head} -> did not run: {why}"),
        Outcome::Unknown(why) => format!("{head} -> UNKNOWN: {why}"),
        Outcome::Pending => format!("{head} -> no answer before the end"),
    }
}

/// A value on part of a line.
fn short(value: &Value) -> String {
    match value {
        Value::Ledger { entries } => match entries.last() {
            Some(last) => format!(
                "ledger of {} entries, last op {} version {} by {}",
                entries.len(),
                last.op,
                last.version,
                last.epoch
            ),
            None => "an empty ledger".into(),
        },
        Value::Ids { ids } => format!("ids {:?}..{:?}", ids.first(), ids.last()),
        Value::Account(a) => format!("balance {}, {} sent, {} pending", a.balance, a.sent.len(), a.pending),
        other => format!("{other:?}"),
    }
}
