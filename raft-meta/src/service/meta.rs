//! The `Meta` service: sessions, keepalives, batches, look-ups, watches, status.

use std::{sync::Arc, time::Duration};

use futures::stream::BoxStream;
use millet_core::{
    GrainId, limits,
    model::{Keepalive, OpenSession, OpenedSession},
};
use millet_proto::{
    WireError,
    meta::{Held, Op, OpResult},
    wire::{self, meta_client::MetaClient, meta_server::Meta},
};
use tokio::sync::oneshot;
use tonic::{Request, Response, Status};

use super::{
    forward::{Way, pass_on, way},
    not_done, refused, running,
    watch::watch,
};
use crate::{
    machine::{self, Command, LeaseKey, Reply, Secret},
    member::{KeepaliveIn, Running, Shared},
};

/// An entry that is not committed after this is answered as unknown: the client asks elsewhere.
const COMMIT: Duration = Duration::from_secs(5);
/// A keepalive not answered by a Tick after this has lost its leader; the node has sent others.
const TICK: Duration = Duration::from_secs(2);

/// See the module.
pub(super) struct Service(pub(super) Arc<Shared>);

fn bad(e: WireError) -> Status {
    Status::invalid_argument(e.to_string())
}

fn unfit(reply: &Reply) -> Status {
    Status::internal(format!("the state machine answered {reply:?}"))
}

/// Proposes one command and waits for its reply.
async fn propose(running: &Running, command: &Command) -> Result<Reply, Status> {
    let Ok(_permit) = running.in_flight.acquire().await else {
        return Err(not_done("this member is stopping", None));
    };
    let proposal = running.meta.propose(command.encode().into());
    let (_, reply) = tokio::time::timeout(COMMIT, proposal)
        .await
        .map_err(|_| {
            Status::unavailable(format!("outcome unknown: not committed within {} s", COMMIT.as_secs()))
        })?
        .map_err(refused)?;
    Reply::decode(&reply).map_err(|e| Status::internal(e.to_string()))
}

/// The cluster's secret, as the log has it.
fn secret(running: &Running) -> Result<Secret, Status> {
    let machine = running.machine.read();
    machine
        .cluster()
        .map(|init| init.secret)
        .ok_or_else(|| not_done("the cluster is being made; repeat", None))
}

fn to_machine(op: Op, secret: &Secret) -> machine::Op {
    let row = |grain: &GrainId| (LeaseKey::of(secret, grain), grain.ty.id());
    match op {
        Op::Acquire { grain, session } => {
            let (key, ty) = row(&grain);
            machine::Op::Acquire { key, ty, session }
        }
        Op::Release { grain, session, grant } => {
            let (key, ty) = row(&grain);
            machine::Op::Release { key, ty, session, grant }
        }
        Op::Move { grain, session, grant, to } => {
            let (key, ty) = row(&grain);
            machine::Op::Move { key, ty, session, grant, to }
        }
        Op::AckShard { ty, shard, session, grant, given_up } => {
            machine::Op::AckShard { ty: ty.id(), shard, session, grant, given_up }
        }
        Op::Drain { session } => machine::Op::Drain { session },
        Op::Close { session } => machine::Op::Close { session },
    }
}

fn from_machine(result: machine::OpResult) -> OpResult {
    match result {
        machine::OpResult::Granted { grant, previous } => OpResult::Granted { grant, previous },
        machine::OpResult::Held { session, node, grant } => OpResult::Held(Held { session, node, grant }),
        machine::OpResult::Retry => OpResult::Retry,
        machine::OpResult::Done => OpResult::Done,
        machine::OpResult::NotAlive { session } => OpResult::NotAlive(session),
        machine::OpResult::Refused { why } => OpResult::Refused(why),
    }
}

async fn open(
    running: &Running,
    request: wire::OpenSessionRequest,
) -> Result<wire::OpenSessionResponse, Status> {
    let open = OpenSession::try_from(request).map_err(bad)?;
    match propose(running, &Command::OpenSession(open.into())).await? {
        Reply::Opened(o) => {
            Ok(OpenedSession { session: o.session, ttl: Duration::from_millis(o.ttl_ms), worker: o.worker }
                .into())
        }
        Reply::Refused(why) => Err(Status::failed_precondition(why)),
        other => Err(unfit(&other)),
    }
}

async fn keepalive(running: &Running, keepalive: Keepalive) -> Result<wire::KeepaliveResponse, Status> {
    let (to, answer) = oneshot::channel();
    let gone = || not_done("this member has just stopped leading; ask the leader", None);
    running
        .keepalives
        .try_send(KeepaliveIn { keepalive, to })
        .map_err(|_| not_done("too many keepalives wait; repeat", None))?;
    let answer = tokio::time::timeout(TICK, answer)
        .await
        .map_err(|_| Status::unavailable("no Tick was committed in time; repeat"))?;
    Ok(answer.map_err(|_| gone())?.into())
}

async fn batch(running: &Running, ops: Vec<wire::MetaOp>) -> Result<wire::MetaBatchResponse, Status> {
    if ops.len() > limits::BATCH_OPS {
        return Err(Status::invalid_argument(format!(
            "{} operations in one batch, at most {} are taken",
            ops.len(),
            limits::BATCH_OPS
        )));
    }
    let secret = secret(running)?;
    let ops = ops
        .into_iter()
        .map(|op| Ok(to_machine(op.try_into()?, &secret)))
        .collect::<Result<Vec<_>, _>>()
        .map_err(bad)?;
    match propose(running, &Command::Batch(ops)).await? {
        Reply::Batch(results) => Ok(wire::MetaBatchResponse {
            results: results.into_iter().map(|r| from_machine(r).into()).collect(),
        }),
        Reply::Refused(why) => Err(Status::failed_precondition(why)),
        other => Err(unfit(&other)),
    }
}

async fn lookup(running: &Running, grains: Vec<wire::GrainId>) -> Result<wire::LookupResponse, Status> {
    let grains = grains.into_iter().map(GrainId::try_from).collect::<Result<Vec<_>, _>>().map_err(bad)?;
    let read = tokio::time::timeout(COMMIT, running.meta.read_index()).await;
    // A read changes nothing: whatever went wrong, nothing was done.
    read.map_err(|_| not_done("no quorum answered in time", None))?.map_err(|e| match e {
        crate::raft::ProposeError::Unknown(why) => not_done(why, None),
        e @ crate::raft::ProposeError::NotLeader(_) => refused(e),
    })?;
    let secret = secret(running)?;
    let machine = running.machine.read();
    let held = |grain: &GrainId| {
        let holder = machine.holder(LeaseKey::of(&secret, grain))?;
        Some(Held { session: holder.session, node: holder.node, grant: holder.grant }.into())
    };
    Ok(wire::LookupResponse {
        results: grains.iter().map(|g| wire::LookupResult { held: held(g) }).collect(),
    })
}

#[tonic::async_trait]
impl Meta for Service {
    type WatchStream = BoxStream<'static, Result<wire::WatchResponse, Status>>;

    async fn open(
        &self,
        request: Request<wire::OpenSessionRequest>,
    ) -> Result<Response<wire::OpenSessionResponse>, Status> {
        let message = request.into_inner();
        let running = running(&self.0, &message.cluster)?;
        match way(&running, &running.leadership(), message.forwarded)? {
            Way::Here => open(&running, message).await.map(Response::new),
            Way::There(addr, channel) => {
                let message = wire::OpenSessionRequest { forwarded: true, ..message };
                pass_on(&addr, message, async |m| MetaClient::new(channel).open(m).await).await
            }
        }
    }

    async fn keepalive(
        &self,
        request: Request<wire::KeepaliveRequest>,
    ) -> Result<Response<wire::KeepaliveResponse>, Status> {
        let message = request.into_inner();
        let running = running(&self.0, &message.cluster)?;
        match way(&running, &running.leadership(), message.forwarded)? {
            Way::Here => keepalive(&running, message.into()).await.map(Response::new),
            Way::There(addr, channel) => {
                let message = wire::KeepaliveRequest { forwarded: true, ..message };
                pass_on(&addr, message, async |m| MetaClient::new(channel).keepalive(m).await).await
            }
        }
    }

    async fn batch(
        &self,
        request: Request<wire::MetaBatchRequest>,
    ) -> Result<Response<wire::MetaBatchResponse>, Status> {
        let message = request.into_inner();
        let running = running(&self.0, &message.cluster)?;
        match way(&running, &running.leadership(), message.forwarded)? {
            Way::Here => batch(&running, message.ops).await.map(Response::new),
            Way::There(addr, channel) => {
                let message = wire::MetaBatchRequest { forwarded: true, ..message };
                pass_on(&addr, message, async |m| MetaClient::new(channel).batch(m).await).await
            }
        }
    }

    async fn lookup(
        &self,
        request: Request<wire::LookupRequest>,
    ) -> Result<Response<wire::LookupResponse>, Status> {
        let message = request.into_inner();
        let running = running(&self.0, &message.cluster)?;
        match way(&running, &running.leadership(), message.forwarded)? {
            Way::Here => lookup(&running, message.grains).await.map(Response::new),
            Way::There(addr, channel) => {
                let message = wire::LookupRequest { forwarded: true, ..message };
                pass_on(&addr, message, async |m| MetaClient::new(channel).lookup(m).await).await
            }
        }
    }

    async fn watch(
        &self,
        request: Request<wire::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let message = request.into_inner();
        let running = running(&self.0, &message.cluster)?;
        Ok(Response::new(watch(
            Arc::clone(&running.machine),
            running.tide.clone(),
            millet_core::Revision(message.from),
        )))
    }

    async fn status(
        &self,
        request: Request<wire::MetaStatusRequest>,
    ) -> Result<Response<wire::MetaStatusResponse>, Status> {
        let cluster = request.into_inner().cluster;
        // An empty name asks which cluster this is.
        let running = match cluster.is_empty() {
            true => self
                .0
                .running()
                .ok_or_else(|| not_done("this member belongs to no cluster yet: run init once", None))?,
            false => running(&self.0, &cluster)?,
        };
        let status = running.status();
        let group = |g: &crate::client::GroupStatus| wire::GroupStatus {
            group: g.group,
            leader: g.leader,
            term: g.term,
            applied: g.applied,
            committed: g.committed,
            last_log: g.last_log,
        };
        let members = status
            .members
            .into_iter()
            .map(|m| wire::MemberRow { id: m.id, addr: m.addr, voter: m.voter })
            .collect();
        let groups = status.groups.iter().map(group).collect();
        Ok(Response::new(wire::MetaStatusResponse {
            cluster: status.cluster,
            member: status.member,
            groups,
            members,
        }))
    }
}
