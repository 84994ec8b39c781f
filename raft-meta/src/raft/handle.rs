//! One Raft group of this member: propose, read, watch who leads, hand leadership over, stop.

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use bytes::Bytes;
use millet_core::world::Threads;
use openraft::{
    BasicNode, Config, Raft, ReadPolicy, ServerState, SnapshotPolicy,
    async_runtime::WatchReceiver as _,
    errors::{ClientWriteError, Fatal, ForwardToLeader, LinearizableReadError, RaftError},
    impls::ProgressResponder,
};
use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    sync::{oneshot, watch},
};

use super::{
    codec::ours,
    files::SnapshotFiles,
    log::Log,
    machine::{Machine, Place, settle},
    network::{Factory, Left, Origin},
    port::{GroupPort, Port},
    types::{Blob, Cfg, LeaderId},
};
use crate::{
    Dial, Timing,
    group::GroupMachine,
    log::{GroupId, LogStore},
};

/// The thread on which every group's Raft core runs, apart from the one that runs grains.
#[derive(Clone)]
pub(crate) struct Core {
    handle: Handle,
    stop: watch::Sender<bool>,
    ended: watch::Receiver<bool>,
}

impl Core {
    /// Starts the thread.
    pub(crate) async fn start(threads: &dyn Threads) -> io::Result<Self> {
        let (stop, mut stopped) = watch::channel(false);
        let (end, ended) = watch::channel(false);
        let (here, there) = oneshot::channel();
        let body = async move {
            drop(here.send(Handle::current()));
            // An error means that every handle is gone.
            let _ = stopped.wait_for(|stop| *stop).await;
        };
        threads.run("raft", Box::pin(body), Box::new(move || _ = end.send_replace(true)))?;
        let handle = there.await.map_err(|_| io::Error::other("raft: its thread has ended"))?;
        Ok(Self { handle, stop, ended })
    }

    /// Runs a future on the core's thread and waits for it.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> io::Result<T> {
        self.handle.spawn(work).await.map_err(|e| io::Error::other(format!("raft: {e}")))
    }

    /// Starts a task that ends with the core at the latest.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.handle.spawn(work);
    }

    /// Ends the thread; what still runs on it is dropped.
    pub(crate) async fn stop(&self) {
        self.stop.send_replace(true);
        let mut ended = self.ended.clone();
        // An error means that the thread has ended.
        let _ = ended.wait_for(|ended| *ended).await;
    }
}

/// What a group needs.
pub(crate) struct GroupOptions {
    pub(crate) group: GroupId,
    pub(crate) member: u64,
    pub(crate) cluster: Arc<str>,
    pub(crate) log: Arc<dyn LogStore>,
    /// Opened, so checked, before anything that a start changes.
    pub(crate) files: Arc<SnapshotFiles>,
    pub(crate) threads: Arc<dyn Threads>,
    pub(crate) dial: Dial,
    /// Set when another member says that this one has left.
    pub(crate) left: Left,
    pub(crate) core: Core,
    /// Entries between two snapshots.
    pub(crate) snapshot_every: u64,
    pub(crate) timing: Timing,
    /// Whether the machine waits for a disk and so gets a thread of its own.
    pub(crate) on_disk: bool,
}

/// Who leads, as this member knows it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Leadership {
    pub(crate) term: u64,
    /// Id and address.
    pub(crate) leader: Option<(u64, String)>,
    /// This member leads.
    pub(crate) own: bool,
    /// This member leads, and the first entry of this leadership is applied (R21).
    pub(crate) established: bool,
}

/// Why a proposal or a read did not happen.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum ProposeError {
    /// Nothing was appended; somebody else may lead.
    #[error("this member does not lead")]
    NotLeader(Option<(u64, String)>),
    /// It may have been applied, or still be.
    #[error("outcome unknown: {0}")]
    Unknown(String),
}

/// How a group stands. Indexes count from 1.
#[derive(Clone, Debug, Default)]
pub(crate) struct GroupMetrics {
    pub(crate) leader: u64,
    pub(crate) term: u64,
    pub(crate) applied: u64,
    pub(crate) committed: u64,
    pub(crate) last_log: u64,
    /// Id, address, votes.
    pub(crate) members: Vec<(u64, String, bool)>,
    /// Why it stopped, if it did.
    pub(crate) failed: Option<String>,
}

/// A running group.
pub(crate) struct Group<M: GroupMachine> {
    pub(super) raft: Raft<Cfg, Machine<M>>,
    pub(super) machine: Arc<Mutex<M>>,
    pub(super) member: u64,
    core: Core,
    leadership: watch::Receiver<Leadership>,
    pub(super) port: Arc<GroupPort<M>>,
}

impl<M: GroupMachine> Clone for Group<M> {
    fn clone(&self) -> Self {
        Self {
            raft: self.raft.clone(),
            machine: Arc::clone(&self.machine),
            member: self.member,
            core: self.core.clone(),
            leadership: self.leadership.clone(),
            port: Arc::clone(&self.port),
        }
    }
}

fn config(options: &GroupOptions) -> io::Result<Config> {
    let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    let timing = options.timing;
    let config = Config {
        cluster_name: format!("{}/{}", options.cluster, options.group.0),
        heartbeat_interval: ms(timing.heartbeat),
        election_timeout_min: ms(timing.election_min),
        election_timeout_max: ms(timing.election_max),
        enable_pre_vote: Some(true),
        quorum_loss_probe_interval: Some(ms(timing.quorum_probe)),
        // Leadership restored in the same term appends no entry to base the leader's clock on (R21).
        enable_leader_restore: Some(false),
        // From Group::take_part on.
        enable_elect: false,
        allow_log_reversion: Some(false),
        max_payload_entries: 512,
        max_append_entries: Some(1_024),
        install_snapshot_timeout: 120_000,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(options.snapshot_every),
        replication_lag_threshold: options.snapshot_every * 2,
        max_in_snapshot_log_to_keep: options.snapshot_every / 4,
        purge_batch_size: 64,
        api_channel_size: Some(4_096),
        api_batch_capacity: 512,
        backoff: "100ms".into(),
        ..Config::default()
    };
    config.validate().map_err(io::Error::other)
}

impl<M: GroupMachine> Group<M> {
    /// Recovers the group from its log and snapshot. It votes and follows, but stands for no election before
    /// [`Group::take_part`].
    pub(crate) async fn start(options: GroupOptions, machine: M) -> io::Result<Self> {
        let config = Arc::new(config(&options)?);
        let files = options.files;
        let machine = Arc::new(Mutex::new(machine));
        let place = match options.on_disk {
            true => Place::thread(&*options.threads, &format!("apply-{}", options.group.0))?,
            false => Place::Inline,
        };
        let (log, settled, on) = (Arc::clone(&options.log), Arc::clone(&machine), Arc::clone(&files));
        let id = options.group;
        place.run(move || settle(&*log, id, &on, &mut *settled.lock())).await??;
        let adapter =
            Machine::new(Arc::clone(&machine), place, Arc::clone(&files), Arc::clone(&options.threads));
        let log = Log::open(Arc::clone(&options.log), options.group)?;
        let origin =
            Origin { cluster: Arc::clone(&options.cluster), member: options.member, group: options.group };
        let factory = Factory { origin, dial: Arc::clone(&options.dial), left: options.left };
        let (member, core) = (options.member, options.core.clone());
        let started = core.run(async move { Raft::new(member, config, factory, log, adapter).await }).await?;
        let raft = started
            .map_err(|e| io::Error::other(format!("group {} does not start: {e}", options.group.0)))?;
        let leadership = watch_leadership(&core, &raft, member);
        let port = Arc::new(GroupPort { raft: raft.clone(), files, threads: options.threads });
        Ok(Self { raft, machine, member, core, leadership, port })
    }

    /// Stands for elections from now on: for when the whole member can serve. A leader whose entrance is
    /// still shut would serve nobody and hold the others down.
    pub(crate) async fn take_part(&self) -> io::Result<()> {
        self.raft.runtime_config().elect(true);
        // A single voter need not wait for a leader that cannot be.
        if matches!(&self.metrics().members[..], [(only, _, true)] if *only == self.member) {
            self.raft.trigger().elect(false).await.map_err(io::Error::other)?;
        }
        Ok(())
    }

    /// Makes these members the group's first voters. Does nothing if it has members already.
    pub(crate) async fn initialize(&self, members: &BTreeMap<u64, String>) -> io::Result<()> {
        let (raft, nodes) = (self.raft.clone(), nodes(members));
        self.core
            .run(async move {
                if raft.is_initialized().await.map_err(io::Error::other)? {
                    return Ok(());
                }
                raft.initialize(nodes).await.map_err(io::Error::other)
            })
            .await?
    }

    /// Whether the group has members.
    pub(crate) async fn is_initialized(&self) -> io::Result<bool> {
        self.raft.is_initialized().await.map_err(io::Error::other)
    }

    /// Proposes a command and waits until it is applied here; its index and reply.
    ///
    /// Cancel safety: dropped, the outcome is unknown.
    pub(crate) async fn propose(&self, command: Bytes) -> Result<(u64, Bytes), ProposeError> {
        match self.raft.client_write(Blob(command)).await {
            Ok(done) => Ok((ours(done.log_id.index), done.data.0)),
            Err(RaftError::APIError(e)) => Err(refused(e)),
            Err(RaftError::Fatal(e)) => Err(ProposeError::Unknown(e.to_string())),
        }
    }

    /// As [`Group::propose`], but only while this member leads in `term`.
    pub(crate) async fn propose_in_term(
        &self,
        command: Bytes,
        term: u64,
    ) -> Result<(u64, Bytes), ProposeError> {
        let (responder, answer) = ProgressResponder::complete_only();
        let leader = LeaderId { term, node_id: self.member };
        let sent = self.raft.write(Blob(command)).with_leader(leader).responder(responder).await;
        sent.map_err(|e| ProposeError::Unknown(e.to_string()))?;
        match answer.await {
            Ok(Ok(done)) => Ok((ours(done.log_id.index), done.data.0)),
            Ok(Err(e)) => Err(refused(e)),
            Err(_) => Err(ProposeError::Unknown("Raft has stopped".into())),
        }
    }

    /// Confirms with a quorum that this member leads and waits until everything committed before the
    /// call is applied here (read index; never a lease read, R24).
    pub(crate) async fn read_index(&self) -> Result<(), ProposeError> {
        match self.raft.ensure_linearizable(ReadPolicy::ReadIndex).await {
            Ok(_) => Ok(()),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(f))) => {
                Err(ProposeError::NotLeader(leader_of(f)))
            }
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(e))) => {
                Err(ProposeError::Unknown(e.to_string()))
            }
            Err(RaftError::Fatal(e)) => Err(ProposeError::Unknown(e.to_string())),
        }
    }

    /// Who leads, from now on.
    pub(crate) fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    /// Where other members' messages enter.
    pub(crate) fn port(&self) -> Arc<dyn Port> {
        Arc::clone(&self.port) as Arc<dyn Port>
    }

    /// How it stands.
    pub(crate) fn metrics(&self) -> GroupMetrics {
        let metrics = self.raft.metrics();
        let m = metrics.borrow_watched();
        let index = |id: &Option<super::types::LogId>| id.map_or(0, |id| ours(id.index));
        let voters: std::collections::BTreeSet<u64> = m.membership_config.voter_ids().collect();
        GroupMetrics {
            leader: m.current_leader.unwrap_or(0),
            term: m.current_term,
            applied: index(&m.last_applied),
            committed: index(&m.local_committed),
            last_log: m.last_log_index.map_or(0, ours),
            members: m
                .membership_config
                .nodes()
                .map(|(id, node)| (*id, node.addr.clone(), voters.contains(id)))
                .collect(),
            failed: m.running_state.as_ref().err().map(ToString::to_string),
        }
    }

    /// Why it has stopped, if it has; also when Raft's core panicked and could not say so.
    pub(crate) fn failed(&self) -> Option<String> {
        let said = self.metrics().failed;
        said.or_else(|| self.leadership.has_changed().is_err().then(|| "Raft's core has ended".into()))
    }

    /// Stops taking part. The log keeps everything. The error is why it had stopped by itself, before or now:
    /// what its machine holds may be half of something.
    pub(crate) async fn shutdown(&self) -> Result<(), String> {
        let before = self.broken();
        if let Err(e) = self.raft.shutdown().await {
            tracing::warn!(error = %e, "raft did not stop cleanly");
        }
        before.or_else(|| self.broken()).map_or(Ok(()), Err)
    }

    /// As [`Group::failed`], but not because it was told to stop.
    fn broken(&self) -> Option<String> {
        let state = self.raft.metrics().borrow_watched().running_state.clone();
        if matches!(state, Err(Fatal::Stopped)) { None } else { self.failed() }
    }
}

fn nodes(members: &BTreeMap<u64, String>) -> BTreeMap<u64, BasicNode> {
    members.iter().map(|(id, addr)| (*id, BasicNode { addr: addr.clone() })).collect()
}

fn leader_of(f: ForwardToLeader<Cfg>) -> Option<(u64, String)> {
    f.leader_id.zip(f.leader_node.map(|n| n.addr))
}

pub(super) fn refused(e: ClientWriteError<Cfg>) -> ProposeError {
    match e {
        ClientWriteError::ForwardToLeader(f) => ProposeError::NotLeader(leader_of(f)),
        // Discarded here, it may still be committed by another leader.
        e @ (ClientWriteError::LogEntryDiscarded(_)
        | ClientWriteError::ChangeMembershipError(_)
        | ClientWriteError::PreconditionFailed(_)) => ProposeError::Unknown(e.to_string()),
    }
}

/// Follows openraft's metrics on the core's thread until the group stops.
fn watch_leadership<M: GroupMachine>(
    core: &Core,
    raft: &Raft<Cfg, Machine<M>>,
    member: u64,
) -> watch::Receiver<Leadership> {
    let mut metrics = raft.metrics();
    let (tx, rx) = watch::channel(Leadership::default());
    core.handle.spawn(async move {
        loop {
            let now = {
                let m = metrics.borrow_watched();
                let own = m.state == ServerState::Leader && m.current_leader == Some(member);
                let address = |id: u64| m.membership_config.get_node(&id).map(|n| (id, n.addr.clone()));
                let applied_in = m.last_applied.map(|id| id.leader_id);
                let established =
                    own && applied_in == Some(LeaderId { term: m.current_term, node_id: member });
                Leadership {
                    term: m.current_term,
                    leader: m.current_leader.and_then(address),
                    own,
                    established,
                }
            };
            tx.send_if_modified(|was| {
                *was != now && {
                    *was = now.clone();
                    true
                }
            });
            if metrics.changed().await.is_err() {
                tx.send_replace(Leadership::default());
                return;
            }
        }
    });
    rx
}
