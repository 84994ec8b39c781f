//! Puts a node together, on any World: the same steps in production and in the simulator.

use std::{path::Path, sync::Arc, time::Duration};

use millet_core::{NodeId, model::NodeInfo};
use millet_directory::{Deps, Directory, DirectoryConfig, KeeperSettings, Owners, Residents, TypeConfig};
use millet_runtime::{RuntimeBuilder, RuntimeDeps};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Router;

use super::{
    Addresses, Node, Plan, StartError,
    data_dir::DataDir,
    health,
    plane::{Memory, Plane},
};
use crate::{
    adapters::{
        caller::NodeCaller,
        identity::DirectoryIdentity,
        keeper, listen,
        peer::{Transport, TransportConfig},
    },
    config::Config,
    world::{Listener, World},
};

/// Open streams have this long to end when a listener stops.
const LISTENER_GRACE: Duration = Duration::from_millis(500);

/// Starts every part of a node. Runs on the runtime behind the world's spawner.
///
/// Cancel safety: dropping the future leaves parts running; it is not meant to be dropped.
pub async fn assemble(world: World, config: Config, plan: Plan) -> Result<Node, StartError> {
    if cfg!(panic = "abort") {
        return Err(StartError::PanicAbort);
    }
    config.check()?;
    let data_dir = if plan.in_memory { None } else { Some(open_data_dir(&world, &config)?) };
    let id = data_dir.as_ref().map_or_else(|| NodeId(world.entropy.next_u64().max(1)), DataDir::node);
    let ports = Ports::bind(&world, &config, plan.in_memory).await?;
    let addresses = ports.addresses;

    let transport = Transport::new(world.clone(), TransportConfig::new(config.cluster.id.clone(), id));
    let memory = plan.memory.unwrap_or_else(|| Memory::start(&world, &config));
    let (plane, link) = Plane::memory(&memory);
    let stop = CancellationToken::new();
    let leaving = CancellationToken::new();

    let deps = RuntimeDeps {
        clock: world.clock.clone(),
        spawner: world.spawner.clone(),
        entropy: world.entropy.clone(),
    };
    let builder = RuntimeBuilder::new(deps).store("default", plane.store.clone());
    let builder = plan.steps.into_iter().fold(builder, |builder, step| step(builder));
    let types: Vec<_> =
        builder.types().into_iter().map(|(decl, placement)| TypeConfig { decl, placement }).collect();
    let info = NodeInfo {
        id,
        name: if config.node.name.is_empty() { id.to_string() } else { config.node.name.clone() },
        peer_addr: advertised(&config.node.peer_advertise, addresses.peer),
        api_addr: advertised(&config.node.api_advertise, addresses.api),
        types: types.iter().map(|t| t.decl.clone()).collect(),
    };
    let directory = Directory::new(
        Deps {
            meta: plane.meta.clone(),
            peers: transport.clone(),
            shard_store: plane.store.clone(),
            clock: world.clock.clone(),
            spawner: world.spawner.clone(),
            entropy: world.entropy.clone(),
        },
        DirectoryConfig { node: id, types },
    );
    let owners: Arc<dyn Owners> = directory.clone();
    let runtime = builder.build(owners.clone())?;
    let residents: Arc<dyn Residents> = runtime.clone();
    directory.attach(residents.clone());
    transport.attach(Arc::new(DirectoryIdentity(Arc::downgrade(&directory))), Arc::downgrade(&residents));
    let caller = Arc::new(NodeCaller::new(owners, world.clock.clone()));

    if let Some(listener) = ports.peer {
        let router = listen::server().add_service(transport.service());
        serve(&world, "peer listener", router, listener, &stop);
    }
    if let Some(listener) = ports.admin {
        let (reporter, service) = tonic_health::server::health_reporter();
        let watching =
            health::report(Arc::downgrade(&directory), world.clock.clone(), reporter, leaving.clone());
        world.spawner.spawn("health", Box::pin(watching));
        serve(&world, "admin listener", listen::server().add_service(service), listener, &stop);
    }
    directory.start();
    let settings = KeeperSettings { ttl: config.ttl() };
    keeper::start(&world, &directory, info, settings, link, keeper::abort())
        .map_err(|source| StartError::System { what: "the keeper's thread", source })?;
    tracing::info!(node = %id, peer = ?addresses.peer, api = ?addresses.api, "node started");
    Ok(Node {
        id,
        config,
        world,
        addresses,
        directory,
        runtime,
        transport,
        plane,
        caller,
        stop,
        leaving,
        data_dir,
        threads: None,
    })
}

fn open_data_dir(world: &World, config: &Config) -> Result<DataDir, StartError> {
    DataDir::open(&*world.disk, &*world.entropy, Path::new(&config.node.data_dir), &config.cluster.id)
}

/// What others dial: what the settings say, else what was bound.
fn advertised(setting: &str, bound: Option<std::net::SocketAddr>) -> String {
    if setting.is_empty() { bound.map_or_else(String::new, |a| a.to_string()) } else { setting.to_owned() }
}

fn serve(
    world: &World,
    name: &'static str,
    router: Router,
    listener: Box<dyn Listener>,
    stop: &CancellationToken,
) {
    let stop = stop.clone().cancelled_owned();
    world.spawner.spawn(name, Box::pin(listen::serve(router, listener, stop, LISTENER_GRACE)));
}

/// The three listeners, bound before anything starts: a taken port stops the node early.
struct Ports {
    addresses: Addresses,
    peer: Option<Box<dyn Listener>>,
    admin: Option<Box<dyn Listener>>,
}

impl Ports {
    async fn bind(world: &World, config: &Config, in_memory: bool) -> Result<Self, StartError> {
        let mut ports = Self { addresses: Addresses::default(), peer: None, admin: None };
        let peer = if in_memory { "127.0.0.1:0" } else { config.node.peer_listen.as_str() };
        let (listener, addr) = listen::bind(&*world.net, "node.peer_listen", peer).await?;
        (ports.peer, ports.addresses.peer) = (Some(listener), Some(addr));
        if !in_memory && !config.node.admin_listen.is_empty() {
            let (listener, addr) =
                listen::bind(&*world.net, "node.admin_listen", &config.node.admin_listen).await?;
            (ports.admin, ports.addresses.admin) = (Some(listener), Some(addr));
        }
        Ok(ports)
    }
}
