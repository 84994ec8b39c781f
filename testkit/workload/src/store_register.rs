//! Registers straight in a state store, without any grain: compare-and-set as the store offers it, by
//! token and version. Every operation opens the row under a token of its own, the highest so far, which
//! fences all operations under way; then it writes what it opened.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use millet_core::{
    Epoch, GrainId, GrainType, Grant, SessionId,
    store::{StateStore, StoreError, Stored, Token, Version, Write},
};
use millet_oracle::history::{Call, OpId, Value, Workload};

use crate::{
    dice::Dice,
    load::Stop,
    recorder::Recorder,
    settings::{Role, Settings},
};

/// Rows under this type belong to no grain.
pub(crate) const TYPE: &str = "proof.Store";
const SLOT: &str = "register";
/// No session ends these tokens.
const SESSION: SessionId = SessionId(u64::MAX);

/// The registers of one store. Share one by `Arc` between all its clients: it hands out the tokens.
pub struct StoreRegisters {
    store: Arc<dyn StateStore>,
    tokens: AtomicU64,
    ty: GrainType,
}

/// Why an operation has no answer.
enum NoAnswer {
    /// Surely nothing was written.
    NotDone(String),
    /// Something may have been.
    Unknown(String),
}

impl From<StoreError> for NoAnswer {
    fn from(e: StoreError) -> Self {
        let why = e.to_string();
        match e {
            StoreError::Unavailable(_) | StoreError::TooLarge { .. } => Self::NotDone(why),
            // A store's client may have asked several times: fenced is the last attempt, an earlier one
            // may have written before the floor rose.
            _ => Self::Unknown(why),
        }
    }
}

impl StoreRegisters {
    /// Registers in this store.
    pub fn new(store: Arc<dyn StateStore>) -> Arc<Self> {
        let ty = GrainType::new(TYPE).expect("a valid type name");
        Arc::new(Self { store, tokens: AtomicU64::new(1), ty })
    }

    /// Carries out one operation and records it.
    pub(crate) async fn perform(
        &self,
        recorder: &Recorder,
        client: u32,
        key: u64,
        call: impl FnOnce(OpId) -> Call,
    ) -> Option<Value> {
        let (op, call) = recorder.invoke(client, Workload::Store, (TYPE, key), call);
        match self.carry_out(key, &call).await {
            Ok(value) => {
                recorder.ok(op, None, value.clone());
                return Some(value);
            }
            Err(NoAnswer::NotDone(why)) => recorder.fail(op, why),
            Err(NoAnswer::Unknown(why)) => recorder.unknown(op, why),
        }
        None
    }

    async fn carry_out(&self, key: u64, call: &Call) -> Result<Value, NoAnswer> {
        let grain = GrainId::new(self.ty.clone(), key);
        let grant = Grant { generation: 1, index: self.tokens.fetch_add(1, Ordering::Relaxed) };
        let token = Token { epoch: Epoch { grant, activation: 1 }, session: SESSION };
        // An open that may have been done has written nothing that a register holds.
        let Stored { version, value } =
            self.store.open(&grain, SLOT, token).await.map_err(|e| NoAnswer::NotDone(e.to_string()))?;
        let held = value.map_or(Ok(0), |bytes| decode(&bytes))?;
        let write = |value: u64| self.save(&grain, token, version, value);
        match *call {
            Call::Read => Ok(Value::Register { value: held }),
            Call::Write { value } => write(value).await.map(|()| Value::Done),
            Call::Cas { from, to } if from == held => {
                write(to).await.map(|()| Value::Swapped { done: true, seen: held })
            }
            Call::Cas { .. } => Ok(Value::Swapped { done: false, seen: held }),
            ref other => Err(NoAnswer::NotDone(format!("a store has no {other:?}"))),
        }
    }

    async fn save(
        &self,
        grain: &GrainId,
        token: Token,
        version: Version,
        value: u64,
    ) -> Result<(), NoAnswer> {
        let write = Write { grain, slot: SLOT, shard: None, token, version };
        self.store.save(write, Bytes::copy_from_slice(&value.to_le_bytes())).await?;
        Ok(())
    }
}

fn decode(bytes: &[u8]) -> Result<u64, NoAnswer> {
    let bytes = bytes.try_into().map_err(|_| NoAnswer::NotDone(format!("a row of {} bytes", bytes.len())))?;
    Ok(u64::from_le_bytes(bytes))
}

/// Runs one client of the store's registers until it is stopped.
///
/// Cancel safety: dropping it leaves its operation without an end in the history: it may have run.
pub async fn store_client(
    role: Role,
    stores: Arc<StoreRegisters>,
    settings: Arc<Settings>,
    recorder: Arc<Recorder>,
    mut stop: Stop,
) {
    let mut dice = Dice::new(settings.seed, u64::from(role.client));
    let (mut steps, mut last_seen) = (0, (0, 0));
    while !*stop.borrow() {
        let done = steps * settings.clients_of(Workload::Store);
        let key =
            done / (settings.keys * settings.ops_per_key).max(1) * settings.keys + dice.below(settings.keys);
        let expected = if last_seen.0 == key { last_seen.1 } else { 0 };
        let act = dice.below(10);
        let call = |op| match act {
            0..=3 => Call::Read,
            4..=6 => Call::Write { value: op },
            _ => Call::Cas { from: expected, to: op },
        };
        if let Some(Value::Register { value: seen } | Value::Swapped { seen, .. }) =
            stores.perform(&recorder, role.client, key, call).await
        {
            last_seen = (key, seen);
        }
        steps += 1;
        let span = u64::try_from(settings.pause.as_micros()).unwrap_or(u64::MAX / 2).saturating_mul(2);
        let pause = Duration::from_micros(dice.below(span.max(1)));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            stopped = stop.changed() => if stopped.is_err() { return },
        }
    }
}
