//! One operation: the call, and what its end means. The outcome is exactly what `ran()` says: no is
//! `fail`, all else that is no answer is `unknown`.

use std::time::Duration;

use millet::{CallError, Key, Ran, core::Service as _};
use millet_oracle::history::{Account, Call, OpId, Sent, Served, Value, Workload};

use crate::{
    grains::{Appended, Pages, account, counter, issuer, register, singleton, sleeper},
    recorder::Recorder,
    way::Way,
};

/// Answers come by their deadline (G5); one that does not for so much longer, on a clock that may be
/// 10 % slower than the caller's, is given up, and that is recorded.
const GRACE: Duration = Duration::from_secs(2);

/// Why there is no answer.
pub(crate) struct Failed {
    pub(crate) ran: Ran,
    pub(crate) why: String,
}

/// The type name of a workload's grains; that of the store's registers names no type.
pub(crate) fn type_name(workload: Workload) -> &'static str {
    match workload {
        Workload::Counter => counter::CounterService::NAME,
        Workload::Account => account::AccountService::NAME,
        Workload::Register => register::RegisterService::NAME,
        Workload::Store => crate::store_register::TYPE,
        Workload::Singleton => singleton::SingletonService::NAME,
        Workload::Idle => sleeper::SleeperService::NAME,
        Workload::Snowflake => issuer::IssuerService::NAME,
    }
}

/// Sends an operation and records its beginning and its end.
pub(crate) async fn perform<W: Way>(
    way: &W,
    recorder: &Recorder,
    (client, workload, key): (u32, Workload, u64),
    call: impl FnOnce(OpId) -> Call,
    deadline: Duration,
) -> Result<Value, Failed> {
    let (op, call) = recorder.invoke(client, workload, (type_name(workload), key), call);
    let end = ask(way, workload, key, op, &call, deadline).await;
    record(recorder, op, end)
}

/// Writes the end of an operation.
pub(crate) fn record(
    recorder: &Recorder,
    op: OpId,
    end: Result<(Served, Value), Failed>,
) -> Result<Value, Failed> {
    match end {
        Ok((served, value)) => {
            recorder.ok(op, Some(served), value.clone());
            Ok(value)
        }
        Err(failed) => {
            match failed.ran {
                Ran::No => recorder.fail(op, failed.why.clone()),
                Ran::Yes | Ran::Unknown => recorder.unknown(op, failed.why.clone()),
            }
            Err(failed)
        }
    }
}

/// One attempt at an operation.
pub(crate) async fn ask<W: Way>(
    way: &W,
    workload: Workload,
    key: u64,
    op: OpId,
    call: &Call,
    deadline: Duration,
) -> Result<(Served, Value), Failed> {
    let limit = deadline + deadline / 5 + GRACE;
    match tokio::time::timeout(limit, dispatch(way, workload, key, op, call, deadline)).await {
        Ok(end) => end,
        Err(_) => {
            let why = format!("no end at all {limit:?} after a call with a deadline of {deadline:?}");
            tracing::error!(op, ?workload, key, "{why}");
            Err(Failed { ran: Ran::Unknown, why })
        }
    }
}

async fn dispatch<W: Way>(
    way: &W,
    workload: Workload,
    key: u64,
    op: OpId,
    call: &Call,
    d: Duration,
) -> Result<(Served, Value), Failed> {
    let k = Key::Int(key);
    match (workload, call) {
        (Workload::Counter, Call::Append) => {
            appended(way.call::<counter::counter::Append>(k, counter::counter::AppendArgs { op }, d).await)
        }
        (Workload::Singleton, Call::Append) => {
            let args = singleton::singleton::AppendArgs { op };
            appended(way.call::<singleton::singleton::Append>(k, args, d).await)
        }
        (Workload::Idle, Call::Append) => {
            appended(way.call::<sleeper::sleeper::Append>(k, sleeper::sleeper::AppendArgs { op }, d).await)
        }
        (Workload::Counter, Call::Ledger) => {
            pages(way.call::<counter::counter::Read>(k, counter::counter::ReadArgs {}, d).await)
        }
        (Workload::Singleton, Call::Ledger) => {
            pages(way.call::<singleton::singleton::Read>(k, singleton::singleton::ReadArgs {}, d).await)
        }
        (Workload::Idle, Call::Ledger) => {
            pages(way.call::<sleeper::sleeper::Read>(k, sleeper::sleeper::ReadArgs {}, d).await)
        }
        (Workload::Counter, Call::StepDown) => {
            done(way.call::<counter::counter::StepDown>(k, counter::counter::StepDownArgs {}, d).await)
        }
        (Workload::Singleton, Call::StepDown) => done(
            way.call::<singleton::singleton::StepDown>(k, singleton::singleton::StepDownArgs {}, d).await,
        ),
        (Workload::Account, Call::Transfer { to, amount }) => {
            let to = to.rsplit('/').next().and_then(|key| key.parse().ok()).unwrap_or(key);
            let args = account::account::TransferArgs { op, to, amount: *amount };
            transferred(way.call::<account::account::Transfer>(k, args, d).await)
        }
        (Workload::Account, Call::Account) => {
            statement(way.call::<account::account::Settle>(k, account::account::SettleArgs {}, d).await)
        }
        (Workload::Register, Call::Read) => {
            let held =
                failed(way.call::<register::register::Read>(k, register::register::ReadArgs {}, d).await)?;
            Ok((held.by, Value::Register { value: held.value }))
        }
        (Workload::Register, Call::Write { value }) => {
            let args = register::register::WriteArgs { value: *value };
            let held = failed(way.call::<register::register::Write>(k, args, d).await)?;
            Ok((held.by, Value::Done))
        }
        (Workload::Register, Call::Cas { from, to }) => {
            let args = register::register::CasArgs { from: *from, to: *to };
            let held = failed(way.call::<register::register::Cas>(k, args, d).await)?;
            Ok((held.by, Value::Swapped { done: held.value == *from, seen: held.value }))
        }
        (Workload::Snowflake, Call::Ids { count }) => {
            let args = issuer::issuer::IssueArgs { count: *count };
            let issued = failed(way.call::<issuer::issuer::Issue>(k, args, d).await)?;
            Ok(match issued {
                issuer::Issued { ids, refused: Some(why), by } if ids.is_empty() => {
                    (by, Value::Refused { why })
                }
                issuer::Issued { ids, by, .. } => (by, Value::Ids { ids }),
            })
        }
        (workload, call) => {
            let why = format!("{workload:?} has no {call:?}: the workload is wrong");
            Err(Failed { ran: Ran::No, why })
        }
    }
}

fn failed<T, E: std::fmt::Display>(end: Result<T, CallError<E>>) -> Result<T, Failed> {
    end.map_err(|e| Failed { ran: e.ran(), why: e.to_string() })
}

fn appended<E: std::fmt::Display>(end: Result<Appended, CallError<E>>) -> Result<(Served, Value), Failed> {
    let a = failed(end)?;
    Ok((a.by, Value::Appended { position: a.position, version: a.version }))
}

fn pages<E: std::fmt::Display>(end: Result<Pages, CallError<E>>) -> Result<(Served, Value), Failed> {
    let pages = failed(end)?;
    Ok((pages.by, Value::Ledger { entries: pages.entries }))
}

fn done<E: std::fmt::Display>(end: Result<Served, CallError<E>>) -> Result<(Served, Value), Failed> {
    Ok((failed(end)?, Value::Done))
}

fn transferred<E: std::fmt::Display>(
    end: Result<account::Transferred, CallError<E>>,
) -> Result<(Served, Value), Failed> {
    let t = failed(end)?;
    Ok((t.by, t.refused.map_or(Value::Done, |why| Value::Refused { why })))
}

fn statement<E: std::fmt::Display>(
    end: Result<account::Statement, CallError<E>>,
) -> Result<(Served, Value), Failed> {
    let s = failed(end)?;
    let name = |key: u64| format!("{}/{key}", account::AccountService::NAME);
    let sent = s.sent.into_iter().map(|l| Sent { op: l.op, to: name(l.to), amount: l.amount });
    let account = Account {
        opening: account::OPENING,
        balance: s.balance,
        sent: sent.collect(),
        received: s.received.into_iter().map(|(from, r)| (name(from), r)).collect(),
        pending: s.pending,
    };
    Ok((s.by, Value::Account(account)))
}
