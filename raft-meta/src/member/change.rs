//! Changes of members over all groups (R34), as they are wished for: checked, and noted in the log by the
//! leader of `meta`. How a noted one is carried out is in `carry`.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures::future::join_all;
use millet_proto::wire::{self, bootstrap_client::BootstrapClient};
use tonic::Status;

use super::{
    MemberError, Running,
    quorum::{Refusal, removal},
    running::group_name,
};
use crate::{
    identity::{Membership, is_named},
    log::GroupId,
    machine::{Command, MemberChange, MemberStep, OUTCOMES_LEVEL, Reply},
    raft::Look,
};

/// A new member answers within this, or is asked again.
pub(super) const ANSWER: Duration = Duration::from_secs(3);
/// A voter that takes longer does not count for a change.
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
    /// Only this change; 0: whichever is under way.
    pub(crate) change: u64,
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
            if wish.change != 0 && wish.change != change.id {
                let ended = format!("change {} of members is not under way any more", wish.change);
                return Err(refused(format!("{ended}; {change} is, and was not given up")));
            }
            let looks = self.looks().await.map_err(MemberError::Unavailable)?;
            // The machine refuses from the point of no return on; what an earlier build has begun has none.
            if let Some(why) = half_way(&looks, &change) {
                return Err(refused(format!("{change} can only be completed: {why}")));
            }
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
        self.raise_level().await?;
        self.note(begin).await
    }

    /// Makes sure that the log may hold every step of a change.
    pub(super) async fn raise_level(&self) -> Result<(), MemberError> {
        if self.machine.read().feature_level() < OUTCOMES_LEVEL {
            self.put(Command::FeatureLevel(OUTCOMES_LEVEL)).await?;
        }
        Ok(())
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

    pub(super) async fn put(&self, command: Command) -> Result<Reply, MemberError> {
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

    /// Asks everybody now who was heard lately: one that died a moment ago still counts as heard, and a set
    /// of voters that needs it would stop the cluster. It must answer as itself.
    pub(super) async fn probe(&self, looks: &mut [(GroupId, Look)]) {
        let heard = looks.iter().flat_map(|(_, l)| &l.nodes).filter(|n| n.answers && n.id != self.member);
        let heard: BTreeSet<_> = heard.map(|n| (n.id, n.addr.clone())).collect();
        let asked = heard.into_iter().map(async |(id, addr)| {
            let answer = self.inspect(&addr, PROBE).await;
            (id, answer.is_ok_and(|found| self.is_itself(&found, id)))
        });
        let mut answers: BTreeMap<u64, bool> = join_all(asked).await.into_iter().collect();
        answers.insert(self.member, true);
        for node in looks.iter_mut().flat_map(|(_, l)| &mut l.nodes) {
            node.answers = node.answers && answers.get(&node.id).is_some_and(|itself| *itself);
        }
    }

    /// Who is at an address.
    pub(super) async fn inspect(&self, addr: &str, limit: Duration) -> Result<wire::InspectResponse, String> {
        let mut client = BootstrapClient::new(self.forward.channel(addr));
        match tokio::time::timeout(limit, client.inspect(wire::InspectRequest {})).await {
            Ok(Ok(found)) => Ok(found.into_inner()),
            Ok(Err(status)) => Err(Status::message(&status).to_owned()),
            Err(_) => Err("no answer in time".into()),
        }
    }

    /// Who comes is known by its data directory, too.
    pub(super) fn is_itself(&self, found: &wire::InspectResponse, id: u64) -> bool {
        let machine = self.machine.read();
        let comes = machine.member_change().and_then(|change| change.add.as_ref());
        let noted = comes.filter(|(comes, _)| *comes == id).and(machine.member_comes());
        found.cluster == *self.cluster && found.member == id && noted.is_none_or(|node| node == found.node)
    }

    /// Makes sure that who comes is there, and fresh: an old directory would bring back votes.
    async fn fresh(&self, addr: &str) -> Result<(), MemberError> {
        let found = self.inspect(addr, ANSWER).await.map_err(|why| {
            MemberError::Unavailable(format!(
                "{addr} does not answer ({why}): start the new member there with an empty data directory, then repeat"
            ))
        })?;
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

/// Why a change cannot be given up: the groups might be left with different voters.
fn half_way(looks: &[(GroupId, Look)], change: &MemberChange) -> Option<String> {
    let votes = |l: &Look, id: u64| l.node(id).is_some_and(|n| n.voter);
    let has_lost = |id: u64, l: &Look| !votes(l, id) && looks.iter().any(|(_, other)| votes(other, id));
    looks.iter().find_map(|(group, look)| {
        let group = group_name(*group);
        if look.joint {
            return Some(format!("group {group} is between its old voters and the new ones"));
        }
        if let Some((id, _)) = change.add.as_ref().filter(|(id, _)| votes(look, *id)) {
            return Some(format!("member {id} votes in group {group} already"));
        }
        let lost = change.remove.filter(|id| has_lost(*id, look));
        lost.map(|id| format!("group {group} has lost member {id} already"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        member::{META, STATE},
        raft::NodeLook,
    };

    fn group(voters: &[u64], learners: &[u64]) -> Look {
        let node = |id: &u64, voter| NodeLook {
            id: *id,
            addr: format!("m{id}:1"),
            voter,
            leaving: false,
            matched: 1,
            answers: true,
        };
        let nodes = voters.iter().map(|id| node(id, true)).chain(learners.iter().map(|id| node(id, false)));
        Look { nodes: nodes.collect(), settled: true, ..Look::default() }
    }

    /// R34: what one group has already, the other gets: the groups are never left with different voters.
    #[test]
    fn r34_a_change_that_any_group_has_is_not_given_up() {
        let replace = MemberChange { id: 9, add: Some((4, "m4:1".into())), remove: Some(3) };
        let remove = MemberChange { id: 9, add: None, remove: Some(3) };
        let before = group(&[1, 2, 3], &[4]);
        let why = |change: &MemberChange, meta: &Look, state: &Look| {
            half_way(&[(META, meta.clone()), (STATE, state.clone())], change)
        };
        assert_eq!(why(&replace, &before, &before), None, "it has only learnt");
        assert_eq!(why(&remove, &before, &before), None);
        let joint = Look { joint: true, ..before.clone() };
        assert!(why(&replace, &before, &joint).is_some_and(|why| why.contains("group state is between")));
        let has = group(&[1, 2, 4], &[]);
        assert!(why(&replace, &has, &before).is_some_and(|why| why.contains("member 4 votes in group meta")));
        let lost = group(&[1, 2], &[]);
        let said = why(&remove, &lost, &before).expect("one group has it");
        assert_eq!(said, "group meta has lost member 3 already");
        assert_eq!(why(&remove, &lost, &lost), None, "a learner's removal, or nothing at all");
    }
}
