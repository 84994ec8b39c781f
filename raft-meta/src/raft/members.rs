//! One group's members: who votes, how far each is, and the steps by which they change. What is decided
//! over all groups is `member::change`; this only asks openraft.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use millet_core::BoxFuture;
use openraft::{BasicNode, ChangeMembers, Instant as _, async_runtime::WatchReceiver as _};
use tokio::sync::watch;

use super::{
    codec::ours,
    handle::{Group, Leadership, ProposeError, refused},
};
use crate::group::GroupMachine;

/// A voter not heard for so long is not counted on: ten heartbeats, longer than an election.
const HEARD: Duration = Duration::from_millis(1_000);
/// A leader hands over only to a voter this close: it has to catch up before it may lead.
const CLOSE: u64 = 1_000;
/// How long a hand-over may take.
const TRANSFER_WAIT: Duration = Duration::from_secs(1);

/// One member as a group's leader sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct NodeLook {
    pub(crate) id: u64,
    pub(crate) addr: String,
    /// Votes in the set that is to be.
    pub(crate) voter: bool,
    /// Votes only in the set that was.
    pub(crate) leaving: bool,
    /// The end of its log, as far as the leader knows.
    pub(crate) matched: u64,
    /// The leader has heard it lately.
    pub(crate) answers: bool,
}

/// One group as a member sees it; only the leader knows how far the others are.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Look {
    pub(crate) leader: u64,
    pub(crate) term: u64,
    pub(crate) applied: u64,
    pub(crate) last_log: u64,
    pub(crate) nodes: Vec<NodeLook>,
    pub(crate) joint: bool,
    /// Who is a member is committed, as far as this member knows.
    pub(crate) settled: bool,
    /// At the leader of `meta`: what the change under way waits for.
    pub(crate) stage: String,
}

impl Look {
    pub(crate) fn node(&self, id: u64) -> Option<&NodeLook> {
        self.nodes.iter().find(|n| n.id == id)
    }
}

/// A group's members, whichever machine it has. Steps are done by its leader only.
pub(crate) trait Roster: Send + Sync + 'static {
    /// Who leads, from now on.
    fn leadership(&self) -> watch::Receiver<Leadership>;
    /// How it stands.
    fn look(&self) -> Look;
    /// Sends the log to a new member, which does not vote yet. Nothing, if it is known.
    fn add_learner(&self, id: u64, addr: String) -> BoxFuture<'_, Result<(), ProposeError>>;
    /// Lets one member vote and takes one out, in one joint change. Finishes one that was interrupted;
    /// nothing, where it is done.
    fn change(&self, add: Option<u64>, remove: Option<u64>) -> BoxFuture<'_, Result<(), ProposeError>>;
    /// Hands leadership to `to`, or to the best voter that is not in `avoid`.
    fn hand_over(&self, to: Option<u64>, avoid: Vec<u64>) -> BoxFuture<'_, Result<u64, String>>;
    /// See [`Group::read_index`].
    fn read(&self) -> BoxFuture<'_, Result<(), ProposeError>>;
}

impl<M: GroupMachine> Roster for Group<M> {
    fn leadership(&self) -> watch::Receiver<Leadership> {
        Group::leadership(self)
    }

    fn look(&self) -> Look {
        let metrics = self.raft.metrics();
        let m = metrics.borrow_watched();
        let membership = m.membership_config.membership();
        let last_log = m.last_log_index.map_or(0, ours);
        let configs = membership.get_joint_config();
        let votes = |id: u64| configs.last().is_some_and(|set| set.contains(&id));
        let node = |(id, node): (&u64, &BasicNode)| {
            let own = *id == self.member;
            let heard = m.heartbeat.as_ref().and_then(|h| h.get(id).copied().flatten());
            let matched = m.replication.as_ref().and_then(|r| r.get(id).copied().flatten());
            NodeLook {
                id: *id,
                addr: node.addr.clone(),
                voter: votes(*id),
                leaving: !votes(*id) && configs.iter().any(|set| set.contains(id)),
                matched: if own { last_log } else { matched.map_or(0, |id| ours(id.index)) },
                answers: own || heard.is_some_and(|at| at.elapsed() < HEARD),
            }
        };
        Look {
            leader: m.current_leader.unwrap_or(0),
            term: m.current_term,
            applied: m.last_applied.map_or(0, |id| ours(id.index)),
            last_log,
            nodes: m.membership_config.nodes().map(node).collect(),
            joint: configs.len() > 1,
            settled: m.committed_membership_config.log_id() == m.membership_config.log_id(),
            stage: String::new(),
        }
    }

    fn add_learner(&self, id: u64, addr: String) -> BoxFuture<'_, Result<(), ProposeError>> {
        Box::pin(async move {
            if self.look().node(id).is_some() {
                return Ok(());
            }
            let nodes = BTreeMap::from([(id, BasicNode { addr })]);
            let done = self.raft.change_membership(ChangeMembers::AddNodes(nodes), true).await;
            done.map(|_| ()).map_err(failed)
        })
    }

    fn change(&self, add: Option<u64>, remove: Option<u64>) -> BoxFuture<'_, Result<(), ProposeError>> {
        Box::pin(async move {
            let look = self.look();
            let votes = |id: u64| look.node(id).is_some_and(|n| n.voter);
            let mut changes = Vec::new();
            if let Some(id) = add.filter(|id| look.joint || !votes(*id)) {
                changes.push(ChangeMembers::AddVoterIds([id].into()));
            }
            if let Some(node) = remove.and_then(|id| look.node(id)) {
                let id = [node.id].into();
                changes.push(match node.voter || node.leaving {
                    true => ChangeMembers::RemoveVoters(id),
                    false => ChangeMembers::RemoveNodes(id),
                });
            } else if let Some(id) = remove.filter(|_| look.joint) {
                changes.push(ChangeMembers::RemoveVoters([id].into()));
            }
            if changes.is_empty() {
                if !look.joint {
                    return Ok(());
                }
                // Interrupted between its two steps: the set that is to be stays, alone.
                changes.push(ChangeMembers::AddVoterIds(BTreeSet::new()));
            }
            let done = self.raft.change_membership(ChangeMembers::Batch(changes), false).await;
            done.map(|_| ()).map_err(failed)
        })
    }

    fn hand_over(&self, to: Option<u64>, avoid: Vec<u64>) -> BoxFuture<'_, Result<u64, String>> {
        Box::pin(self.hand_over_to(to, avoid))
    }

    fn read(&self) -> BoxFuture<'_, Result<(), ProposeError>> {
        Box::pin(self.read_index())
    }
}

fn failed(
    e: openraft::errors::RaftError<super::types::Cfg, openraft::errors::ClientWriteError<super::types::Cfg>>,
) -> ProposeError {
    match e {
        openraft::errors::RaftError::APIError(e) => refused(e),
        openraft::errors::RaftError::Fatal(e) => ProposeError::Unknown(e.to_string()),
    }
}

impl<M: GroupMachine> Group<M> {
    /// Hands leadership over, if this member leads. A voter that is not heard or far behind is not chosen:
    /// a leader that waits for it answers nobody.
    async fn hand_over_to(&self, to: Option<u64>, avoid: Vec<u64>) -> Result<u64, String> {
        let look = self.look();
        if look.leader != self.member {
            return Err(format!("member {} does not lead this group", self.member));
        }
        if to == Some(self.member) {
            return Ok(self.member);
        }
        let fits =
            |n: &NodeLook| n.voter && n.answers && n.id != self.member && n.matched + CLOSE >= look.last_log;
        let chosen = match to {
            None => {
                let voters = look.nodes.iter().filter(|n| fits(n) && !avoid.contains(&n.id));
                voters
                    .max_by_key(|n| n.matched)
                    .map(|n| n.id)
                    .ok_or("no other voter that may lead answers")?
            }
            Some(id) => match look.node(id) {
                None => return Err(format!("there is no member {id}")),
                Some(n) if fits(n) => id,
                Some(n) => {
                    return Err(format!(
                        "member {id} cannot lead now (voter: {}, answers: {}, at entry {} of {})",
                        n.voter, n.answers, n.matched, look.last_log
                    ));
                }
            },
        };
        self.raft.trigger().transfer_leader(chosen).await.map_err(|e| e.to_string())?;
        let mut leadership = self.leadership();
        let own = self.member;
        let handed = leadership.wait_for(|l| !l.own && l.leader.as_ref().is_some_and(|(id, _)| *id != own));
        match tokio::time::timeout(TRANSFER_WAIT, handed).await {
            Ok(Ok(now)) => Ok(now.leader.as_ref().map_or(0, |(id, _)| *id)),
            Ok(Err(_)) => Err("Raft has stopped".into()),
            Err(_) => Err(format!("member {chosen} did not take over in time; an election decides")),
        }
    }

    /// Hands leadership over before this member stops, if it leads and another can.
    pub(crate) async fn transfer(&self) {
        if self.look().leader != self.member {
            return;
        }
        if let Err(why) = self.hand_over_to(None, Vec::new()).await {
            tracing::warn!(why, "leadership was not handed over");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{path::PathBuf, sync::Arc};

    use millet_core::world::Disk;
    use millet_testkit::{SimDisk, StdThreads, until_async};
    use openraft::{EntryPayload, Membership};

    use super::*;
    use crate::{
        Timing,
        log::{GroupId, Wal, WalOptions},
        machine::MetaGroup,
        raft::{Core, GroupOptions, SnapshotFiles},
    };

    const LIMIT: Duration = Duration::from_secs(20);

    async fn alone() -> Group<MetaGroup> {
        let disk: Arc<dyn Disk> = Arc::new(SimDisk::new());
        let threads = Arc::new(StdThreads);
        let dir = PathBuf::from("/data");
        let wal =
            Wal::open(Arc::clone(&disk), &*threads, &dir.join("log"), WalOptions::new(1)).expect("fresh");
        let dial = |addr: &str| {
            tonic::transport::Endpoint::from_shared(format!("http://{addr}"))
                .expect("an address")
                .connect_lazy()
        };
        let options = GroupOptions {
            group: GroupId(0),
            member: 1,
            cluster: "c1".into(),
            log: Arc::new(wal),
            files: Arc::new(SnapshotFiles::open(disk, dir.join("snapshots"), GroupId(0)).expect("fresh")),
            core: Core::start(&*threads).await.expect("a thread"),
            threads,
            dial: Arc::new(dial),
            left: Arc::default(),
            snapshot_every: 1_000,
            timing: Timing::default(),
            on_disk: false,
        };
        let group = Group::start(options, MetaGroup::new(|_| ())).await.expect("starts");
        group.take_part().await.expect("it runs");
        group.initialize(&[(1, "127.0.0.1:1".to_owned())].into()).await.expect("fresh");
        let established = async || group.leadership().borrow().established;
        until_async("it leads and has applied an entry", established, LIMIT).await;
        group
    }

    /// R34: interrupted between its two steps, and with nothing left to change, as after a removal that was
    /// given up: the joint set ends all the same.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn r34_a_joint_set_of_voters_ends_also_when_nothing_is_to_change() {
        let group = alone().await;
        let nodes = BTreeMap::from([(1, BasicNode { addr: "127.0.0.1:1".into() })]);
        let joint = Membership::new(vec![[1].into(), [1].into()], nodes).expect("valid");
        group.raft.append_membership(joint, EntryPayload::Blank, []).await.expect("appended");
        until_async("it is joint", async || Roster::look(&group).joint, LIMIT).await;
        Roster::change(&group, None, None).await.expect("done");
        until_async("it is joint no more", async || !Roster::look(&group).joint, LIMIT).await;
        let look = Roster::look(&group);
        assert!(look.node(1).is_some_and(|n| n.voter) && look.nodes.len() == 1, "{look:?}");
        group.shutdown().await.expect("it runs");
    }
}
