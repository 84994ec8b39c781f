//! The clients. Each has one operation under way, chooses by its own dice, and pauses in between.

use std::{sync::Arc, time::Duration};

use millet::Ran;
use millet_oracle::history::{Call, Served, Value, Workload};
use tokio::{sync::watch, time::Instant};

use crate::{
    ask::{Failed, ask, perform, record, type_name},
    dice::Dice,
    grains::sleeper,
    recorder::Recorder,
    settings::{Role, Settings},
    way::Way,
};

/// Becomes true when the load is over: clients end after the operation that is under way.
pub type Stop = watch::Receiver<bool>;

/// How often a transfer is asked for again under its number.
const TRIES: u32 = 3;
/// The most that one transfer moves.
const AMOUNT: u64 = 20;

/// Runs one client until it is stopped.
///
/// Cancel safety: dropping it leaves its operation without an end in the history: it may have run.
pub async fn client<W: Way>(
    role: Role,
    ways: Arc<[W]>,
    settings: Arc<Settings>,
    recorder: Arc<Recorder>,
    mut stop: Stop,
) {
    let dice = Dice::new(settings.seed, u64::from(role.client));
    let mut me = Client { role, ways, settings, recorder, dice, steps: 0, last_seen: (0, 0) };
    while !*stop.borrow() {
        me.step().await;
        me.steps += 1;
        let pause = me.pause();
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            // An error says that nobody can stop it any more: so be it.
            stopped = stop.changed() => if stopped.is_err() { return },
        }
    }
}

struct Client<W> {
    role: Role,
    ways: Arc<[W]>,
    settings: Arc<Settings>,
    recorder: Arc<Recorder>,
    dice: Dice,
    steps: u64,
    /// The register that it looked at last, and what that held.
    last_seen: (u64, u64),
}

impl<W: Way> Client<W> {
    fn pause(&mut self) -> Duration {
        let mean = match self.role.workload {
            // Sometimes long enough for its grain to be collected.
            Workload::Idle => self.settings.pause.max(sleeper::IDLE * 2),
            _ => self.settings.pause,
        };
        let span = u64::try_from(mean.as_micros()).unwrap_or(u64::MAX / 2).saturating_mul(2);
        Duration::from_micros(self.dice.below(span.max(1)))
    }

    /// The first of the keys that are in use now.
    fn base(&self) -> u64 {
        let Settings { keys, ops_per_key, .. } = *self.settings;
        let done = self.steps * self.settings.clients_of(self.role.workload);
        done / (keys * ops_per_key).max(1) * keys
    }

    fn only_reads(&self) -> bool {
        self.settings.split && self.role.client % 2 == 1
    }

    fn way(&mut self) -> usize {
        if self.settings.split {
            let others = self.ways.len().saturating_sub(1).max(1);
            let own = if self.only_reads() { 1 + self.role.client as usize / 2 % others } else { 0 };
            return own % self.ways.len();
        }
        self.dice.below(self.ways.len() as u64) as usize
    }

    async fn step(&mut self) {
        let key = self.base() + self.dice.below(self.settings.keys);
        match self.role.workload {
            Workload::Counter | Workload::Singleton => self.ledger(key).await,
            // Its own, or others would keep it awake.
            Workload::Idle => self.ledger(u64::from(self.role.client) << 32 | self.base()).await,
            Workload::Account => self.transfer(key).await,
            Workload::Register => self.register(key).await,
            Workload::Snowflake => {
                let key = self.dice.below(self.settings.issuers.max(1));
                // Always through the same node: it lives there as long as that node does.
                let way = (key % self.ways.len() as u64) as usize;
                let count = self.settings.ids_at_once;
                let _ = self.perform(way, key, Call::Ids { count }).await;
            }
            // It has clients of its own (`store_register`).
            Workload::Store => {}
        }
    }

    async fn ledger(&mut self, key: u64) {
        let call = match self.dice.below(100) {
            _ if self.only_reads() => Call::Ledger,
            0..=4 => Call::Ledger,
            5..=9 if self.role.workload != Workload::Idle => Call::StepDown,
            _ => Call::Append,
        };
        let way = self.way();
        let _ = self.perform(way, key, call).await;
    }

    async fn register(&mut self, key: u64) {
        let expected = if self.last_seen.0 == key { self.last_seen.1 } else { 0 };
        let (way, act) = (self.way(), if self.only_reads() { 0 } else { self.dice.below(10) });
        let who = (self.role.client, Workload::Register, key);
        // Every value is written by one operation only: its own number.
        let call = |op| match act {
            0..=3 => Call::Read,
            4..=6 => Call::Write { value: op },
            _ => Call::Cas { from: expected, to: op },
        };
        let end = perform(&self.ways[way], &self.recorder, who, call, self.settings.deadline).await;
        if let Ok(Value::Register { value: seen } | Value::Swapped { seen, .. }) = end {
            self.last_seen = (key, seen);
        }
    }

    async fn perform(&mut self, way: usize, key: u64, call: Call) -> Result<Value, Failed> {
        let who = (self.role.client, self.role.workload, key);
        perform(&self.ways[way], &self.recorder, who, |_| call, self.settings.deadline).await
    }

    /// A transfer is asked for again under its number while its outcome is not known: one operation of
    /// the history. If any attempt may have run, a later refusal says nothing: the attempt may still be
    /// on its way.
    async fn transfer(&mut self, from: u64) {
        if self.settings.keys < 2 || self.dice.percent(5) {
            let way = self.way();
            let _ = self.perform(way, from, Call::Account).await;
            return;
        }
        let base = self.base();
        let to = base + (from - base + 1 + self.dice.below(self.settings.keys - 1)) % self.settings.keys;
        let to = format!("{}/{to}", type_name(Workload::Account));
        let call = Call::Transfer { to, amount: 1 + self.dice.below(AMOUNT) };
        let grain = (type_name(Workload::Account), from);
        let (op, call) = self.recorder.invoke(self.role.client, Workload::Account, grain, |_| call);
        let mut may_have_run: Option<Failed> = None;
        let mut straggler =
            Straggler { recorder: self.recorder.clone(), until: Instant::now(), is_one: false };
        for attempt in 1..=TRIES {
            let way = self.way();
            let d = self.settings.deadline;
            // On a clock that is up to 10 % slower.
            (straggler.until, straggler.is_one) = (Instant::now() + d + d / 8, true);
            let end = ask(&self.ways[way], Workload::Account, from, op, &call, d).await;
            let end: Result<(Served, Value), Failed> = match (end, may_have_run.take()) {
                (Ok((_, Value::Refused { .. })), Some(earlier)) => Err(earlier),
                (Err(Failed { ran: Ran::No, .. }), Some(earlier)) => Err(earlier),
                (end, _) => end,
            };
            match end {
                Err(failed) if attempt < TRIES => {
                    may_have_run = Some(failed).filter(|f| f.ran != Ran::No);
                    tokio::time::sleep(self.settings.pause).await;
                }
                end => {
                    straggler.is_one = end.as_ref().is_err_and(|failed| failed.ran != Ran::No);
                    let _ = record(&self.recorder, op, end);
                    return;
                }
            }
        }
    }
}

/// A transfer whose end is not known, also because its client has gone: it may still begin to run.
struct Straggler {
    recorder: Arc<Recorder>,
    until: Instant,
    is_one: bool,
}

impl Drop for Straggler {
    fn drop(&mut self) {
        if self.is_one {
            self.recorder.straggler(self.until);
        }
    }
}
