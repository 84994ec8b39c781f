//! Histories made by hand: a few words per line, times in milliseconds.
#![allow(dead_code, reason = "every test file uses its part")]

pub mod valid;

use millet_oracle::{
    Header, Invariant, Run, Standing, Verdict, check,
    history::{Account, Call, Entry, Epoch, Fault, Line, Observed, OpId, Phase, Served, Value, Workload},
};

/// A history under construction.
pub struct History {
    pub header: Header,
    pub lines: Vec<Line>,
}

pub fn epoch(index: u64, activation: u32) -> Epoch {
    Epoch { generation: 1, index, activation }
}

/// Served under the `index`-th grant by its first activation: session and life follow the grant.
pub fn by(index: u64) -> Served {
    Served { session: index, epoch: epoch(index, 1), life: index }
}

pub fn entry(op: OpId, version: u64, index: u64) -> Entry {
    Entry { op, version, epoch: epoch(index, 1), life: index }
}

pub fn account(opening: u64, balance: u64) -> Account {
    Account { opening, balance, ..Account::default() }
}

impl History {
    pub fn new() -> Self {
        Self { header: Header::new("test", 7, 1_000_000), lines: Vec::new() }
    }

    pub fn invoke(&mut self, ms: u64, op: OpId, workload: Workload, grain: &str, call: Call) -> &mut Self {
        let grain = grain.to_owned();
        self.push(Line::Invoke { at: ms * 1000, client: op as u32, op, workload, grain, call })
    }

    pub fn ok(&mut self, ms: u64, op: OpId, served: Option<Served>, value: Value) -> &mut Self {
        self.push(Line::Ok { at: ms * 1000, op, served, value })
    }

    pub fn fail(&mut self, ms: u64, op: OpId) -> &mut Self {
        self.push(Line::Fail { at: ms * 1000, op, why: "unavailable".into() })
    }

    pub fn unknown(&mut self, ms: u64, op: OpId) -> &mut Self {
        self.push(Line::Unknown { at: ms * 1000, op, why: "link lost".into() })
    }

    /// A whole operation: from, until, number, call, answered by which grant, with what.
    pub fn op(
        &mut self,
        (from, until): (u64, u64),
        op: OpId,
        (workload, grain): (Workload, &str),
        call: Call,
        (index, value): (u64, Value),
    ) -> &mut Self {
        let served = (workload != Workload::Store).then(|| by(index));
        self.invoke(from, op, workload, grain, call).ok(until, op, served, value)
    }

    /// An acknowledged append to counter `C/1`.
    pub fn append(&mut self, from: u64, op: OpId, index: u64, position: u64) -> &mut Self {
        let value = Value::Appended { position, version: position };
        self.op((from, from + 5), op, (Workload::Counter, "C/1"), Call::Append, (index, value))
    }

    /// A reading of counter `C/1`.
    pub fn ledger(&mut self, from: u64, op: OpId, index: u64, entries: Vec<Entry>) -> &mut Self {
        let value = Value::Ledger { entries };
        self.op((from, from + 5), op, (Workload::Counter, "C/1"), Call::Ledger, (index, value))
    }

    pub fn saw(&mut self, ms: u64, saw: Observed) -> &mut Self {
        self.push(Line::Observation { at: ms * 1000, saw })
    }

    pub fn phase(&mut self, ms: u64, phase: Phase) -> &mut Self {
        self.saw(ms, Observed::Phase { phase })
    }

    pub fn fault(
        &mut self,
        kind: &str,
        (start, end): (u64, u64),
        session: u64,
        took_effect: bool,
    ) -> &mut Self {
        let (kind, target) = (kind.to_owned(), "w1".to_owned());
        let (start, end) = (start * 1000, end * 1000);
        let fault = Fault { kind, target, session: Some(session), start, end, took_effect };
        self.saw(end / 1000, Observed::Fault(fault))
    }

    pub fn stored(&mut self, ms: u64, session: u64, epoch: Epoch, version: u64) -> &mut Self {
        let (grain, slot) = ("C/1".to_owned(), "ledger".to_owned());
        self.saw(ms, Observed::Write { grain, slot, session, epoch, version })
    }

    pub fn push(&mut self, line: Line) -> &mut Self {
        self.lines.push(line);
        self
    }

    pub fn run(&self) -> Run {
        let mut run = Run::new(self.header.clone());
        for line in &self.lines {
            run.push(line.clone()).expect("lines that fit together");
        }
        run.push(Line::End { at: 3_600_000_000 }).expect("one end");
        run
    }

    pub fn verdict(&self) -> Verdict {
        check(&self.run())
    }
}

/// The run is refused for this invariant alone, and the violation shows what happened.
pub fn refused(history: &History, invariant: Invariant, says: &str) {
    let verdict = history.verdict();
    for (of, tally) in &verdict.invariants {
        assert_eq!(tally.violations > 0, *of == invariant, "{of:?}: {}", verdict.screen());
    }
    assert_eq!(verdict.standing(), Standing::Fail);
    let violation = &verdict.violations[0];
    assert!(violation.what.contains(says), "{}", violation.what);
    assert!(violation.ops.is_empty() || !violation.timeline.is_empty(), "no timeline: {violation}");
    for op in &violation.ops {
        assert!(violation.timeline.iter().any(|l| l.contains(&format!("op {op} "))), "{violation}");
    }
}

/// The run holds, and this invariant had something to check.
pub fn accepted(history: &History, invariant: Invariant) {
    let verdict = history.verdict();
    assert_eq!(verdict.standing(), Standing::Pass, "{}", verdict.screen());
    assert_eq!(verdict.invariants[&invariant].standing(), Standing::Pass, "{}", verdict.screen());
}

/// The run shows nothing, for this reason.
pub fn invalid(history: &History, invariant: Invariant, says: &str) {
    let verdict = history.verdict();
    let tally = &verdict.invariants[&invariant];
    assert_eq!(
        (tally.standing(), verdict.standing()),
        (Standing::Invalid, Standing::Invalid),
        "{}",
        verdict.screen()
    );
    assert!(tally.invalid.iter().any(|why| why.contains(says)), "{:?}", tally.invalid);
}
