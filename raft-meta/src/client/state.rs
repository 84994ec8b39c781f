//! The built-in state store as grains use it, through [`StateStore`].

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use millet_core::{
    BoxFuture, GrainId, GrainType, Grant, SessionId, ShardId, limits,
    store::{StateStore, StoreError, Stored, Token, Version, Write},
};
use millet_proto::{
    state::{Done, Op, result_from_wire},
    wire::{self, state_client::StateClient as Wire},
};

use super::{
    ClientOptions,
    batch::{Batcher, Request},
    meta::answered,
    road::{Failure, Road},
};
use crate::raft::MESSAGE_BYTES;

/// The state store. Cheap to clone; its tasks end with the last clone.
///
/// Every operation is idempotent by its token (and version), so it is repeated for up to ten seconds.
/// After that: `Unknown` if any attempt may have been carried out, `Unavailable` if surely none was.
#[derive(Clone)]
pub struct StateClient {
    ops: Arc<Batcher<Ops>>,
    /// Apart: a batch of nothing but reads needs no log entry.
    loads: Arc<Batcher<Ops>>,
}

impl StateClient {
    /// Starts the client's tasks; connects when first used.
    pub fn new(options: &ClientOptions) -> Self {
        let road = Arc::new(Road::new(&options.cluster, &options.members, Arc::clone(&options.dial)));
        let loads = Arc::new(Batcher::start(Ops(Arc::clone(&road)), "state-load", &options.spawner));
        Self { ops: Arc::new(Batcher::start(Ops(road), "state-batch", &options.spawner)), loads }
    }

    async fn stored(&self, by: &Batcher<Ops>, op: Op) -> Result<Stored, StoreError> {
        match by.ask(op).await? {
            Done::Stored(stored) => Ok(stored),
            Done::Written(_) | Done::Opened => Err(unfit()),
        }
    }

    async fn write(&self, write: Write<'_>, value: Option<Bytes>) -> Result<Version, StoreError> {
        let bytes = value.as_ref().map_or(0, Bytes::len);
        if bytes > limits::STATE_BYTES {
            return Err(StoreError::TooLarge { bytes, limit: limits::STATE_BYTES });
        }
        let op = Op::Write {
            grain: write.grain.clone(),
            slot: write.slot.to_owned(),
            shard: write.shard,
            token: write.token,
            version: write.version,
            value,
        };
        match self.ops.ask(op).await? {
            Done::Written(version) => Ok(version),
            Done::Stored(_) | Done::Opened => Err(unfit()),
        }
    }
}

fn unfit() -> StoreError {
    StoreError::Unknown("state store: an answer that does not fit the question".into())
}

impl StateStore for StateClient {
    fn open<'a>(
        &'a self,
        grain: &'a GrainId,
        slot: &'a str,
        token: Token,
    ) -> BoxFuture<'a, Result<Stored, StoreError>> {
        Box::pin(self.stored(&self.ops, Op::Open { grain: grain.clone(), slot: slot.to_owned(), token }))
    }

    fn open_shard<'a>(
        &'a self,
        ty: &'a GrainType,
        shard: ShardId,
        grant: Grant,
        session: SessionId,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            self.ops.ask(Op::OpenShard { ty: ty.clone(), shard, grant, session }).await.map(|_| ())
        })
    }

    fn load<'a>(
        &'a self,
        grain: &'a GrainId,
        slot: &'a str,
        shard: ShardId,
        token: Token,
    ) -> BoxFuture<'a, Result<Stored, StoreError>> {
        Box::pin(
            self.stored(&self.loads, Op::Load { grain: grain.clone(), slot: slot.to_owned(), shard, token }),
        )
    }

    fn save<'a>(&'a self, write: Write<'a>, value: Bytes) -> BoxFuture<'a, Result<Version, StoreError>> {
        Box::pin(self.write(write, Some(value)))
    }

    fn clear<'a>(&'a self, write: Write<'a>) -> BoxFuture<'a, Result<Version, StoreError>> {
        Box::pin(self.write(write, None))
    }
}

/// `State.Batch`.
struct Ops(Arc<Road>);

impl Request for Ops {
    type Op = Op;
    type Answer = Result<Done, StoreError>;

    fn weight(op: &Op) -> usize {
        match op {
            Op::Write { value, .. } => value.as_ref().map_or(0, Bytes::len),
            Op::Open { .. } | Op::OpenShard { .. } | Op::Load { .. } => 0,
        }
    }

    fn attempt(&self, ops: Vec<Op>, limit: Duration) -> BoxFuture<'_, Result<Vec<Self::Answer>, Failure>> {
        Box::pin(async move {
            let member = self.0.leader();
            let mut client = Wire::new(self.0.channel(member)?)
                .max_encoding_message_size(MESSAGE_BYTES)
                .max_decoding_message_size(MESSAGE_BYTES);
            let ops = ops.into_iter().map(Into::into).collect();
            let request =
                wire::StateBatchRequest { cluster: self.0.cluster.to_string(), ops, forwarded: false };
            let answer = answered(&self.0, member, tokio::time::timeout(limit, client.batch(request)).await)?;
            let read = |r| result_from_wire(r).unwrap_or_else(|e| Err(StoreError::Unknown(e.to_string())));
            Ok(answer.results.into_iter().map(read).collect())
        })
    }

    fn given_up(op: &Op, why: Failure) -> Self::Answer {
        Err(match (op, why) {
            // A read has no outcome to be unknown.
            (Op::Load { .. }, Failure::NotDone(w) | Failure::Maybe(w) | Failure::Refused(w)) => {
                StoreError::Unavailable(w)
            }
            (_, Failure::Maybe(w)) => StoreError::Unknown(w),
            (_, Failure::NotDone(w) | Failure::Refused(w)) => StoreError::Unavailable(w),
        })
    }

    /// A write that was carried out, whose answer was lost, and which somebody has fenced since, is refused
    /// when it is repeated: it has been done all the same.
    fn repeated(op: &Op, why: &str, answer: Self::Answer) -> Self::Answer {
        match (op, answer) {
            (
                Op::Write { .. },
                Err(
                    e @ (StoreError::Fenced { .. }
                    | StoreError::SessionEnded(_)
                    | StoreError::Version { .. }
                    | StoreError::Unavailable(_)),
                ),
            ) => Err(StoreError::Unknown(format!("{why}; then {e}"))),
            (_, answer) => answer,
        }
    }
}

#[cfg(test)]
mod tests {
    use millet_core::Epoch;

    use super::*;

    /// Found by torture: the leader died between its commit and its answer, another client opened the row,
    /// the repeated write was fenced, and its client was told that it had surely not been done.
    #[test]
    fn a_write_that_is_fenced_when_repeated_may_have_been_done_by_the_first_attempt() {
        let token = Token { epoch: Epoch::default(), session: SessionId(1) };
        let grain = GrainId::new(GrainType::new("a.Grain").expect("a name"), 1);
        let slot = "s".to_owned();
        let fenced = || Err(StoreError::Fenced { given: Epoch::default(), floor: Epoch::default() });
        let write = Op::Write {
            grain: grain.clone(),
            slot: slot.clone(),
            shard: None,
            token,
            version: Version::default(),
            value: None,
        };
        assert!(matches!(Ops::repeated(&write, "lost", fenced()), Err(StoreError::Unknown(_))));
        // An open has written nothing, and its refusal says that somebody else is ahead.
        let open = Op::Open { grain, slot, token };
        assert!(matches!(Ops::repeated(&open, "lost", fenced()), Err(StoreError::Fenced { .. })));
    }
}
