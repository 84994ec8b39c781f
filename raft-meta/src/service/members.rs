//! The `Members` service, for administrators, and `MemberSteps`, for members among themselves. A change is
//! noted by the leader of `meta`; whoever was asked waits for its end in its own copy of the log.

use std::{sync::Arc, time::Duration};

use futures::stream::BoxStream;
use millet_proto::wire::{
    self, member_steps_client::MemberStepsClient, member_steps_server::MemberSteps,
    members_server::Members as MembersService,
};
use tonic::{Request, Response, Status};

use super::{not_done, running};
use crate::{
    member::{Begun, GROUPS, META, MemberError, Running, Shared, Step, Wish, group_name, look_to_wire},
    raft::Look,
};

/// How long a request waits for the end of a change unless it says otherwise: a large state takes minutes
/// to copy.
const LIMIT: Duration = Duration::from_secs(600);
/// The leader of `meta` notes a change within this.
const BEGIN: Duration = Duration::from_secs(20);

/// `Members`.
pub(super) struct Service(pub(super) Arc<Shared>);
/// `MemberSteps`.
pub(super) struct Steps(pub(super) Arc<Shared>);

fn failed(e: &MemberError) -> Status {
    match e {
        MemberError::Unavailable(_) => Status::unavailable(e.to_string()),
        _ => Status::failed_precondition(e.to_string()),
    }
}

/// The running member; an empty name means whichever cluster this is.
fn any(shared: &Shared, cluster: &str) -> Result<Arc<Running>, Status> {
    if !cluster.is_empty() {
        return running(shared, cluster);
    }
    shared.running().ok_or_else(|| not_done("this member belongs to no cluster: run init, or add it", None))
}

fn meant(running: &Running, to: u64) -> Result<(), Status> {
    if running.member == to {
        return Ok(());
    }
    Err(Status::failed_precondition(format!(
        "this is member {}, the request is for member {to}; its address has moved",
        running.member
    )))
}

fn limit(ms: u64) -> Duration {
    if ms == 0 { LIMIT } else { Duration::from_millis(ms) }
}

async fn begin(shared: &Shared, running: &Running, wish: Wish) -> Result<Begun, Status> {
    let leadership = running.leadership();
    if leadership.own {
        let place = shared.membership().ok_or_else(|| not_done("this member has left its cluster", None))?;
        return running.begin(&place, wish).await.map_err(|e| failed(&e));
    }
    let Some((to, addr)) = leadership.leader else {
        return Err(Status::unavailable(
            "no leader is known: an election is under way, or most members are down; repeat",
        ));
    };
    let request = wire::BeginChangeRequest {
        cluster: running.cluster.to_string(),
        to,
        add: wish.add.unwrap_or_default(),
        remove: wish.remove.unwrap_or(0),
        cancel: wish.cancel,
        confirm: wish.confirm,
        change: wish.change,
    };
    let mut client = MemberStepsClient::new(running.forward.channel(&addr));
    let answer = tokio::time::timeout(BEGIN, client.begin(request)).await;
    let begun = answer.map_err(|_| {
        Status::unavailable(format!("the leader, member {to} at {addr}, did not answer; repeat"))
    })??;
    let begun = begun.into_inner();
    Ok(Begun { change: begun.change, member: begun.member })
}

/// Begins and waits for the end.
async fn change(
    shared: &Shared,
    cluster: &str,
    wish: Wish,
    limit: Duration,
) -> Result<Response<wire::MemberChanged>, Status> {
    let running = any(shared, cluster)?;
    let cancel = wish.cancel;
    let begun = begin(shared, &running, wish).await?;
    let answer =
        |done, text: String| Ok(Response::new(wire::MemberChanged { member: begun.member, done, text }));
    if begun.change == 0 {
        return answer(true, "every group has it already".into());
    }
    match running.change_ended(begun.change, limit).await {
        Some(given_up) if given_up != cancel => Err(Status::aborted(format!(
            "change {} of members was given up: member {} is in no group",
            begun.change, begun.member
        ))),
        Some(_) => answer(true, "every group has it".into()),
        None => answer(false, format!("change {} goes on; ask for the status", begun.change)),
    }
}

async fn status(running: &Running) -> wire::MembersStatus {
    let (mut groups, mut stage) = (Vec::new(), String::new());
    for group in GROUPS {
        // Where nobody leads, what this member knows itself.
        let look = running.step(group, Step::Look).await;
        let known = look.is_ok();
        if let Some(look) = look.as_ref().ok().filter(|_| group == META) {
            stage.clone_from(&look.stage);
        }
        let mut look = look_to_wire(group, look.unwrap_or_else(|_| running.look_here(group)));
        if !known {
            look.leader = 0;
            look.nodes.iter_mut().for_each(|n| (n.answers, n.matched) = (false, 0));
        }
        groups.push(look);
    }
    let change = running.machine.read().member_change().map(|c| wire::MemberChange {
        id: c.id,
        add: c.add.as_ref().map_or(0, |(id, _)| *id),
        addr: c.add.as_ref().map(|(_, addr)| addr.clone()).unwrap_or_default(),
        remove: c.remove.unwrap_or(0),
    });
    wire::MembersStatus {
        cluster: running.cluster.to_string(),
        member: running.member,
        groups,
        change,
        stage,
    }
}

/// Hands leadership over, group by group; answers who leads then.
async fn transfer(
    running: &Running,
    wish: &wire::TransferLeadershipRequest,
) -> Result<Vec<wire::GroupLeader>, Status> {
    let some = |id: u64| (id != 0).then_some(id);
    let mut leaders = Vec::new();
    for group in GROUPS.into_iter().filter(|g| wish.group.is_none_or(|wished| wished == g.0)) {
        let step = async |step| running.step(group, step).await.map_err(Status::unavailable);
        let mut look: Look = step(Step::Look).await?;
        let taken: Vec<u64> = leaders.iter().map(|l: &wire::GroupLeader| l.leader).collect();
        let moves = match (some(wish.from), wish.spread) {
            (Some(from), _) => look.leader == from,
            (None, true) => taken.contains(&look.leader),
            (None, false) => true,
        };
        if moves {
            let mut avoid: Vec<u64> = some(wish.from).into_iter().collect();
            if wish.spread {
                avoid.extend(taken);
            }
            look = step(Step::Transfer { to: some(wish.to), avoid })
                .await
                .map_err(|e| Status::unavailable(format!("group {}: {}", group_name(group), e.message())))?;
        }
        leaders.push(wire::GroupLeader { group: group.0, leader: look.leader });
    }
    if leaders.is_empty() {
        return Err(Status::invalid_argument(format!(
            "there is no group {}; 0 is meta, 1 is state",
            wish.group.unwrap_or_default()
        )));
    }
    Ok(leaders)
}

#[tonic::async_trait]
impl MembersService for Service {
    type BackupStream = BoxStream<'static, Result<wire::BackupPiece, Status>>;

    async fn backup(
        &self,
        request: Request<wire::BackupRequest>,
    ) -> Result<Response<Self::BackupStream>, Status> {
        let running = any(&self.0, &request.into_inner().cluster)?;
        let (threads, wall_ms) = (self.0.threads(), self.0.wall_ms());
        super::backup::backup(running, &*threads, wall_ms).await.map(Response::new)
    }

    async fn status(
        &self,
        request: Request<wire::MembersRequest>,
    ) -> Result<Response<wire::MembersStatus>, Status> {
        let running = any(&self.0, &request.into_inner().cluster)?;
        Ok(Response::new(status(&running).await))
    }

    async fn add(
        &self,
        request: Request<wire::AddMemberRequest>,
    ) -> Result<Response<wire::MemberChanged>, Status> {
        let r = request.into_inner();
        let wish = Wish { add: Some(r.addr), ..Wish::default() };
        change(&self.0, &r.cluster, wish, limit(r.limit_ms)).await
    }

    async fn replace(
        &self,
        request: Request<wire::ReplaceMemberRequest>,
    ) -> Result<Response<wire::MemberChanged>, Status> {
        let r = request.into_inner();
        let wish = Wish { add: Some(r.addr), remove: Some(r.member), ..Wish::default() };
        change(&self.0, &r.cluster, wish, limit(r.limit_ms)).await
    }

    async fn remove(
        &self,
        request: Request<wire::RemoveMemberRequest>,
    ) -> Result<Response<wire::MemberChanged>, Status> {
        let r = request.into_inner();
        let wish = Wish { remove: Some(r.member), confirm: r.confirm, ..Wish::default() };
        change(&self.0, &r.cluster, wish, limit(r.limit_ms)).await
    }

    async fn cancel(
        &self,
        request: Request<wire::CancelChangeRequest>,
    ) -> Result<Response<wire::MemberChanged>, Status> {
        let r = request.into_inner();
        let wish = Wish { cancel: true, change: r.change, ..Wish::default() };
        change(&self.0, &r.cluster, wish, limit(r.limit_ms)).await
    }

    async fn transfer(
        &self,
        request: Request<wire::TransferLeadershipRequest>,
    ) -> Result<Response<wire::TransferredLeadership>, Status> {
        let request = request.into_inner();
        let running = any(&self.0, &request.cluster)?;
        let leaders = transfer(&running, &request).await?;
        Ok(Response::new(wire::TransferredLeadership { leaders }))
    }
}

#[tonic::async_trait]
impl MemberSteps for Steps {
    async fn begin(
        &self,
        request: Request<wire::BeginChangeRequest>,
    ) -> Result<Response<wire::BegunChange>, Status> {
        let r = request.into_inner();
        let running = running(&self.0, &r.cluster)?;
        meant(&running, r.to)?;
        if !running.leadership().own {
            return Err(Status::unavailable("this member does not lead any more; repeat"));
        }
        let wish = Wish {
            add: (!r.add.is_empty()).then_some(r.add),
            remove: (r.remove != 0).then_some(r.remove),
            cancel: r.cancel,
            confirm: r.confirm,
            change: r.change,
        };
        let begun = begin(&self.0, &running, wish).await?;
        Ok(Response::new(wire::BegunChange { change: begun.change, member: begun.member }))
    }

    async fn step(
        &self,
        request: Request<wire::GroupStepRequest>,
    ) -> Result<Response<wire::GroupLook>, Status> {
        let r = request.into_inner();
        let running = running(&self.0, &r.cluster)?;
        meant(&running, r.to)?;
        let group = crate::log::GroupId(r.group);
        let step = r.step.ok_or_else(|| Status::invalid_argument("a step that this member does not know"))?;
        let look = running.step_here(group, step.into()).await.map_err(Status::unavailable)?;
        Ok(Response::new(look_to_wire(group, look)))
    }

    async fn retire(
        &self,
        request: Request<wire::RetireMemberRequest>,
    ) -> Result<Response<wire::RetiredMember>, Status> {
        let r = request.into_inner();
        meant(&*running(&self.0, &r.cluster)?, r.to)?;
        // Not a refusal: who tells it tries again.
        self.0.retire().await.map_err(|e| Status::internal(e.to_string()))?;
        Ok(Response::new(wire::RetiredMember {}))
    }
}
