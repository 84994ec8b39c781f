//! Changes of members over all groups (R34): checked and noted in the log by the leader of `meta`, then
//! carried out by whoever leads it, step by step, until every group has them. A coordinator that dies leaves
//! nothing to repair: the next leader finds the note and goes on. Every step may be repeated.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::{Arc, Weak},
    time::Duration,
};

use millet_proto::wire::{self, bootstrap_client::BootstrapClient, member_steps_client::MemberStepsClient};

use super::{
    MemberError, Running,
    quorum::{Refusal, majority, removal},
    running::{GROUPS, group_name},
    steps::Step,
};
use crate::{
    identity::{Membership, is_named},
    log::GroupId,
    machine::{Command, MEMBERS_LEVEL, MemberChange, MemberStep, Reply},
    raft::Look,
};

/// Between two looks at a change under way; also what a new voter may lag behind, in time.
const LOOK: Duration = Duration::from_millis(100);
/// The new member answers within this, or is asked again.
const ANSWER: Duration = Duration::from_secs(3);
/// A voter that takes longer does not count when a member is removed.
const PROBE: Duration = Duration::from_secs(1);
/// A note in the log is committed by then.
const COMMIT: Duration = Duration::from_secs(5);

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wish {
    pub(crate) add: Option<String>,
    pub(crate) remove: Option<u64>,
    /// Gives the change under way up.
    pub(crate) cancel: bool,
    /// The cluster's name, typed.
    pub(crate) confirm: String,
}

/// What came of it: the change under way (0: nothing was left to do), and the member who comes or goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Begun {
    pub(crate) change: u64,
    pub(crate) member: u64,
}

fn refused(why: impl Into<String>) -> MemberError {
    MemberError::Refused(why.into())
}

fn subject(change: &MemberChange) -> Begun {
    let member = change.add.as_ref().map(|(id, _)| *id).or(change.remove).unwrap_or(0);
    Begun { change: change.id, member }
}

impl Running {
    /// Checks a wish and notes it, at the leader of `meta`.
    pub(crate) async fn begin(&self, place: &Membership, wish: Wish) -> Result<Begun, MemberError> {
        let under_way = self.machine.read().member_change().cloned();
        if wish.cancel {
            let Some(change) = under_way else { return Err(refused("no change of members is under way")) };
            return self.note(MemberStep::Cancel { id: change.id }).await;
        }
        let looks = self.looks().await.map_err(MemberError::Unavailable)?;
        let above = place.founders.iter().map(|(id, _)| *id);
        let above = above.chain(looks.iter().flat_map(|(_, l)| l.nodes.iter().map(|n| n.id)));
        let above = above.chain([self.machine.read().last_member_id()]).max().unwrap_or(0);
        let begin = MemberStep::Begin { above, add: wish.add.clone(), remove: wish.remove };
        if under_way.is_some() {
            // The machine says whether it is the same one.
            return self.note(begin).await;
        }
        if let Some(member) = already(&looks, &wish).filter(|id| *id <= above) {
            return Ok(Begun { change: 0, member });
        }
        let mut looks = looks;
        if wish.add.is_none() {
            self.probe(&mut looks).await;
        }
        self.check(&looks, &wish)?;
        if let Some(addr) = &wish.add {
            self.fresh(addr).await?;
        }
        if self.machine.read().feature_level() < MEMBERS_LEVEL {
            self.put(Command::FeatureLevel(MEMBERS_LEVEL)).await?;
        }
        self.note(begin).await
    }

    async fn note(&self, step: MemberStep) -> Result<Begun, MemberError> {
        match self.put(Command::Members(step)).await? {
            Reply::Change(change) => {
                tracing::info!(%change, "members change");
                Ok(subject(&change))
            }
            Reply::Refused(why) => Err(refused(why)),
            other => Err(MemberError::Unavailable(format!("the state machine answered {other:?}"))),
        }
    }

    async fn put(&self, command: Command) -> Result<Reply, MemberError> {
        let proposal = self.meta.propose(command.encode().into());
        let unavailable = |e: String| MemberError::Unavailable(format!("{e}; repeat"));
        match tokio::time::timeout(COMMIT, proposal).await {
            Err(_) => Err(unavailable(format!("not committed within {} s", COMMIT.as_secs()))),
            Ok(Err(e)) => Err(unavailable(e.to_string())),
            Ok(Ok((_, reply))) => Reply::decode(&reply).map_err(|e| unavailable(e.to_string())),
        }
    }

    /// Whether the groups can bear it, and the ids and addresses make sense.
    fn check(&self, looks: &[(GroupId, Look)], wish: &Wish) -> Result<(), MemberError> {
        let known = |id: u64| looks.iter().any(|(_, l)| l.node(id).is_some());
        if let Some(id) = wish.remove.filter(|id| !known(*id)) {
            let mut ids: Vec<_> = looks.iter().flat_map(|(_, l)| l.nodes.iter().map(|n| n.id)).collect();
            ids.sort_unstable();
            ids.dedup();
            return Err(refused(format!("there is no member {id}; members are {ids:?}")));
        }
        if let Some(addr) = &wish.add {
            let port = addr.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
            if port.is_none_or(|port| port == 0) {
                return Err(refused(format!("{addr:?} is no peer address; write HOST:PORT")));
            }
            let there = looks.iter().flat_map(|(_, l)| &l.nodes).find(|n| n.addr == *addr);
            if let Some(there) = there.filter(|n| Some(n.id) != wish.remove) {
                return Err(refused(format!("member {} is at {addr}; nothing was changed", there.id)));
            }
            return Ok(());
        }
        let Some(id) = wish.remove else { return Err(refused("nobody is to come or go")) };
        for (group, look) in looks {
            let voters: Vec<_> = look.nodes.iter().filter(|n| n.voter).map(|n| (n.id, n.answers)).collect();
            match removal(group_name(*group), &voters, id) {
                Ok(()) => {}
                Err(Refusal::Unwise(_)) if is_named(&self.cluster, &wish.confirm) => {}
                Err(Refusal::Unwise(why)) => {
                    return Err(refused(format!(
                        "{why}; to do it nevertheless, confirm with the cluster's name"
                    )));
                }
                Err(Refusal::Impossible(why)) => return Err(refused(why)),
            }
        }
        Ok(())
    }

    /// Asks every voter now: one that died a moment ago still counts as heard, and a set of voters that
    /// needs it would stop the cluster.
    async fn probe(&self, looks: &mut [(GroupId, Look)]) {
        let mut asked = BTreeMap::new();
        for node in looks.iter_mut().flat_map(|(_, l)| &mut l.nodes).filter(|n| n.answers) {
            if let Entry::Vacant(answers) = asked.entry(node.id) {
                let mut client = BootstrapClient::new(self.forward.channel(&node.addr));
                let answer = tokio::time::timeout(PROBE, client.inspect(wire::InspectRequest {})).await;
                let it = |r: &wire::InspectResponse| r.cluster == *self.cluster && r.member == node.id;
                let here = node.id == self.member;
                answers.insert(here || matches!(answer, Ok(Ok(r)) if it(r.get_ref())));
            }
            node.answers = asked[&node.id];
        }
    }

    /// Makes sure that who comes is there, and fresh: an old directory would bring back votes.
    async fn fresh(&self, addr: &str) -> Result<(), MemberError> {
        let mut client = BootstrapClient::new(self.forward.channel(addr));
        let answer = tokio::time::timeout(ANSWER, client.inspect(wire::InspectRequest {})).await;
        let silent = |why: &str| {
            MemberError::Unavailable(format!(
                "{addr} does not answer ({why}): start the new member there with an empty data directory, then repeat"
            ))
        };
        let found =
            answer.map_err(|_| silent("no answer in time"))?.map_err(|s| silent(s.message()))?.into_inner();
        if found.cluster.is_empty() {
            return Ok(());
        }
        Err(refused(format!(
            "{addr} is already member {} of cluster {}; a new member needs an empty data directory",
            found.member, found.cluster
        )))
    }

    /// Waits until a change has ended, as applied here: whether it was given up, or `None` at the limit.
    pub(crate) async fn change_ended(&self, id: u64, limit: Duration) -> Option<bool> {
        let mut tide = self.tide.clone();
        let ended = async {
            loop {
                let applied = self.machine.read().revision().0 >= id;
                if let Some(given_up) = self.machine.read().member_change_ended(id).filter(|_| applied) {
                    return given_up;
                }
                if tide.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::time::timeout(limit, ended).await.ok()
    }
}

/// Who came or went, if the wish is what the groups already have.
fn already(looks: &[(GroupId, Look)], wish: &Wish) -> Option<u64> {
    let gone = |id: u64| looks.iter().all(|(_, l)| l.node(id).is_none());
    if wish.remove.is_some_and(|id| !gone(id)) {
        return None;
    }
    let Some(addr) = &wish.add else { return wish.remove };
    let voter = |l: &Look| l.nodes.iter().find(|n| n.addr == *addr && n.voter).map(|n| n.id);
    let first = looks.first().and_then(|(_, l)| voter(l))?;
    looks.iter().all(|(_, l)| voter(l) == Some(first) && !l.joint).then_some(first)
}

/// What a coordinator remembers between two looks; lost with it, and learnt again.
#[derive(Default)]
struct Seen {
    change: u64,
    adopted: bool,
    /// Where the logs ended at the last look.
    ends: BTreeMap<u32, u64>,
}

/// Carries out what is noted, while this member leads `meta`; ends with the member.
pub(super) async fn drive(running: Weak<Running>, place: Membership) {
    let mut seen = Seen::default();
    loop {
        tokio::time::sleep(LOOK).await;
        let Some(running) = running.upgrade() else { return };
        if !running.leadership().established {
            seen = Seen::default();
            continue;
        }
        let Some(change) = running.machine.read().member_change().cloned() else {
            running.stage.send_if_modified(|stage| !std::mem::take(stage).is_empty());
            continue;
        };
        if seen.change != change.id || change.add.is_none() {
            seen = Seen { change: change.id, ..Seen::default() };
        }
        let stage = match advance(&running, &place, &change, &mut seen).await {
            Ok(stage) => stage,
            Err(why) => format!("{why}; trying again"),
        };
        running.stage.send_if_modified(|was| {
            *was != stage && {
                tracing::info!(%change, stage, "members change");
                *was = stage;
                true
            }
        });
    }
}

/// As far as a change can go now; what it waits for.
async fn advance(
    running: &Arc<Running>,
    place: &Membership,
    change: &MemberChange,
    seen: &mut Seen,
) -> Result<String, String> {
    if let Some((id, addr)) = &change.add {
        if !std::mem::replace(&mut seen.adopted, true)
            && let Err(why) = adopt(running, place, *id, addr).await
        {
            seen.adopted = false;
            return Err(why);
        }
        if let Some(waits) = learn(running, *id, addr, seen).await? {
            return Ok(waits);
        }
    }
    if let Some(old) = change.remove {
        for group in GROUPS {
            let look = running.step(group, Step::Look).await?;
            if look.leader == old && look.nodes.iter().any(|n| n.voter && n.id != old) {
                let avoid = Step::Transfer { to: None, avoid: vec![old] };
                running.step(group, avoid).await?;
                return Ok(format!("group {} gets another leader", group_name(group)));
            }
        }
    }
    let add = change.add.as_ref().map(|(id, _)| *id);
    let old = change.remove.and_then(|id| Some((id, address(running, id)?)));
    for group in GROUPS {
        let look = running.step(group, Step::Look).await?;
        let will = |id: u64| Some(id) != change.remove && (Some(id) == add || votes(&look, id));
        let voters: Vec<_> = look.nodes.iter().filter(|n| will(n.id)).collect();
        let answering = voters.iter().filter(|n| n.answers).count();
        // Once begun, a joint change that cannot be committed stops every other write too.
        if !look.joint && answering < majority(voters.len()) {
            return Ok(format!(
                "group {}: {answering} of its new {} voters answer, {} must",
                group_name(group),
                voters.len(),
                majority(voters.len())
            ));
        }
        running.step(group, Step::Voters { add, remove: change.remove }).await?;
    }
    for group in GROUPS {
        let look = running.step(group, Step::Look).await?;
        let come = add.is_none_or(|id| look.node(id).is_some_and(|n| n.voter));
        let gone = change.remove.is_none_or(|id| look.node(id).is_none());
        if !come || !gone || look.joint || !look.settled {
            return Ok(format!("group {} has not committed its new voters", group_name(group)));
        }
    }
    running.put(Command::Members(MemberStep::End { id: change.id })).await.map_err(|e| e.to_string())?;
    tracing::info!(%change, "members changed: every group has it");
    if let Some((id, addr)) = old {
        retire(running, id, &addr).await;
    }
    Ok(String::new())
}

fn votes(look: &Look, id: u64) -> bool {
    look.node(id).is_some_and(|n| n.voter)
}

fn address(running: &Running, id: u64) -> Option<String> {
    GROUPS.iter().find_map(|group| running.look_here(*group).node(id).map(|n| n.addr.clone()))
}

/// Brings the new member into the cluster; it takes part in nothing yet.
async fn adopt(running: &Running, place: &Membership, id: u64, addr: &str) -> Result<(), String> {
    let members = place.founders.iter();
    let request = wire::AdoptRequest {
        cluster: place.cluster.clone(),
        member: id,
        secret: place.secret.0.to_vec().into(),
        members: members.map(|(id, addr)| wire::MemberAddress { id: *id, addr: addr.clone() }).collect(),
        addr: addr.to_owned(),
    };
    let mut client = BootstrapClient::new(running.forward.channel(addr));
    match tokio::time::timeout(ANSWER, client.adopt(request)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(status)) => Err(format!("member {id} at {addr} does not join: {}", status.message())),
        Err(_) => Err(format!("member {id} at {addr} does not answer")),
    }
}

/// Sends every group's log to the new member, until it is no further behind than one look.
async fn learn(running: &Running, id: u64, addr: &str, seen: &mut Seen) -> Result<Option<String>, String> {
    let mut waits = None;
    for group in GROUPS {
        let mut look = running.step(group, Step::Look).await?;
        if look.node(id).is_none() {
            look = running.step(group, Step::Learner { id, addr: addr.to_owned() }).await?;
        }
        let end = seen.ends.insert(group.0, look.last_log);
        let Some(node) = look.node(id) else { return Err("the new member is not in the group yet".into()) };
        if !node.voter && (node.matched == 0 || end.is_none_or(|end| node.matched < end)) {
            let text = format!(
                "member {id} catches up: group {} at entry {} of {}",
                group_name(group),
                node.matched,
                look.last_log
            );
            waits.get_or_insert(text);
        }
    }
    Ok(waits)
}

/// Tells a member that it has left, if it is there: it stops asking for votes.
async fn retire(running: &Running, id: u64, addr: &str) {
    let request = wire::RetireMemberRequest { cluster: running.cluster.to_string(), to: id };
    let mut client = MemberStepsClient::new(running.forward.channel(addr));
    match tokio::time::timeout(ANSWER, client.retire(request)).await {
        Ok(Ok(_)) => tracing::info!(member = id, addr, "told that it has left"),
        Ok(Err(e)) => tracing::info!(member = id, addr, error = e.message(), "was not told that it has left"),
        Err(_) => tracing::info!(member = id, addr, "was not told that it has left: no answer"),
    }
}
