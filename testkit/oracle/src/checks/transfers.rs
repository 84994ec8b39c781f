//! Money: over all accounts nothing appears or vanishes, every acknowledged transfer has left once and
//! arrived once, what failed has not left (conservation, I2, I9, exactly once).

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::{
    findings::Findings,
    history::{Account, Call, Invariant, OpId, Phase, Received, Value},
    run::{GrainNo, Op, Outcome},
};

pub(super) fn check(f: &mut Findings<'_>) {
    let run = f.run;
    let of_money = |op: &Op| matches!(op.call, Call::Transfer { .. } | Call::Account);
    let by_grain = run.by_grain(of_money);
    let read_back = run.phase(Phase::ReadBack);
    let mut accounts: BTreeMap<&str, (OpId, &Account)> = BTreeMap::new();
    for (grain, ops) in &by_grain {
        let final_reading = ops.iter().rev().find_map(|op| match op.ok()? {
            (_, _, Value::Account(account)) if read_back.is_none_or(|begin| op.invoked >= begin) => {
                Some((op.id, account))
            }
            _ => None,
        });
        match final_reading {
            Some((reader, account)) => {
                accounts.insert(run.name(*grain), (reader, account));
                sender(f, *grain, ops, reader, account);
            }
            None => {
                let why = format!("{} was never read back", run.name(*grain));
                f.invalid(Invariant::Conservation, why);
            }
        }
    }
    conserved(f, &accounts);
}

/// What an account has sent is what clients were told.
fn sender(f: &mut Findings<'_>, grain: GrainNo, ops: &[&Op], reader: OpId, account: &Account) {
    let sent: HashMap<OpId, u64> = account.sent.iter().map(|s| (s.op, s.amount)).collect();
    let mut seen = HashSet::new();
    for op in account.sent.iter().map(|s| s.op).filter(|op| !seen.insert(*op)) {
        f.violated(Invariant::ExactlyOnce, grain, &[op, reader], format!("transfer {op} has left twice"));
    }
    let asked: HashSet<OpId> = ops.iter().map(|op| op.id).collect();
    for op in account.sent.iter().map(|s| s.op).filter(|op| !asked.contains(op)) {
        f.violated(Invariant::ExactlyOnce, grain, &[op, reader], format!("nobody asked for transfer {op}"));
    }
    f.checked(Invariant::ExactlyOnce, account.sent.len());
    for op in ops {
        let Call::Transfer { amount, .. } = op.call else { continue };
        let has_left = sent.get(&op.id);
        match &op.outcome {
            Outcome::Ok { value: Value::Done, .. } => {
                f.checked(Invariant::NoLostWrite, 1);
                if has_left != Some(&amount) {
                    let what =
                        format!("transfer {} of {amount} was acknowledged; {has_left:?} has left", op.id);
                    f.violated(Invariant::NoLostWrite, grain, &[op.id, reader], what);
                }
            }
            Outcome::Fail(_) | Outcome::Ok { .. } => {
                f.checked(Invariant::HonestFailure, 1);
                if has_left.is_some() {
                    let what = format!("transfer {} was reported as not carried out and has left", op.id);
                    f.violated(Invariant::HonestFailure, grain, &[op.id, reader], what);
                }
            }
            Outcome::Unknown(_) | Outcome::Pending => {}
        }
    }
}

fn conserved(f: &mut Findings<'_>, accounts: &BTreeMap<&str, (OpId, &Account)>) {
    let number = |f: &Findings<'_>, name: &str| f.run.grain(name).expect("an account that was read is named");
    if accounts.values().any(|(_, a)| a.pending > 0) {
        let open: Vec<&str> = accounts.iter().filter(|(_, (_, a))| a.pending > 0).map(|(n, _)| *n).collect();
        let why = format!("transfers of {} were still under way at the last reading", open.join(", "));
        return f.invalid(Invariant::Conservation, why);
    }
    let mut due: BTreeMap<(&str, &str), Received> = BTreeMap::new();
    for (name, (reader, account)) in accounts {
        let out: u64 = account.sent.iter().map(|s| s.amount).sum();
        let into: u64 = account.received.values().map(|r| r.amount).sum();
        f.checked(Invariant::Conservation, 1 + account.sent.len());
        if account.opening + into != account.balance + out {
            let what = format!(
                "opened with {}, got {into}, sent {out}, and holds {}",
                account.opening, account.balance
            );
            let grain = number(f, name);
            f.violated(Invariant::Conservation, grain, &[*reader], what);
        }
        for sent in &account.sent {
            let due = due.entry((name, &sent.to)).or_default();
            due.count += 1;
            due.amount += sent.amount;
        }
    }
    let got = |from: &str, to: &str| accounts.get(to)?.1.received.get(from).copied();
    let credited =
        accounts.iter().flat_map(|(to, (_, a))| a.received.keys().map(|from| (from.as_str(), *to)));
    let pairs: std::collections::BTreeSet<(&str, &str)> = due.keys().copied().chain(credited).collect();
    for (from, to) in pairs {
        let (left, arrived) =
            (due.get(&(from, to)).copied().unwrap_or_default(), got(from, to).unwrap_or_default());
        if left == arrived {
            continue;
        }
        let what = format!(
            "{} transfers of {} in all left {from} for {to}; {} of {} arrived",
            left.count, left.amount, arrived.count, arrived.amount
        );
        match f.run.grain(to) {
            Some(grain) => f.violated(Invariant::Conservation, grain, &[], what),
            None => f.violated_elsewhere(Invariant::Conservation, to, what),
        }
    }
}
