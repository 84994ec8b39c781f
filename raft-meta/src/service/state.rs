//! The `State` service: batches of writes become log entries, batches of reads wait for a read index and
//! read the applied state.

use std::{sync::Arc, time::Duration};

use millet_core::{limits, store::StoreError};
use millet_proto::{
    WireError,
    state::{Done, Op, result_to_wire},
    wire::{self, state_client::StateClient, state_server::State},
};
use tonic::{Request, Response, Status};

use super::{
    forward::{Way, pass_on, way},
    not_done, refused, running,
};
use crate::{
    member::{Running, Shared},
    raft::{MESSAGE_BYTES, ProposeError},
    state::{StateCommand, StateReply, StateResult},
};

/// An entry that is not committed after this is answered as unknown: the client asks elsewhere.
const COMMIT: Duration = Duration::from_secs(5);
/// Bytes of one log entry. It travels whole between members, whose messages are twice as long.
const ENTRY_BYTES: usize = MESSAGE_BYTES / 2;
/// Bytes of values in one answer, unless one alone is longer; the client asks for the rest again.
const ANSWER_BYTES: usize = MESSAGE_BYTES / 2;

/// See the module.
pub(super) struct Service(pub(super) Arc<Shared>);

fn late() -> Status {
    Status::unavailable(format!("outcome unknown: not committed within {} s", COMMIT.as_secs()))
}

async fn write(running: &Running, ops: Vec<Op>) -> Result<Vec<StateResult>, Status> {
    let command = StateCommand::Batch(ops).encode();
    if command.len() > ENTRY_BYTES {
        return Err(Status::invalid_argument(format!(
            "a batch of {} bytes, at most {ENTRY_BYTES} are taken",
            command.len()
        )));
    }
    let Ok(_permit) = running.state_in_flight.acquire().await else {
        return Err(not_done("this member is stopping", None));
    };
    let proposal = tokio::time::timeout(COMMIT, running.state.propose(command)).await;
    let (_, reply) = proposal.map_err(|_| late())?.map_err(refused)?;
    StateReply::decode(&reply).map(|r| r.0).map_err(|e| Status::internal(e.to_string()))
}

/// Nothing was done, whatever goes wrong: these only read.
async fn read(running: &Running, ops: Vec<Op>) -> Result<Vec<StateResult>, Status> {
    let index = tokio::time::timeout(COMMIT, running.state.read_index()).await;
    index.map_err(|_| not_done("no quorum answered in time", None))?.map_err(|e| match e {
        ProposeError::Unknown(why) => not_done(why, None),
        e @ ProposeError::NotLeader(_) => refused(e),
    })?;
    let reader = running.reader.clone();
    let load = move || {
        let one = |op: Op| match op {
            Op::Load { grain, slot, shard, token } => reader.load(&grain, &slot, shard, token),
            Op::Open { .. } | Op::OpenShard { .. } | Op::Write { .. } => {
                Ok(Err(StoreError::Unavailable("not a read".into())))
            }
        };
        ops.into_iter().map(one).collect::<std::io::Result<Vec<_>>>()
    };
    running.read_state(load).await.map_err(|e| not_done(format!("the state engine: {e}"), None))
}

async fn batch(running: &Running, ops: Vec<wire::StateOp>) -> Result<wire::StateBatchResponse, Status> {
    if ops.len() > limits::BATCH_OPS {
        return Err(Status::invalid_argument(format!(
            "{} operations in one batch, at most {} are taken",
            ops.len(),
            limits::BATCH_OPS
        )));
    }
    let bad = |e: WireError| Status::invalid_argument(e.to_string());
    let ops = ops.into_iter().map(Op::try_from).collect::<Result<Vec<_>, _>>().map_err(bad)?;
    let reads = ops.iter().all(|op| matches!(op, Op::Load { .. }));
    let results = if reads { read(running, ops).await? } else { write(running, ops).await? };
    let (mut bytes, mut answers) = (0, Vec::with_capacity(results.len()));
    for result in results {
        bytes += match &result {
            Ok(Done::Stored(s)) => s.value.as_ref().map_or(0, bytes::Bytes::len),
            _ => 0,
        };
        if bytes > ANSWER_BYTES && !answers.is_empty() {
            break;
        }
        answers.push(result_to_wire(result).ok_or_else(|| Status::unavailable("outcome unknown"))?);
    }
    Ok(wire::StateBatchResponse { results: answers })
}

#[tonic::async_trait]
impl State for Service {
    async fn batch(
        &self,
        request: Request<wire::StateBatchRequest>,
    ) -> Result<Response<wire::StateBatchResponse>, Status> {
        let message = request.into_inner();
        let running = running(&self.0, &message.cluster)?;
        let leadership = running.state.leadership().borrow().clone();
        match way(&running, &leadership, message.forwarded)? {
            Way::Here => batch(&running, message.ops).await.map(Response::new),
            Way::There(addr, channel) => {
                let message = wire::StateBatchRequest { forwarded: true, ..message };
                let mut client = StateClient::new(channel)
                    .max_decoding_message_size(MESSAGE_BYTES)
                    .max_encoding_message_size(MESSAGE_BYTES);
                pass_on(&addr, message, async move |m| client.batch(m).await).await
            }
        }
    }
}
