//! After the faults: every grain that was ever called is asked until it answers (I10). After the load:
//! everything is read back, accounts until nothing is under way between them.

use std::{sync::Arc, time::Duration};

use millet_oracle::history::{Call, Phase, Value, Workload};
use tokio::{task::JoinSet, time::Instant};

use crate::{ask::perform, recorder::Recorder, store_register::StoreRegisters, way::Way};

/// Readers at a time.
const WIDTH: usize = 16;
/// Numbers of these clients: far above those of the load.
const FIRST_CLIENT: u32 = 1 << 24;
/// Between two tries at one grain.
const PAUSE: Duration = Duration::from_millis(100);
/// The deadline of one try: shorter than the bound, so that a call that hangs is seen and repeated.
const TRY: Duration = Duration::from_secs(2);

/// Writes the end of faults into the history, then asks every grain that was called before until it
/// answers, for at most `bound` (give it 2 TTL + 5 s). Returns how many did not.
///
/// Cancel safety: dropping it ends the asking.
pub async fn converge<W: Way>(
    ways: Arc<[W]>,
    stores: Option<Arc<StoreRegisters>>,
    recorder: Arc<Recorder>,
    bound: Duration,
) -> usize {
    recorder.phase(Phase::FaultsOver);
    let asked = recorder.asked();
    everyone(&Reading { ways, stores, recorder, until: Instant::now() + bound, settled: false }, asked).await
}

/// Writes the beginning of the reading back into the history, reads every grain that was called, and
/// accounts until no transfer is under way, for at most `bound` each. Call it when all clients have
/// stopped: it first waits until no transfer without a known end may still begin. Returns how many could
/// not be read.
///
/// Cancel safety: dropping it ends the reading.
pub async fn read_back<W: Way>(
    ways: Arc<[W]>,
    stores: Option<Arc<StoreRegisters>>,
    recorder: Arc<Recorder>,
    bound: Duration,
) -> usize {
    recorder.phase(Phase::ReadBack);
    let (accounts, others): (Vec<_>, Vec<_>) =
        recorder.asked().into_iter().partition(|(workload, _)| *workload == Workload::Account);
    let mut unread = 0;
    let reading = |settled| Reading {
        ways: ways.clone(),
        stores: stores.clone(),
        recorder: recorder.clone(),
        until: Instant::now() + bound,
        settled,
    };
    // No turn starts after its caller's deadline (G5): from then on only what is owed still moves.
    if let Some(until) = recorder.stragglers_until() {
        tokio::time::sleep_until(until).await;
    }
    // First what is still under way, then what is there.
    unread += everyone(&reading(true), accounts.clone()).await;
    unread += everyone(&reading(true), accounts).await;
    unread += everyone(&reading(false), others).await;
    unread
}

struct Reading<W> {
    ways: Arc<[W]>,
    stores: Option<Arc<StoreRegisters>>,
    recorder: Arc<Recorder>,
    until: Instant,
    /// Accounts are asked until nothing is pending.
    settled: bool,
}

impl<W> Clone for Reading<W> {
    fn clone(&self) -> Self {
        let Self { ways, stores, recorder, until, settled } = self;
        Self {
            ways: ways.clone(),
            stores: stores.clone(),
            recorder: recorder.clone(),
            until: *until,
            settled: *settled,
        }
    }
}

/// Asks all keys, some at a time, round by round, until all have answered or time is up; how many did
/// not.
async fn everyone<W: Way>(reading: &Reading<W>, keys: Vec<(Workload, u64)>) -> usize {
    let mut silent = keys;
    for round in 0.. {
        silent = once(reading, Arc::new(silent), round).await;
        if silent.is_empty() || Instant::now() >= reading.until {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    silent.len()
}

/// Asks every key once; those that did not answer.
async fn once<W: Way>(
    reading: &Reading<W>,
    keys: Arc<Vec<(Workload, u64)>>,
    round: usize,
) -> Vec<(Workload, u64)> {
    let mut readers = JoinSet::new();
    for reader in 0..WIDTH.min(keys.len()) {
        let (reading, keys) = (reading.clone(), keys.clone());
        let client = FIRST_CLIENT + u32::try_from(reader).unwrap_or(0);
        readers.spawn(async move {
            let mut silent = Vec::new();
            for (workload, key) in keys.iter().skip(reader).step_by(WIDTH) {
                // Another way in each round.
                let way = round + *key as usize;
                if !one(&reading, client, *workload, *key, way).await {
                    silent.push((*workload, *key));
                }
            }
            silent
        });
    }
    let mut silent = Vec::new();
    while let Some(done) = readers.join_next().await {
        silent.extend(done.expect("a reader does not panic and is not aborted"));
    }
    // The order of completion is chance; the next round must not depend on it.
    silent.sort_unstable();
    silent
}

/// Asks one grain once.
async fn one<W: Way>(reading: &Reading<W>, client: u32, workload: Workload, key: u64, way: usize) -> bool {
    let call = match workload {
        Workload::Counter | Workload::Singleton | Workload::Idle => Call::Ledger,
        Workload::Account => Call::Account,
        Workload::Register | Workload::Store => Call::Read,
        Workload::Snowflake => Call::Ids { count: 1 },
    };
    let way = &reading.ways[way % reading.ways.len()];
    let answer = match (workload, &reading.stores) {
        (Workload::Store, Some(stores)) => stores.perform(&reading.recorder, client, key, |_| call).await,
        (Workload::Store, None) => None,
        _ => perform(way, &reading.recorder, (client, workload, key), |_| call, TRY).await.ok(),
    };
    match answer {
        Some(Value::Account(account)) => !reading.settled || account.pending == 0,
        Some(Value::Refused { .. }) | None => false,
        Some(_) => true,
    }
}
