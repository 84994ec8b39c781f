//! The history as it comes about: one recorder per run, shared by all clients and the nemesis. Lines
//! are written in the order in which they are recorded, under one small lock.

use std::{
    collections::BTreeSet,
    io::{self, Write},
    sync::Arc,
    time::Duration,
};

use millet_core::Clock;
use millet_oracle::{
    Header, Line, Writer,
    history::{Call, Fault, Micros, Observed, OpId, Phase, Served, Value, Workload},
};
use parking_lot::Mutex;
use tokio::time::Instant;

/// Writes one history. Share it by `Arc`.
pub struct Recorder {
    clock: Arc<dyn Clock>,
    /// The clock's reading when the run began.
    zero: Duration,
    state: Mutex<State>,
}

struct State {
    to: Writer<Box<dyn Write + Send>>,
    next_op: OpId,
    /// Every key that was asked, for the reading back.
    asked: BTreeSet<(Workload, u64)>,
    /// Until when an operation without a known end may still begin to run.
    stragglers_until: Option<Instant>,
    failed: Option<io::Error>,
}

impl Recorder {
    /// Begins a history. `clock` is the run's one time axis: its monotonic reading counts.
    ///
    /// # Errors
    /// The header cannot be written.
    pub fn new(
        clock: Arc<dyn Clock>,
        to: impl Write + Send + 'static,
        header: &Header,
    ) -> io::Result<Arc<Self>> {
        let to: Box<dyn Write + Send> = Box::new(to);
        let to = Writer::new(to, header)?;
        let state = State { to, next_op: 1, asked: BTreeSet::new(), stragglers_until: None, failed: None };
        Ok(Arc::new(Self { zero: clock.monotonic(), clock, state: Mutex::new(state) }))
    }

    /// Now, on the history's axis.
    pub fn now(&self) -> Micros {
        u64::try_from(self.clock.monotonic().saturating_sub(self.zero).as_micros()).unwrap_or(Micros::MAX)
    }

    /// A client is about to send an operation; `call` may depend on the operation's number.
    pub fn invoke(
        &self,
        client: u32,
        workload: Workload,
        (grain, key): (&str, u64),
        call: impl FnOnce(OpId) -> Call,
    ) -> (OpId, Call) {
        let mut state = self.state.lock();
        let op = state.next_op;
        state.next_op += 1;
        state.asked.insert((workload, key));
        let call = call(op);
        let grain = format!("{grain}/{key}");
        let line = Line::Invoke { at: self.now(), client, op, workload, grain, call: call.clone() };
        state.write(&line);
        (op, call)
    }

    /// It was answered.
    pub fn ok(&self, op: OpId, served: Option<Served>, value: Value) {
        self.write(|at| Line::Ok { at, op, served, value });
    }

    /// It surely did not run.
    pub fn fail(&self, op: OpId, why: String) {
        self.write(|at| Line::Fail { at, op, why });
    }

    /// It may have run.
    pub fn unknown(&self, op: OpId, why: String) {
        self.write(|at| Line::Unknown { at, op, why });
    }

    /// Something beside the operations was seen now.
    pub fn observe(&self, saw: Observed) {
        self.write(|at| Line::Observation { at, saw });
    }

    /// A part of the run begins.
    pub fn phase(&self, phase: Phase) {
        self.observe(Observed::Phase { phase });
    }

    /// A fault is over.
    pub fn fault(&self, fault: Fault) {
        self.observe(Observed::Fault(fault));
    }

    /// Writes the end line and hands everything on. Whatever is recorded later is left out.
    ///
    /// # Errors
    /// Any line that could not be written.
    pub fn finish(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        state.write(&Line::End { at: self.now() });
        let flushed = state.to.flush();
        let failed = state.failed.replace(io::Error::other("the history is finished"));
        failed.map_or(flushed, Err)
    }

    /// Every key that was asked so far.
    pub(crate) fn asked(&self) -> Vec<(Workload, u64)> {
        self.state.lock().asked.iter().copied().collect()
    }

    /// An operation without a known end may still begin to run until then.
    pub(crate) fn straggler(&self, until: Instant) {
        let mut state = self.state.lock();
        state.stragglers_until = state.stragglers_until.max(Some(until));
    }

    /// Until when operations without a known end may still begin to run.
    pub(crate) fn stragglers_until(&self) -> Option<Instant> {
        self.state.lock().stragglers_until
    }

    fn write(&self, line: impl FnOnce(Micros) -> Line) {
        let mut state = self.state.lock();
        let line = line(self.now());
        state.write(&line);
    }
}

impl State {
    /// After the first failure nothing is written; `finish` tells.
    fn write(&mut self, line: &Line) {
        if self.failed.is_none() {
            self.failed = self.to.write(line).err();
        }
    }
}

/// A history in memory: give a clone to the recorder, take the bytes afterwards.
#[derive(Clone, Debug, Default)]
pub struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Buffer {
    /// What was written so far.
    pub fn bytes(&self) -> Vec<u8> {
        self.0.lock().clone()
    }
}

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
