//! Puts a node together, on any World: the same steps in production and in the simulator.

use std::{sync::Arc, time::Duration};

use millet_core::model::NodeInfo;
use millet_directory::{Deps, Directory, DirectoryConfig, KeeperSettings, Owners, Residents, TypeConfig};
use millet_runtime::{RuntimeBuilder, RuntimeDeps};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Router;

use super::{Addresses, Node, Plan, StartError, health, plane::Ground};
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

/// Starts every part of a node. Runs on the runtime behind the world's `io`. Takes as long as it takes
/// to learn which cluster this is: at once, but for a fresh member before `init`.
///
/// Cancel safety: dropping the future leaves parts running; it is not meant to be dropped.
pub async fn assemble(world: World, config: Config, plan: Plan) -> Result<Node, StartError> {
    if cfg!(panic = "abort") {
        return Err(StartError::PanicAbort);
    }
    config.check()?;
    let stop = CancellationToken::new();
    let leaving = CancellationToken::new();
    let Plan { steps, memory, in_memory } = plan;
    let ports = Ports::bind(&world, &config, in_memory).await?;
    let addresses = ports.addresses;
    let own = advertised(&config.node.peer_advertise, addresses.peer);

    let ground = Ground::open(&world, &config, in_memory.then_some(memory), own.clone()).await?;
    let id = ground.node();
    let transport = Transport::new(world.clone(), TransportConfig::new(id));
    if let Some(listener) = ports.peer {
        let router = ground.serve(listen::server().add_service(transport.service()));
        serve(&world, "peer listener", router, listener, &stop);
    }
    let (plane, link) = ground.join(&world, &config).await?;

    let deps = RuntimeDeps {
        clock: world.clock.clone(),
        spawner: world.spawner.clone(),
        entropy: world.entropy.clone(),
    };
    let builder = RuntimeBuilder::new(deps).store("default", plane.store.clone());
    let builder = steps.into_iter().fold(builder, |builder, step| step(builder));
    let types: Vec<_> =
        builder.types().into_iter().map(|(decl, placement)| TypeConfig { decl, placement }).collect();
    let info = NodeInfo {
        id,
        name: if config.node.name.is_empty() { id.to_string() } else { config.node.name.clone() },
        peer_addr: own,
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
    let identity = Arc::new(DirectoryIdentity(Arc::downgrade(&directory)));
    transport.attach(plane.cluster.clone(), identity, Arc::downgrade(&residents));
    let caller = Arc::new(NodeCaller::new(owners, world.clock.clone()));

    if let Some(listener) = ports.admin {
        let (reporter, service) = tonic_health::server::health_reporter();
        let watching =
            health::report(Arc::downgrade(&directory), world.clock.clone(), reporter, leaving.clone());
        world.io.spawn("health", Box::pin(watching));
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
        threads: Vec::new(),
    })
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
    world.io.spawn(name, Box::pin(listen::serve(router, listener, stop, LISTENER_GRACE)));
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
