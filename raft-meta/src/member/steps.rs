//! Steps of a change at the leaders of the groups: here, where this member leads, else at the member that
//! does. Every step may be repeated.

use std::time::Duration;

use millet_proto::wire::{self, group_step_request::Step as Wire, member_steps_client::MemberStepsClient};

use super::{
    Running,
    running::{GROUPS, META},
};
use crate::{
    log::GroupId,
    raft::{Look, NodeLook, Roster},
};

/// A step that is not done by then is asked for again.
const STEP: Duration = Duration::from_secs(5);

/// One step; see `raft::Roster`.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Look,
    Learner { id: u64, addr: String },
    Voters { add: Option<u64>, remove: Option<u64> },
    Transfer { to: Option<u64>, avoid: Vec<u64> },
    Read,
}

impl Running {
    /// Does a step here.
    pub(crate) async fn step_here(&self, group: GroupId, step: Step) -> Result<Look, String> {
        let roster = self.roster(group)?;
        let own = roster.leadership().borrow().own;
        if !own {
            return Err(format!("member {} does not lead group {}", self.member, group.0));
        }
        let text = |e: crate::raft::ProposeError| e.to_string();
        let work = async {
            match step {
                Step::Look => Ok(()),
                Step::Learner { id, addr } => roster.add_learner(id, addr).await.map_err(text),
                Step::Voters { add, remove } => roster.change(add, remove).await.map_err(text),
                Step::Transfer { to, avoid } => roster.hand_over(to, avoid).await.map(|_| ()),
                Step::Read => roster.read().await.map_err(text),
            }
        };
        tokio::time::timeout(STEP, work)
            .await
            .map_err(|_| format!("not committed within {} s", STEP.as_secs()))??;
        let stage = if group == META { self.stage.borrow().clone() } else { String::new() };
        Ok(Look { stage, ..roster.look() })
    }

    /// Does a step at the group's leader.
    pub(crate) async fn step(&self, group: GroupId, step: Step) -> Result<Look, String> {
        let leadership = self.roster(group)?.leadership().borrow().clone();
        if leadership.own {
            return self.step_here(group, step).await;
        }
        let (to, addr) = leadership.leader.ok_or_else(|| format!("group {} has no leader now", group.0))?;
        let request = wire::GroupStepRequest {
            cluster: self.cluster.to_string(),
            to,
            group: group.0,
            step: Some(step.into()),
        };
        let mut client = MemberStepsClient::new(self.forward.channel(&addr));
        match tokio::time::timeout(STEP + Duration::from_secs(1), client.step(request)).await {
            Ok(Ok(answer)) => Ok(answer.into_inner().into()),
            Ok(Err(status)) => Err(format!("member {to} at {addr}: {}", status.message())),
            Err(_) => Err(format!("member {to} at {addr} did not answer")),
        }
    }

    /// Every group as its leader sees it.
    pub(crate) async fn looks(&self) -> Result<Vec<(GroupId, Look)>, String> {
        self.all(&Step::Look).await
    }

    /// The same by leaders that a quorum has confirmed since: nobody else has changed the voters.
    pub(crate) async fn confirmed(&self) -> Result<Vec<(GroupId, Look)>, String> {
        self.all(&Step::Read).await
    }

    async fn all(&self, step: &Step) -> Result<Vec<(GroupId, Look)>, String> {
        let mut looks = Vec::new();
        for group in GROUPS {
            looks.push((group, self.step(group, step.clone()).await?));
        }
        Ok(looks)
    }

    fn roster(&self, group: GroupId) -> Result<&dyn Roster, String> {
        self.rosters.get(&group.0).map(|r| &**r).ok_or_else(|| format!("there is no group {}", group.0))
    }

    /// A group as this member knows it.
    pub(crate) fn look_here(&self, group: GroupId) -> Look {
        self.rosters.get(&group.0).map(|r| r.look()).unwrap_or_default()
    }
}

fn some(id: u64) -> Option<u64> {
    (id != 0).then_some(id)
}

impl From<Step> for Wire {
    fn from(step: Step) -> Self {
        use wire::group_step_request as w;
        let or_none = Option::unwrap_or_default;
        match step {
            Step::Look => Self::Look(w::Look {}),
            Step::Learner { id, addr } => Self::Learner(w::Learner { id, addr }),
            Step::Voters { add, remove } => {
                Self::Voters(w::Voters { add: or_none(add), remove: or_none(remove) })
            }
            Step::Transfer { to, avoid } => Self::Transfer(w::Transfer { to: or_none(to), avoid }),
            Step::Read => Self::Read(w::Read {}),
        }
    }
}

impl From<Wire> for Step {
    fn from(step: Wire) -> Self {
        match step {
            Wire::Look(_) => Self::Look,
            Wire::Learner(l) => Self::Learner { id: l.id, addr: l.addr },
            Wire::Voters(v) => Self::Voters { add: some(v.add), remove: some(v.remove) },
            Wire::Transfer(t) => Self::Transfer { to: some(t.to), avoid: t.avoid },
            Wire::Read(_) => Self::Read,
        }
    }
}

impl From<wire::GroupLook> for Look {
    fn from(l: wire::GroupLook) -> Self {
        let node = |n: wire::GroupNode| NodeLook {
            id: n.id,
            addr: n.addr,
            voter: n.voter,
            leaving: n.leaving,
            matched: n.matched,
            answers: n.answers,
        };
        Self {
            leader: l.leader,
            term: l.term,
            applied: l.applied,
            last_log: l.last_log,
            nodes: l.nodes.into_iter().map(node).collect(),
            joint: l.joint,
            settled: l.settled,
            stage: l.stage,
        }
    }
}

/// A group's look in wire form.
pub(crate) fn look_to_wire(group: GroupId, l: Look) -> wire::GroupLook {
    let node = |n: NodeLook| wire::GroupNode {
        id: n.id,
        addr: n.addr,
        voter: n.voter,
        leaving: n.leaving,
        matched: n.matched,
        answers: n.answers,
    };
    wire::GroupLook {
        group: group.0,
        leader: l.leader,
        term: l.term,
        applied: l.applied,
        last_log: l.last_log,
        nodes: l.nodes.into_iter().map(node).collect(),
        joint: l.joint,
        settled: l.settled,
        stage: l.stage,
    }
}
