//! Where a node's metadata and state live: in memory, or in the Raft members. A fresh node serves before it
//! knows its cluster; `join` waits for that.

use std::{path::Path, sync::Arc, time::Duration};

use millet_core::{MemoryStore, NodeId, store::StateStore};
use millet_directory::{KeeperLink, Meta};
use millet_raft_meta::{
    EngineKind, Member, MemberError, MemberOptions,
    client::{ClientOptions, KeeperClient, MetaClient},
    identity::{DataDir, is_named},
};
use tonic::transport::server::Router;

use super::StartError;
use crate::{
    adapters::{
        local_meta::LocalMeta,
        meta::{Clients, ClusterKeeper, ClusterMeta, ClusterStore},
    },
    config::{Config, Role},
    world::{Dial, World},
};

/// Between two attempts to make the cluster: founders that start together are up within a moment.
const FOUND: Duration = Duration::from_millis(20);
/// Between two attempts to learn from the members which cluster this is.
const ASK: Duration = Duration::from_millis(200);
/// How often waiting is logged.
const SAY: Duration = Duration::from_secs(5);
/// How long a member looks for a leader before it concludes that the cluster is not made.
const LED: Duration = Duration::from_secs(1);
/// The first generation of grants is at least this; see [`first_generation`].
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

/// Where this node stands: in memory, as a metadata member, or beside the members.
enum Stand {
    Memory(Memory),
    Member(Arc<Member>),
    /// The directory's lock is held as long as the node lives.
    Remote(#[expect(dead_code, reason = "holds the lock")] DataDir),
}

/// The metadata store and state store as one node reaches them.
pub(super) struct Plane {
    pub(super) node: NodeId,
    pub(super) meta: Arc<dyn Meta>,
    pub(super) store: Arc<dyn StateStore>,
    stand: Stand,
    clients: Arc<Clients>,
    /// The metadata members' addresses.
    members: Vec<String>,
}

/// Makes the keeper's link, on the keeper's own runtime.
pub(super) type MakeLink = Box<dyn FnOnce() -> Arc<dyn KeeperLink> + Send>;

impl Plane {
    /// Opens what the settings name. `memory`: in memory, shared where one is given. `own`: how others
    /// reach this node.
    pub(super) async fn open(
        world: &World,
        config: &Config,
        memory: Option<Option<Memory>>,
        own: &str,
    ) -> Result<Self, StartError> {
        if let Some(shared) = memory {
            let memory = shared.unwrap_or_else(|| Memory::start(world, config));
            return Ok(Self {
                node: NodeId(world.entropy.next_u64().max(1)),
                meta: memory.meta.clone(),
                store: memory.store.clone(),
                stand: Stand::Memory(memory),
                clients: Arc::default(),
                members: Vec::new(),
            });
        }
        let cluster = (!config.cluster.id.is_empty()).then(|| config.cluster.id.clone());
        let dir = Path::new(&config.node.data_dir);
        let members = if config.is_alone() { vec![own.to_owned()] } else { config.node.members.clone() };
        let (node, stand) = if config.roles()?.contains(&Role::Meta) {
            let member = start_member(world, config, cluster, dir, own).await?;
            (member.node(), Stand::Member(member))
        } else {
            let (disk, entropy) = (world.disk.clone(), &*world.entropy);
            let opened = DataDir::open(disk, dir, cluster.as_deref(), entropy, world.clock.wall_ms());
            let data_dir = opened.map_err(|e| StartError::Member(e.into()))?;
            (data_dir.identity().node, Stand::Remote(data_dir))
        };
        let clients = Arc::<Clients>::default();
        let (meta, store) = (Arc::new(ClusterMeta(clients.clone())), Arc::new(ClusterStore(clients.clone())));
        Ok(Self { node, meta, store, stand, clients, members })
    }

    /// Adds what this node serves to other nodes.
    pub(super) fn serve<L: Clone>(&self, router: Router<L>) -> Router<L> {
        match &self.stand {
            Stand::Memory(_) | Stand::Remote(_) => router,
            Stand::Member(member) => member.services().add_to(router),
        }
    }

    /// Adds what this node serves to administrators.
    pub(super) fn serve_admin<L: Clone>(&self, router: Router<L>) -> Router<L> {
        match &self.stand {
            Stand::Memory(_) | Stand::Remote(_) => router,
            Stand::Member(member) => member.services().add_admin_to(router),
        }
    }

    /// Makes a cluster of this node's members, once; harmless when it is made. Waits for members that do
    /// not answer yet.
    ///
    /// Cancel safety: safe to repeat.
    pub(super) async fn form(member: &Member, members: &[String]) -> Result<(), StartError> {
        let mut waited = Duration::ZERO;
        loop {
            match member.init(members).await {
                Ok(_) => return Ok(()),
                // Made long ago, and one of its members is down: it needs no help.
                Err(MemberError::Unavailable(_))
                    if member.membership().is_some() && member.ready(LED).await.is_ok() =>
                {
                    return Ok(());
                }
                Err(e @ MemberError::Unavailable(_)) => {
                    if waited.as_millis().is_multiple_of(SAY.as_millis()) {
                        tracing::info!(why = %e, "the cluster cannot be made yet; still trying");
                    }
                    tokio::time::sleep(FOUND).await;
                    waited += FOUND;
                }
                Err(e) => return Err(StartError::Member(e)),
            }
        }
    }

    /// What [`Plane::form`] needs; `None` for nodes that are no members.
    pub(super) fn founding(&self) -> Option<(Arc<Member>, Vec<String>)> {
        self.member().map(|m| (m.clone(), self.members.clone()))
    }

    /// Waits until the cluster is known, in the future it returns; that borrows nothing. A member that is
    /// alone makes its own cluster when it first starts.
    pub(super) fn join(
        &self,
        world: &World,
        config: &Config,
    ) -> impl Future<Output = Result<(String, MakeLink), StartError>> + Send + 'static {
        enum Way {
            Memory(Arc<LocalMeta>),
            Member(Arc<Member>, bool),
            Remote(String),
        }
        let way = match &self.stand {
            Stand::Memory(memory) => Way::Memory(memory.meta.clone()),
            Stand::Member(member) => Way::Member(member.clone(), config.is_alone()),
            Stand::Remote(_) => Way::Remote(config.cluster.id.clone()),
        };
        let (world, members, clients) = (world.clone(), self.members.clone(), self.clients.clone());
        async move {
            let cluster = match way {
                Way::Memory(link) => {
                    let link: MakeLink = Box::new(move || link);
                    return Ok((MEMORY.to_owned(), link));
                }
                Way::Member(member, alone) => {
                    if alone && member.membership().is_none() {
                        Self::form(&member, &members).await?;
                    }
                    member.joined().await.cluster
                }
                Way::Remote(name) => ask_cluster(&world, &members, &name).await?,
            };
            let options = options(&world, cluster.clone(), members);
            clients.join(&options);
            let link: MakeLink = Box::new(move || {
                let client = KeeperClient::new(&options.cluster, &options.members, options.dial);
                Arc::new(ClusterKeeper(client))
            });
            Ok((cluster, link))
        }
    }

    /// The metadata members' addresses; none in memory.
    pub(super) fn members(&self) -> &[String] {
        &self.members
    }

    /// This node's metadata member, if it is one.
    pub(super) fn member(&self) -> Option<&Arc<Member>> {
        match &self.stand {
            Stand::Member(member) => Some(member),
            Stand::Memory(_) | Stand::Remote(_) => None,
        }
    }

    /// Leaves in good order: leadership is handed on first.
    pub(super) async fn leave(&self) {
        if let Some(member) = self.member()
            && let Err(e) = member.stop().await
        {
            tracing::error!(error = %e, "the metadata member failed before it had stopped");
        }
    }

    /// Stops the member as a crash would, from outside of any async context; nobody waits for it.
    pub(super) fn abandon(&self, world: &World) {
        let Some(member) = self.member().cloned() else { return };
        let body = async move { member.abandon().await };
        if let Err(e) = world.threads.run("millet-stop", Box::pin(body), Box::new(|| ())) {
            tracing::error!(error = %e, "the metadata member could not be stopped");
        }
    }
}

async fn start_member(
    world: &World,
    config: &Config,
    cluster: Option<String>,
    dir: &Path,
    own: &str,
) -> Result<Arc<Member>, StartError> {
    let options = MemberOptions {
        dir: dir.to_owned(),
        addr: own.to_owned(),
        cluster,
        clock: world.clock.clone(),
        entropy: world.entropy.clone(),
        disk: world.disk.clone(),
        threads: world.threads.clone(),
        dial: Dial::new(world.net.clone()).or_failing(),
        engine: if config.node.state_engine == "redb" { EngineKind::Redb } else { EngineKind::Sled },
        snapshot_every: config.node.snapshot_every,
        log_segment_bytes: config.node.log_segment_bytes,
        timing: config.timing(),
        generation: first_generation(world),
    };
    let member = Arc::new(Member::start(options).await.map_err(StartError::Member)?);
    stop_with(member.clone(), world);
    Ok(member)
}

/// The generation that a fresh cluster begins with (R16): the seconds of now are above those of every cluster
/// that was made before, so that a store which outlives its cluster takes the new one's tokens and no old
/// ones. No store says its largest generation yet; the built-in one begins empty with the cluster.
fn first_generation(world: &World) -> u32 {
    u32::try_from(world.clock.wall_ms() / 1_000).unwrap_or(u32::MAX).max(GENERATION)
}

/// A member that fails takes the process with it: it never carries on after a failed disk.
fn stop_with(member: Arc<Member>, world: &World) {
    let fatal = world.fatal.clone();
    let watch = async move {
        let why = member.failed().await;
        fatal(why);
    };
    world.io.spawn("member watch", Box::pin(watch));
}

/// Asks the members until one says which cluster it belongs to, which must be the one named.
async fn ask_cluster(world: &World, members: &[String], name: &str) -> Result<String, StartError> {
    let client = MetaClient::new(&options(world, String::new(), members.to_vec()));
    let mut waited = Duration::ZERO;
    loop {
        match client.status().await {
            Ok(status) if name.is_empty() || is_named(&status.cluster, name) => return Ok(status.cluster),
            Ok(status) => {
                let text = format!(
                    "the members {members:?} belong to cluster {}, cluster.id says {name:?}; fix one of them",
                    status.cluster
                );
                return Err(StartError::Member(MemberError::Refused(text)));
            }
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
