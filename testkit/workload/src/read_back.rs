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
/// stopped. Returns how many could not be read.
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

/// Asks all keys, some at a time; how many did not answer.
async fn everyone<W: Way>(reading: &Reading<W>, keys: Vec<(Workload, u64)>) -> usize {
    let keys = Arc::new(keys);
    let mut readers = JoinSet::new();
    for reader in 0..WIDTH.min(keys.len()) {
        let (reading, keys) = (reading.clone(), keys.clone());
        let client = FIRST_CLIENT + u32::try_from(reader).unwrap_or(0);
        readers.spawn(async move {
            let mut unread = 0;
            for (workload, key) in keys.iter().skip(reader).step_by(WIDTH) {
                unread += usize::from(!one(&reading, client, *workload, *key).await);
            }
            unread
        });
    }
    let mut unread = 0;
    while let Some(done) = readers.join_next().await {
        unread += done.unwrap_or(1);
    }
    unread
}

/// Asks one grain until it answers, or time is up.
async fn one<W: Way>(reading: &Reading<W>, client: u32, workload: Workload, key: u64) -> bool {
    let mut way = key as usize;
    loop {
        let call = match workload {
            Workload::Counter | Workload::Singleton | Workload::Idle => Call::Ledger,
            Workload::Account => Call::Account,
            Workload::Register | Workload::Store => Call::Read,
            Workload::Snowflake => Call::Ids { count: 1 },
        };
        way = (way + 1) % reading.ways.len();
        let answer = match (workload, &reading.stores) {
            (Workload::Store, Some(stores)) => stores.perform(&reading.recorder, client, key, |_| call).await,
            (Workload::Store, None) => return false,
            _ => {
                let who = (client, workload, key);
                perform(&reading.ways[way], &reading.recorder, who, |_| call, TRY).await.ok()
            }
        };
        match answer {
            Some(Value::Account(account)) if reading.settled && account.pending > 0 => {}
            Some(Value::Refused { .. }) | None => {}
            Some(_) => return true,
        }
        if Instant::now() >= reading.until {
            return false;
        }
        tokio::time::sleep(PAUSE).await;
    }
}
