//! The part of a member that runs once it belongs to a cluster: log, groups, leader's duties.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    sync::Arc,
};

use bytes::Bytes;
use millet_core::Revision;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Semaphore, mpsc, watch};
use tonic::transport::Channel;

use super::{
    MemberOptions,
    drive::{self, Driver, KeepaliveIn},
};
use crate::{
    Dial,
    client::{ClusterStatus, GroupStatus, MemberRow},
    engine,
    identity::Membership,
    log::{GroupId, LogStore, Wal, WalOptions},
    machine::{Init, Machine, MetaGroup, Published},
    raft::{Core, Group, GroupOptions, Leadership, Place, Port, Roster, SnapshotFiles},
    state::{StateGroup, StateReader},
};

/// The `meta` group.
pub(crate) const META: GroupId = GroupId(0);
/// The `state` group.
pub(crate) const STATE: GroupId = GroupId(1);
/// Every group that a member takes part in.
pub(crate) const GROUPS: [GroupId; 2] = [META, STATE];

/// A group's name, for people.
pub(crate) fn group_name(group: GroupId) -> &'static str {
    match group {
        META => "meta",
        STATE => "state",
        GroupId(_) => "another",
    }
}

/// Entries of nodes' batches proposed and not yet applied: a Tick behind them waits at most 100 ms at
/// the slowest rate we measured (R21).
const IN_FLIGHT: usize = 64;
/// Batches of reads that wait for the state engine's disk.
const READS: usize = 8;
/// Memory the state engine may use for its cache.
const ENGINE_CACHE_BYTES: u64 = 64 * 1024 * 1024;
/// Keepalives on their way to the next Tick: a thousand nodes that all repeat theirs.
const KEEPALIVES: usize = 4096;
/// Segments from this size on are prepared ahead of need: smaller ones are filled within a sync's time.
const PREPARE_BYTES: u64 = 4 << 20;
/// Connections to other members kept for forwarding.
const FORWARDS: usize = 64;

/// How far the applied `meta` state is, for watchers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Tide {
    /// The last applied entry.
    pub(crate) revision: Revision,
    /// Entries that told watchers something.
    pub(crate) events: u64,
    /// Snapshots installed.
    pub(crate) restores: u64,
}

/// Connections for passing requests on.
pub(crate) struct Forward {
    dial: Dial,
    channels: Mutex<HashMap<String, Channel>>,
}

impl Forward {
    pub(crate) fn channel(&self, addr: &str) -> Channel {
        let mut channels = self.channels.lock();
        if let Some(channel) = channels.get(addr) {
            return channel.clone();
        }
        if channels.len() >= FORWARDS {
            channels.clear();
        }
        let channel = (self.dial)(addr);
        channels.insert(addr.to_owned(), channel.clone());
        channel
    }
}

/// See the module.
pub(crate) struct Running {
    pub(crate) cluster: Arc<str>,
    pub(crate) member: u64,
    pub(crate) meta: Group<MetaGroup>,
    pub(crate) state: Group<StateGroup>,
    pub(crate) machine: Arc<RwLock<Machine>>,
    pub(crate) tide: watch::Receiver<Tide>,
    pub(crate) keepalives: mpsc::Sender<KeepaliveIn>,
    /// Bounds proposals of nodes' batches.
    pub(crate) in_flight: Semaphore,
    /// The same for the `state` group.
    pub(crate) state_in_flight: Semaphore,
    pub(crate) reader: StateReader,
    readers: Place,
    reads: Semaphore,
    engine: Arc<dyn engine::Engine>,
    pub(crate) forward: Forward,
    leadership: watch::Receiver<Leadership>,
    ports: BTreeMap<u32, Arc<dyn Port>>,
    pub(super) rosters: BTreeMap<u32, Arc<dyn Roster>>,
    /// One backup at a time: each takes as much disk as a snapshot of both groups.
    pub(crate) backups: Arc<Semaphore>,
    /// What the change of members that this member coordinates waits for.
    pub(crate) stage: watch::Sender<String>,
    /// Another member has said that this one has left.
    pub(super) left: watch::Receiver<bool>,
    pub(super) core: Core,
    stop: watch::Sender<bool>,
    fail: watch::Sender<Option<String>>,
    failed: watch::Receiver<Option<String>>,
}

impl Running {
    /// Recovers log and groups and starts the leader's thread. It leads nothing before
    /// [`Running::take_part`].
    pub(super) async fn start(options: &MemberOptions, place: &Membership) -> io::Result<Self> {
        let cluster: Arc<str> = place.cluster.as_str().into();
        let (fail, failed) = watch::channel(None);
        let log = open_log(options, &fail)?;
        let core = Core::start(&*options.threads).await?;
        let (meta, tide) = meta_group();
        let machine = meta.machine();
        let (told, left) = watch::channel(false);
        let told = Arc::new(told);
        let files = |group| {
            SnapshotFiles::open(Arc::clone(&options.disk), options.dir.join("snapshots"), group).map(Arc::new)
        };
        // Both before the engine is opened: that ends its seal, and it may have the only other copy.
        let (meta_files, state_files) = (files(META)?, files(STATE)?);
        let group = |group, files, on_disk| GroupOptions {
            group,
            member: place.member,
            cluster: Arc::clone(&cluster),
            log: Arc::clone(&log),
            files,
            threads: Arc::clone(&options.threads),
            dial: Arc::clone(&options.dial),
            left: Arc::clone(&told),
            core: core.clone(),
            snapshot_every: options.snapshot_every,
            timing: options.timing,
            on_disk,
        };
        let (readers, reads) = (Place::thread(&*options.threads, "state-read")?, Semaphore::new(READS));
        let (kind, disk, dir) = (options.engine, Arc::clone(&options.disk), options.dir.join("state"));
        // It reads all that was closed.
        let engine = readers.run(move || engine::open(kind, disk, &dir, ENGINE_CACHE_BYTES)).await??;
        let (opened, groups) = (engine.mark()?, async {
            let state = StateGroup::open(Arc::clone(&engine))?;
            let reader = state.reader();
            let meta = Group::start(group(META, meta_files, false), meta).await?;
            let state = Group::start(group(STATE, state_files, true), state).await?;
            Ok::<_, io::Error>((meta, state, reader))
        });
        let (meta, state, reader) = groups.await.inspect_err(|_| close_unchanged(&*engine, opened))?;
        let (keepalives, incoming) = mpsc::channel(KEEPALIVES);
        let (stop, stopped) = watch::channel(false);
        let init =
            Init { cluster: place.cluster.clone(), secret: place.secret, generation: options.generation };
        let driver = Driver {
            meta: meta.clone(),
            state: state.clone(),
            machine: Arc::clone(&machine),
            clock: Arc::clone(&options.clock),
            tick: options.timing.tick,
            init,
            keepalives: incoming,
            tide: tide.clone(),
            fail: fail.clone(),
        };
        driver.start(&*options.threads, stopped)?;
        let ports = BTreeMap::from([(META.0, meta.port()), (STATE.0, state.port())]);
        let rosters: [(u32, Arc<dyn Roster>); 2] =
            [(META.0, Arc::new(meta.clone())), (STATE.0, Arc::new(state.clone()))];
        let forward = Forward { dial: Arc::clone(&options.dial), channels: Mutex::default() };
        let leadership = meta.leadership();
        let (in_flight, state_in_flight) = (Semaphore::new(IN_FLIGHT), Semaphore::new(IN_FLIGHT));
        let member = place.member;
        Ok(Self {
            cluster,
            member,
            meta,
            state,
            machine,
            tide,
            keepalives,
            in_flight,
            state_in_flight,
            reader,
            readers,
            reads,
            engine,
            forward,
            leadership,
            ports,
            rosters: rosters.into(),
            backups: Arc::new(Semaphore::new(1)),
            stage: watch::Sender::default(),
            left,
            core,
            stop,
            fail,
            failed,
        })
    }

    /// Stands for elections from now on: both groups are there, however long their recovery took.
    pub(super) async fn take_part(&self) -> io::Result<()> {
        self.meta.take_part().await?;
        self.state.take_part().await
    }

    /// Who leads the `meta` group, now.
    pub(crate) fn leadership(&self) -> Leadership {
        self.leadership.borrow().clone()
    }

    /// Runs a read of the state engine on a thread of its own. An engine that fails a read, or panics over
    /// what it finds, stops the member: while it leads, nobody else would be asked.
    pub(crate) async fn read_state<R: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<R> + Send + 'static,
    ) -> io::Result<R> {
        let _permit = self.reads.acquire().await.map_err(io::Error::other)?;
        let read = self.readers.run(work).await.and_then(|read| read);
        // While it stops, the engine may be closed already.
        if let Err(e) = read.as_ref()
            && e.kind() != io::ErrorKind::ResourceBusy
            && !*self.stop.borrow()
        {
            drive::fail(&self.fail, format!("the state engine: {e}; the member stops"));
        }
        read
    }

    /// A group's entrance.
    pub(crate) fn port(&self, group: u32) -> Option<Arc<dyn Port>> {
        self.ports.get(&group).cloned()
    }

    /// Whether any group has members: from the first one on, members vote.
    pub(crate) async fn is_initialized(&self) -> io::Result<bool> {
        Ok(self.meta.is_initialized().await? || self.state.is_initialized().await?)
    }

    pub(super) async fn initialize(&self, place: &Membership) -> io::Result<()> {
        let members = place.founders.iter().cloned().collect();
        self.meta.initialize(&members).await?;
        self.state.initialize(&members).await
    }

    /// Waits until both groups have leaders and the cluster is made.
    pub(super) async fn ready(&self) {
        for mut leadership in [self.meta.leadership(), self.state.leadership()] {
            if leadership.wait_for(|l| l.leader.is_some()).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
        let mut tide = self.tide.clone();
        while self.machine.read().cluster().is_none() {
            if tide.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    pub(super) async fn failed(&self) -> String {
        let mut failed = self.failed.clone();
        // The guard is let go before the next await: the future may be sent between threads.
        let why = failed.wait_for(Option::is_some).await.map(|why| why.clone().unwrap_or_default());
        match why {
            Ok(why) => why,
            Err(_) => std::future::pending().await,
        }
    }

    /// How the cluster stands.
    pub(crate) fn status(&self) -> ClusterStatus {
        let of = |group: GroupId, m: &crate::raft::GroupMetrics| GroupStatus {
            group: group.0,
            leader: m.leader,
            term: m.term,
            applied: m.applied,
            committed: m.committed,
            last_log: m.last_log,
        };
        let (meta, state) = (self.meta.metrics(), self.state.metrics());
        let groups = vec![of(META, &meta), of(STATE, &state)];
        let members =
            meta.members.into_iter().map(|(id, addr, voter)| MemberRow { id, addr, voter }).collect();
        ClusterStatus { cluster: self.cluster.to_string(), member: self.member, groups, members }
    }

    /// The error is why it failed, before or while it stopped: the log writes its last batch here.
    pub(super) async fn stop(&self, hand_over: bool) -> Result<(), String> {
        self.in_flight.close();
        self.state_in_flight.close();
        if hand_over {
            self.meta.transfer().await;
            self.state.transfer().await;
        }
        self.stop.send_replace(true);
        for ended in [self.meta.shutdown().await, self.state.shutdown().await] {
            if let Err(why) = ended {
                drive::fail(&self.fail, why);
            }
        }
        self.reads.close();
        // What failed may have left half of something in the engine: it is not to be used again.
        if hand_over && self.failed.borrow().is_none() {
            let engine = Arc::clone(&self.engine);
            let closed = self.readers.run(move || engine.close()).await.and_then(|closed| closed);
            if let Err(e) = closed {
                tracing::warn!(error = %e, "the state engine did not close cleanly; it is rebuilt at the next start");
                drive::fail(&self.fail, format!("the state engine did not close: {e}"));
            }
        }
        self.core.stop().await;
        self.failed.borrow().clone().map_or(Ok(()), Err)
    }
}

/// A start that came to nothing leaves the engine as it was closed, for a next one after a repair: every
/// change moves the mark. Without one it is empty.
fn close_unchanged(engine: &dyn engine::Engine, opened: Option<Bytes>) {
    if opened.is_some()
        && let Err(e) = engine.mark().and_then(|mark| if mark == opened { engine.close() } else { Ok(()) })
    {
        tracing::warn!(error = %e, "the state engine did not close cleanly; it is rebuilt at the next start");
    }
}

/// An empty `meta` group, and how far it is.
pub(crate) fn meta_group() -> (MetaGroup, watch::Receiver<Tide>) {
    let (tx, tide) = watch::channel(Tide::default());
    (MetaGroup::new(move |published| tx.send_modify(|tide| flow(tide, &published))), tide)
}

/// Notes what was applied; called on the applying thread.
fn flow(tide: &mut Tide, published: &Published) {
    match published {
        Published::Applied { revision, events } => {
            tide.revision = *revision;
            tide.events += events.len() as u64;
        }
        Published::Restored { revision } => {
            tide.revision = *revision;
            tide.events += 1;
            tide.restores += 1;
        }
    }
}

fn open_log(options: &MemberOptions, fail: &watch::Sender<Option<String>>) -> io::Result<Arc<dyn LogStore>> {
    let fail = fail.clone();
    let on_fatal: crate::log::OnFatal = Arc::new(move |path, e| {
        drive::fail(&fail, format!("{}: {e}; the member stops, its disk must be looked at", path.display()));
    });
    let mut wal = WalOptions::new(options.entropy.next_u64());
    wal.on_fatal = Some(on_fatal);
    wal.segment_bytes = options.log_segment_bytes;
    wal.first_segment_bytes = wal.first_segment_bytes.min(wal.segment_bytes);
    wal.prepare_ahead = wal.segment_bytes >= PREPARE_BYTES;
    let wal = Wal::open(Arc::clone(&options.disk), &*options.threads, &options.dir.join("log"), wal)
        .map_err(io::Error::other)?;
    Ok(Arc::new(wal))
}
