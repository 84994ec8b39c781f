//! A history put together: every operation with its end, grains numbered, observations by kind. Memory
//! grows with the number of operations; nothing is judged here.

use std::{collections::HashMap, io::BufRead};

use crate::{
    history::{Call, Epoch, Fault, Header, Line, Micros, Observed, OpId, Phase, Served, Value, Workload},
    reader::{HistoryError, Reader},
};

/// Numbers the grains of one run.
pub type GrainNo = u32;

/// How an operation ended.
#[derive(Clone, PartialEq, Debug)]
pub enum Outcome {
    /// Answered.
    Ok {
        /// By which activation.
        served: Option<Served>,
        /// What.
        value: Value,
    },
    /// Surely not run.
    Fail(String),
    /// May have run.
    Unknown(String),
    /// The history ended first: may have run.
    Pending,
}

/// One operation.
#[derive(Clone, PartialEq, Debug)]
pub struct Op {
    /// Its number.
    pub id: OpId,
    /// Whose.
    pub client: u32,
    /// Of which workload.
    pub workload: Workload,
    /// To which grain.
    pub grain: GrainNo,
    /// What was asked.
    pub call: Call,
    /// When it was sent.
    pub invoked: Micros,
    /// When its end was known.
    pub ended: Option<Micros>,
    /// Its end.
    pub outcome: Outcome,
}

impl Op {
    /// The answer, when it came, and by whom.
    pub fn ok(&self) -> Option<(Micros, Option<&Served>, &Value)> {
        match (&self.outcome, self.ended) {
            (Outcome::Ok { served, value }, Some(at)) => Some((at, served.as_ref(), value)),
            _ => None,
        }
    }

    /// Whether it surely had no effect.
    pub fn had_no_effect(&self) -> bool {
        match &self.outcome {
            Outcome::Fail(_) | Outcome::Ok { value: Value::Refused { .. }, .. } => true,
            Outcome::Ok { .. } | Outcome::Unknown(_) | Outcome::Pending => false,
        }
    }
}

/// A write that a store accepted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Write {
    /// When it was seen.
    pub at: Micros,
    /// Whose state.
    pub grain: GrainNo,
    /// Which state.
    pub slot: String,
    /// Under which session.
    pub session: u64,
    /// Under which token.
    pub epoch: Epoch,
    /// The version it became.
    pub version: u64,
}

/// A lease as it was held.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lease {
    /// Of what.
    pub of: String,
    /// Whose.
    pub session: u64,
    /// From when.
    pub from: Micros,
    /// Until when.
    pub until: Micros,
}

/// How the cluster stood at the end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settled {
    /// Leading members.
    pub leaders: u32,
    /// Hashes of the applied state.
    pub state_hashes: Vec<String>,
    /// Leases of nobody.
    pub orphan_leases: u64,
}

/// A whole history.
#[derive(Clone, Default, Debug)]
pub struct Run {
    /// What it was.
    pub header: Header,
    /// Every operation, in the order of the invoke lines.
    pub ops: Vec<Op>,
    /// Accepted writes, in the order of acceptance.
    pub writes: Vec<Write>,
    /// Leases.
    pub leases: Vec<Lease>,
    /// Faults.
    pub faults: Vec<Fault>,
    /// Memory samples: when, which process, how many bytes.
    pub rss: Vec<(Micros, String, u64)>,
    /// Phases, each with its beginning.
    pub phases: Vec<(Phase, Micros)>,
    /// How the cluster stood.
    pub settled: Vec<Settled>,
    /// Notes for timelines.
    pub notes: Vec<(Micros, String)>,
    /// The time of the end line; without it the run did not finish.
    pub ended: Option<Micros>,
    names: Vec<String>,
    numbers: HashMap<String, GrainNo>,
    /// Where an operation stands in `ops`.
    places: HashMap<OpId, usize>,
}

impl Run {
    /// An empty run; lines come with [`Run::push`].
    pub fn new(header: Header) -> Self {
        Self { header, ..Self::default() }
    }

    /// Reads a whole history.
    ///
    /// # Errors
    /// A line that cannot be read, or does not fit to those before it.
    pub fn read(from: impl BufRead) -> Result<Self, HistoryError> {
        let mut reader = Reader::new(from)?;
        let mut run = Self::new(reader.header().clone());
        while let Some(line) = reader.next() {
            run.push(line?).map_err(|why| HistoryError::Inconsistent { line: reader.line(), why })?;
        }
        Ok(run)
    }

    /// Takes the next line.
    ///
    /// # Errors
    /// What does not fit: an op id used twice, an end without a beginning, anything after the end.
    pub fn push(&mut self, line: Line) -> Result<(), String> {
        if self.ended.is_some() {
            return Err("a line after the end line".into());
        }
        match line {
            Line::Header(_) => return Err("a second header; one history per file".into()),
            Line::Invoke { at, client, op, workload, grain, call } => {
                let grain = self.number(&grain);
                let place = self.ops.len();
                if self.places.insert(op, place).is_some() {
                    return Err(format!("op {op} is invoked twice"));
                }
                let (ended, outcome) = (None, Outcome::Pending);
                self.ops.push(Op { id: op, client, workload, grain, call, invoked: at, ended, outcome });
            }
            Line::Ok { at, op, served, value } => self.end(op, at, Outcome::Ok { served, value })?,
            Line::Fail { at, op, why } => self.end(op, at, Outcome::Fail(why))?,
            Line::Unknown { at, op, why } => self.end(op, at, Outcome::Unknown(why))?,
            Line::Observation { at, saw } => self.observe(at, saw),
            Line::End { at } => self.ended = Some(at),
        }
        Ok(())
    }

    fn end(&mut self, id: OpId, at: Micros, outcome: Outcome) -> Result<(), String> {
        let op = self.places.get(&id).and_then(|place| self.ops.get_mut(*place));
        let op = op.ok_or_else(|| format!("op {id} ends and was never invoked"))?;
        if op.ended.is_some() {
            return Err(format!("op {id} ends twice"));
        }
        if at < op.invoked {
            return Err(format!("op {id} ends at {at} us, before it was invoked at {} us", op.invoked));
        }
        (op.ended, op.outcome) = (Some(at), outcome);
        Ok(())
    }

    fn observe(&mut self, at: Micros, saw: Observed) {
        match saw {
            Observed::Phase { phase } => self.phases.push((phase, at)),
            Observed::Fault(fault) => self.faults.push(fault),
            Observed::Write { grain, slot, session, epoch, version } => {
                let grain = self.number(&grain);
                self.writes.push(Write { at, grain, slot, session, epoch, version });
            }
            Observed::Lease { of, session, from, until } => {
                self.leases.push(Lease { of, session, from, until });
            }
            Observed::Rss { process, bytes } => self.rss.push((at, process, bytes)),
            Observed::Settled { leaders, state_hashes, orphan_leases } => {
                self.settled.push(Settled { leaders, state_hashes, orphan_leases });
            }
            Observed::Note { text } => self.notes.push((at, text)),
        }
    }

    fn number(&mut self, grain: &str) -> GrainNo {
        if let Some(no) = self.numbers.get(grain) {
            return *no;
        }
        let no = GrainNo::try_from(self.names.len()).expect("a history names less than 2^32 grains");
        self.names.push(grain.to_owned());
        self.numbers.insert(grain.to_owned(), no);
        no
    }

    /// The name of a grain.
    pub fn name(&self, grain: GrainNo) -> &str {
        &self.names[grain as usize]
    }

    /// The number of a grain that the history names.
    pub fn grain(&self, name: &str) -> Option<GrainNo> {
        self.numbers.get(name).copied()
    }

    /// How many grains the history names.
    pub fn grains(&self) -> usize {
        self.names.len()
    }

    /// An operation by its number.
    pub fn op(&self, id: OpId) -> Option<&Op> {
        self.places.get(&id).map(|place| &self.ops[*place])
    }

    /// When a phase first began.
    pub fn phase(&self, which: Phase) -> Option<Micros> {
        self.phases.iter().find(|(phase, _)| *phase == which).map(|(_, at)| *at)
    }

    /// The operations of one workload, grain by grain, in the order they were invoked.
    pub fn by_grain(&self, fits: impl Fn(&Op) -> bool) -> Vec<(GrainNo, Vec<&Op>)> {
        let mut lists: Vec<Vec<&Op>> = vec![Vec::new(); self.names.len()];
        for op in self.ops.iter().filter(|op| fits(op)) {
            lists[op.grain as usize].push(op);
        }
        for list in &mut lists {
            list.sort_by_key(|op| op.invoked);
        }
        (0..).zip(lists).filter(|(_, list)| !list.is_empty()).collect()
    }

    /// The last instant that the history names.
    pub fn last_instant(&self) -> Micros {
        let ops = self.ops.iter().map(|op| op.ended.unwrap_or(op.invoked));
        ops.chain(self.ended).max().unwrap_or(0)
    }
}
