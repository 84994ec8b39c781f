//! Where a node's metadata and state live: in memory, or in the Raft members. [`Ground`] is what a node has
//! before it knows its cluster, [`Plane`] is what it works with afterwards.

use std::{path::Path, sync::Arc, time::Duration};

use millet_core::{NodeId, store::StateStore, world::Spawner};
use millet_directory::{KeeperLink, Meta};
use millet_raft_meta::{
    Engine, Member, MemberError, MemberOptions,
    client::{ClientOptions, KeeperClient, MetaClient, StateClient},
    identity::DataDir,
};
use tonic::transport::server::Router;

use super::StartError;
use crate::{
    adapters::{
        local_meta::LocalMeta,
        memory::MemoryStore,
        meta::{ClusterKeeper, ClusterMeta},
    },
    config::{Config, Role},
    world::{Dial, World},
};

/// Between two attempts to learn from the members which cluster this is.
const ASK: Duration = Duration::from_millis(200);
/// How often waiting is logged.
const SAY: Duration = Duration::from_secs(5);
/// The first generation of grants.
const GENERATION: u32 = 1;

/// An in-memory metadata store and state store that several nodes of one process may share.
#[derive(Clone)]
pub struct Memory {
    meta: Arc<LocalMeta>,
    store: Arc<MemoryStore>,
}

impl Memory {
    /// Starts them on this world; they live as long as the last clone.
    pub fn start(world: &World, config: &Config) -> Self {
        let tick = Duration::from_millis(config.cluster.tick_ms);
        let (clock, entropy) = (world.clock.clone(), &*world.entropy);
        let meta = LocalMeta::start(MEMORY, tick, clock, entropy, &*world.io);
        Self { meta, store: Arc::default() }
    }
}

/// The cluster id of nodes in memory.
const MEMORY: &str = "memory";

/// The metadata store and state store as one node reaches them.
pub(super) struct Plane {
    pub(super) cluster: String,
    pub(super) meta: Arc<dyn Meta>,
    pub(super) store: Arc<dyn StateStore>,
    member: Option<Arc<Member>>,
    /// Held as long as the node lives.
    _data_dir: Option<DataDir>,
}

/// Makes the keeper's link, on the keeper's own runtime.
pub(super) type MakeLink = Box<dyn FnOnce() -> Arc<dyn KeeperLink> + Send>;

/// A node before it knows its cluster.
pub(super) enum Ground {
    /// Everything in memory.
    Memory(NodeId, Memory),
    /// A member of the metadata store, and how others reach it.
    Member(Arc<Member>, String),
    /// A node that asks the members.
    Remote(DataDir),
}

impl Ground {
    /// Opens what the settings name. `memory`: in memory, shared where one is given. `own`: how others
    /// reach this node.
    pub(super) async fn open(
        world: &World,
        config: &Config,
        memory: Option<Option<Memory>>,
        own: String,
    ) -> Result<Self, StartError> {
        if let Some(shared) = memory {
            let memory = shared.unwrap_or_else(|| Memory::start(world, config));
            return Ok(Self::Memory(NodeId(world.entropy.next_u64().max(1)), memory));
        }
        let cluster = (!config.cluster.id.is_empty()).then(|| config.cluster.id.clone());
        let dir = Path::new(&config.node.data_dir);
        if !config.roles()?.contains(&Role::Meta) {
            let (disk, entropy) = (world.disk.clone(), &*world.entropy);
            let opened = DataDir::open(disk, dir, cluster.as_deref(), entropy, world.clock.wall_ms());
            return opened.map(Self::Remote).map_err(|e| StartError::Member(e.into()));
        }
        let options = MemberOptions {
            dir: dir.to_owned(),
            addr: own.clone(),
            cluster,
            clock: world.clock.clone(),
            entropy: world.entropy.clone(),
            disk: world.disk.clone(),
            threads: world.threads.clone(),
            dial: Dial::new(world.net.clone()).or_failing(),
            engine: if config.node.state_engine == "redb" { Engine::Redb } else { Engine::Sled },
            snapshot_every: MemberOptions::SNAPSHOT_EVERY,
            generation: GENERATION,
        };
        let member = Arc::new(Member::start(options).await.map_err(StartError::Member)?);
        stop_with(member.clone(), &*world.io);
        Ok(Self::Member(member, own))
    }

    /// This node's id.
    pub(super) fn node(&self) -> NodeId {
        match self {
            Self::Memory(node, _) => *node,
            Self::Member(member, _) => member.node(),
            Self::Remote(data_dir) => data_dir.identity().node,
        }
    }

    /// Adds what this node serves to other nodes.
    pub(super) fn serve(&self, router: Router) -> Router {
        match self {
            Self::Memory(..) | Self::Remote(_) => router,
            Self::Member(member, _) => member.services().add_to(router),
        }
    }

    /// Waits until the cluster is known. A member that is alone makes its own when it first starts.
    pub(super) async fn join(self, world: &World, config: &Config) -> Result<(Plane, MakeLink), StartError> {
        match self {
            Self::Memory(_, memory) => {
                let link = memory.meta.clone();
                let plane = Plane {
                    cluster: MEMORY.to_owned(),
                    meta: memory.meta,
                    store: memory.store,
                    member: None,
                    _data_dir: None,
                };
                Ok((plane, Box::new(move || link)))
            }
            Self::Member(member, own) => {
                let members = if config.is_alone() { vec![own] } else { config.node.members.clone() };
                if config.is_alone() && member.membership().is_none() {
                    member.init(&members).await.map_err(StartError::Member)?;
                }
                let cluster = member.joined().await.cluster;
                Ok(Plane::of(world, cluster, members, Some(member), None))
            }
            Self::Remote(data_dir) => {
                let members = config.node.members.clone();
                let cluster = ask_cluster(world, &members, &config.cluster.id).await;
                Ok(Plane::of(world, cluster, members, None, Some(data_dir)))
            }
        }
    }
}

/// A member that fails takes the process with it: it never carries on after a failed disk.
fn stop_with(member: Arc<Member>, io: &dyn Spawner) {
    let watch = async move {
        let why = member.failed().await;
        crate::adapters::keeper::abort()(why);
    };
    io.spawn("member watch", Box::pin(watch));
}

/// Asks the members until one says which cluster it belongs to; `known` is taken as it is.
async fn ask_cluster(world: &World, members: &[String], known: &str) -> String {
    if !known.is_empty() {
        return known.to_owned();
    }
    let client = MetaClient::new(&options(world, String::new(), members.to_vec()));
    let mut waited = Duration::ZERO;
    loop {
        match client.status().await {
            Ok(status) => return status.cluster,
            Err(e) if waited.as_millis().is_multiple_of(SAY.as_millis()) => {
                tracing::warn!(error = %e, ?members, "no metadata member says which cluster this is; still asking");
            }
            Err(_) => {}
        }
        tokio::time::sleep(ASK).await;
        waited += ASK;
    }
}

fn options(world: &World, cluster: String, members: Vec<String>) -> ClientOptions {
    let dial = Dial::new(world.net.clone()).or_failing();
    ClientOptions { cluster, members, dial, spawner: world.io.clone() }
}

impl Plane {
    fn of(
        world: &World,
        cluster: String,
        members: Vec<String>,
        member: Option<Arc<Member>>,
        data_dir: Option<DataDir>,
    ) -> (Self, MakeLink) {
        let options = options(world, cluster.clone(), members);
        let plane = Self {
            cluster,
            meta: Arc::new(ClusterMeta(MetaClient::new(&options))),
            store: Arc::new(StateClient::new(&options)),
            member,
            _data_dir: data_dir,
        };
        let link = move || {
            let client = KeeperClient::new(&options.cluster, &options.members, options.dial);
            Arc::new(ClusterKeeper(client)) as Arc<dyn KeeperLink>
        };
        (plane, Box::new(link))
    }

    /// This node's metadata member, if it is one.
    pub(super) fn member(&self) -> Option<&Arc<Member>> {
        self.member.as_ref()
    }

    /// Leaves in good order: leadership is handed on first.
    pub(super) async fn leave(&mut self) {
        if let Some(member) = self.member.take() {
            member.stop().await;
        }
    }

    /// Stops the member from outside of any async context; nobody waits for it.
    pub(super) fn abandon(&mut self, world: &World) {
        let Some(member) = self.member.take() else { return };
        let body = move || match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime.block_on(member.abandon()),
            Err(e) => tracing::error!(error = %e, "the metadata member could not be stopped"),
        };
        if let Err(e) = world.threads.spawn("millet-stop", Box::new(body)) {
            tracing::error!(error = %e, "the metadata member could not be stopped");
        }
    }
}

/// Makes a cluster of fresh members, once: asks the first of them to do it. Returns the cluster's id. The
/// same list again is harmless.
///
/// Cancel safety: safe to repeat.
pub async fn init_cluster(world: &World, members: &[String]) -> Result<String, String> {
    use millet_proto::wire::{InitRequest, bootstrap_client::BootstrapClient};
    let first = members.first().ok_or("no members were named")?;
    let channel = Dial::new(world.net.clone()).connect(first).await.map_err(|e| format!("{first}: {e}"))?;
    let request = InitRequest { members: members.to_vec() };
    let answer = BootstrapClient::new(channel).init(request).await;
    answer.map(|a| a.into_inner().cluster).map_err(|s| s.message().to_owned())
}

impl From<MemberError> for StartError {
    fn from(e: MemberError) -> Self {
        Self::Member(e)
    }
}
