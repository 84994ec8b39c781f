//! Random histories that are valid by construction: operations take effect at one instant between their
//! beginning and their end, on grains that change hands in the order of time.

use std::collections::BTreeMap;

use millet_oracle::history::{
    Call, Entry, Epoch, Line, OpId, Phase, Received, Sent, Served, Value, Workload,
};

use super::{History, account, epoch};

/// SplitMix64 (Steele, Lea, Flood 2014).
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % n
    }
}

/// Time between two beginnings, microseconds.
const PACE: u64 = 1_000;
/// Accounts, and what each begins with.
const ACCOUNTS: u64 = 3;
const OPENING: u64 = 50;

#[derive(Clone)]
struct Planned {
    op: OpId,
    workload: Workload,
    key: u64,
    from: u64,
    effect: u64,
    until: u64,
    /// 0 answered, 1 not run, 2 unknown and run, 3 unknown and not run.
    end: u64,
    roll: u64,
}

#[derive(Default)]
struct Grain {
    served: Option<Served>,
    ledger: Vec<Entry>,
    version: u64,
    register: u64,
    balance: u64,
    sent: Vec<Sent>,
    received: BTreeMap<String, Received>,
}

#[derive(Default)]
struct World {
    grains: BTreeMap<(Workload, u64), Grain>,
    grants: u64,
    last_id: u64,
}

fn name(workload: Workload, key: u64) -> String {
    format!("{workload:?}/{key}")
}

impl World {
    fn grain(&mut self, workload: Workload, key: u64) -> &mut Grain {
        let opening = Grain { balance: OPENING, ..Grain::default() };
        self.grains.entry((workload, key)).or_insert(opening)
    }

    /// Whoever has the grain now; now and then somebody new. A session has the number of its first grant.
    fn holder(&mut self, workload: Workload, key: u64, dice: &mut Dice) -> Served {
        // All singletons sit on one shard.
        let key = if workload == Workload::Singleton { 0 } else { key };
        let held = self.grain(workload, key).served;
        let (again, anew) = (dice.below(20) == 0, dice.below(20) == 0);
        let served = match held {
            Some(s) if !again && !anew => s,
            Some(s) if again => {
                let epoch = Epoch { activation: s.epoch.activation + 1, ..s.epoch };
                Served { epoch, life: s.life + 1, ..s }
            }
            _ => {
                self.grants += 1;
                Served { session: self.grants, epoch: epoch(self.grants, 1), life: self.grants << 20 }
            }
        };
        self.grain(workload, key).served = Some(served);
        served
    }

    fn carry_out(&mut self, p: &Planned, call: &Call, served: Served) -> Value {
        let me = (p.workload, p.key);
        match call {
            Call::Append => {
                let grain = self.grain(me.0, me.1);
                grain.version += 1;
                let version = grain.version;
                grain.ledger.push(Entry { op: p.op, version, epoch: served.epoch, life: served.life });
                Value::Appended { position: grain.ledger.len() as u64, version }
            }
            Call::Ledger => Value::Ledger { entries: self.grain(me.0, me.1).ledger.clone() },
            Call::Read => Value::Register { value: self.grain(me.0, me.1).register },
            Call::Write { value } => {
                self.grain(me.0, me.1).register = *value;
                Value::Done
            }
            Call::Cas { from, to } => {
                let seen = self.grain(me.0, me.1).register;
                if seen == *from {
                    self.grain(me.0, me.1).register = *to;
                }
                Value::Swapped { done: seen == *from, seen }
            }
            Call::Transfer { to, amount } => {
                if self.grain(me.0, me.1).balance < *amount {
                    return Value::Refused { why: "too little".into() };
                }
                let from = self.grain(me.0, me.1);
                from.balance -= amount;
                from.sent.push(Sent { op: p.op, to: to.clone(), amount: *amount });
                let receiver = self.grain(me.0, (p.key + 1) % ACCOUNTS);
                receiver.balance += amount;
                let received = receiver.received.entry(name(me.0, me.1)).or_default();
                received.count += 1;
                received.amount += amount;
                Value::Done
            }
            Call::Account => {
                let grain = self.grain(me.0, me.1);
                let mut shown = account(OPENING, grain.balance);
                (shown.sent, shown.received) = (grain.sent.clone(), grain.received.clone());
                Value::Account(shown)
            }
            Call::Ids { count } => {
                let first = self.last_id + 1;
                self.last_id += u64::from(*count);
                Value::Ids { ids: (first..=self.last_id).collect() }
            }
            Call::StepDown => Value::Done,
        }
    }
}

fn plan(ops: u64, dice: &mut Dice) -> Vec<Planned> {
    const ALL: [Workload; 7] = [
        Workload::Counter,
        Workload::Account,
        Workload::Register,
        Workload::Store,
        Workload::Singleton,
        Workload::Idle,
        Workload::Snowflake,
    ];
    (1..=ops)
        .map(|op| {
            let from = op * PACE + dice.below(PACE);
            let effect = from + dice.below(5 * PACE);
            let until = effect + dice.below(5 * PACE);
            let end = [0, 0, 0, 0, 0, 0, 0, 1, 2, 3][dice.below(10) as usize];
            let (workload, roll) = (ALL[dice.below(7) as usize], dice.below(1 << 32));
            Planned { op, workload, key: dice.below(3), from, effect, until, end, roll }
        })
        .collect()
}

fn call(p: &Planned, seen: u64) -> Call {
    match (p.workload, p.roll % 10) {
        (Workload::Counter | Workload::Singleton | Workload::Idle, 0) => Call::Ledger,
        (Workload::Counter | Workload::Singleton | Workload::Idle, _) => Call::Append,
        (Workload::Account, _) => {
            let to = name(Workload::Account, (p.key + 1) % ACCOUNTS);
            Call::Transfer { to, amount: 1 + p.roll % 20 }
        }
        (Workload::Register | Workload::Store, 0..=3) => Call::Read,
        (Workload::Register | Workload::Store, 4..=6) => Call::Write { value: p.op },
        (Workload::Register | Workload::Store, _) => Call::Cas { from: seen, to: p.op },
        (Workload::Snowflake, _) => Call::Ids { count: 1 + (p.roll % 5) as u32 },
    }
}

/// A valid history of about so many operations.
pub fn history(seed: u64, ops: u64) -> History {
    let (mut dice, mut world, mut history) = (Dice(seed), World::default(), History::new());
    let mut planned = plan(ops, &mut dice);
    let over = (ops + 20) * PACE;
    // Everything that was touched is read at the end.
    let mut touched: Vec<(Workload, u64)> = planned.iter().map(|p| (p.workload, p.key)).collect();
    touched.extend((0..ACCOUNTS).map(|key| (Workload::Account, key)));
    touched.sort_unstable();
    touched.dedup();
    for ((workload, key), n) in touched.into_iter().zip(1..) {
        let (from, op) = (over + n * PACE, ops + n);
        planned.push(Planned { op, workload, key, from, effect: from + 1, until: from + 2, end: 0, roll: 0 });
    }
    planned.sort_by_key(|p| p.effect);
    let mut lines: Vec<(u64, Line)> = Vec::new();
    let read_back = Line::Observation {
        at: over,
        saw: millet_oracle::history::Observed::Phase { phase: Phase::ReadBack },
    };
    lines.push((over, read_back));
    for p in &planned {
        let seen = world.grain(p.workload, p.key).register;
        let call = match p.workload {
            Workload::Account if p.from > over => Call::Account,
            _ => call(p, seen),
        };
        let (op, workload, grain) = (p.op, p.workload, name(p.workload, p.key));
        let client = (p.op % 10) as u32;
        lines.push((p.from, Line::Invoke { at: p.from, client, op, workload, grain, call: call.clone() }));
        let answer = (p.end == 0 || p.end == 2).then(|| {
            let served = world.holder(p.workload, p.key, &mut dice);
            (served, world.carry_out(p, &call, served))
        });
        let at = p.until;
        let served = |s| (p.workload != Workload::Store).then_some(s);
        lines.push((
            at,
            match (p.end, answer) {
                (0, Some((by, value))) => Line::Ok { at, op, served: served(by), value },
                (1, _) => Line::Fail { at, op, why: "unavailable".into() },
                _ => Line::Unknown { at, op, why: "link lost".into() },
            },
        ));
    }
    lines.sort_by_key(|(at, line)| (*at, !matches!(line, Line::Invoke { .. })));
    history.lines = lines.into_iter().map(|(_, line)| line).collect();
    history
}
