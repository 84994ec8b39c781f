//! Random valid histories are accepted, also through the file; the same with one thing wrong are not.

mod common;

use common::{History, valid};
use millet_oracle::{
    Invariant, Line, Standing, Writer, check_history,
    history::{Call, OpId, Value, Workload},
};
use proptest::prelude::*;

/// What an acknowledged append was given, by op.
fn acknowledged(h: &History) -> Vec<OpId> {
    let ok = |line: &Line| match line {
        Line::Ok { op, value: Value::Appended { .. }, .. } => Some(*op),
        _ => None,
    };
    h.lines.iter().filter_map(ok).collect()
}

/// Changes every ledger that was read.
fn in_ledgers(h: &mut History, mut change: impl FnMut(&mut Vec<millet_oracle::history::Entry>)) {
    for line in &mut h.lines {
        if let Line::Ok { value: Value::Ledger { entries }, .. } = line {
            change(entries);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_valid_history_is_accepted(seed: u64, ops in 1u64..600) {
        let verdict = valid::history(seed, ops).verdict();
        prop_assert_eq!(verdict.standing(), Standing::Pass, "{}", verdict.screen());
    }

    #[test]
    fn a_history_with_one_write_lost_is_refused(seed: u64, ops in 50u64..300, which: usize) {
        let mut h = valid::history(seed, ops);
        let acknowledged = acknowledged(&h);
        prop_assume!(!acknowledged.is_empty());
        let lost = acknowledged[which % acknowledged.len()];
        in_ledgers(&mut h, |entries| entries.retain(|e| e.op != lost));
        prop_assert!(h.verdict().invariants[&Invariant::NoLostWrite].violations > 0);
    }

    #[test]
    fn a_history_with_one_write_doubled_is_refused(seed: u64, ops in 50u64..300, which: usize) {
        let mut h = valid::history(seed, ops);
        let acknowledged = acknowledged(&h);
        prop_assume!(!acknowledged.is_empty());
        let doubled = acknowledged[which % acknowledged.len()];
        in_ledgers(&mut h, |entries| {
            let again = entries.iter().find(|e| e.op == doubled).copied();
            entries.extend(again);
        });
        prop_assert!(h.verdict().invariants[&Invariant::ExactlyOnce].violations > 0);
    }

    /// An answer that comes later than its effect could: the read of a value that had been replaced.
    #[test]
    fn a_register_that_shows_an_old_value_is_refused(seed: u64, ops in 100u64..300) {
        let mut h = valid::history(seed, ops);
        let writes = h.lines.iter().filter_map(|line| match line {
            Line::Invoke { op, grain, call: Call::Write { .. }, workload: Workload::Register, .. } => Some((*op, grain.clone())),
            _ => None,
        });
        let answered = |op: OpId| h.lines.iter().find_map(|line| match line {
            Line::Ok { at, op: of, value: Value::Done, .. } if *of == op => Some(*at),
            _ => None,
        });
        let mut done: Vec<(u64, OpId, String)> =
            writes.filter_map(|(op, grain)| answered(op).map(|at| (at, op, grain))).collect();
        done.sort();
        let Some((_, old, grain)) = done.first().cloned() else { return Ok(()) };
        prop_assume!(done.iter().any(|(_, op, of)| *op > old + 20 && *of == grain));
        let end = h.run().last_instant() / 1000 + 10;
        h.op((end, end + 1), 1_000_000, (Workload::Register, &grain), Call::Read, (1 << 40, Value::Register { value: old }));
        prop_assert!(h.verdict().invariants[&Invariant::Linearizable].violations > 0);
    }
}

#[test]
fn a_history_survives_its_file() {
    let h = valid::history(42, 400);
    let mut file = Vec::new();
    let mut writer = Writer::new(&mut file, &h.header).expect("memory");
    for line in &h.lines {
        writer.write(line).expect("memory");
    }
    writer.write(&Line::End { at: 3_600_000_000 }).expect("memory");
    writer.flush().expect("memory");
    assert_eq!(check_history(file.as_slice()).expect("a history"), h.verdict());
}

#[test]
fn a_bad_line_is_named_by_its_number() {
    let header = serde_json::to_string(&Line::Header(History::new().header)).expect("JSON");
    let said = |text: String| check_history(text.as_bytes()).expect_err("no history").to_string();
    assert!(said(String::new()).starts_with("line 1: a history begins with its header"));
    assert!(said("{}\n".into()).starts_with("line 1: not a line of a history"));
    let old = header.replace("\"format\":1", "\"format\":9");
    assert_eq!(said(old + "\n"), "line 1: history format 9, this build reads 1");
    let end = r#"{"line":"end","at":1}"#;
    assert!(
        said(format!("{header}\n{end}\n{{\"line\":\"sing\"}}\n"))
            .starts_with("line 3: not a line of a history")
    );
    assert_eq!(said(format!("{header}\n{end}\n{end}\n")), "line 3: a line after the end line");
    assert_eq!(
        said(format!("{header}\n{end}")),
        "line 2: not a line of a history: cut off: the writer did not finish it"
    );
    let ok = r#"{"line":"ok","at":1,"op":4,"value":"done"}"#;
    assert_eq!(said(format!("{header}\n{ok}\n")), "line 2: op 4 ends and was never invoked");
}
