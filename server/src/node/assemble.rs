//! Puts a node together, on any World: the same steps in production and in the simulator.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use millet_core::{Caller, SessionLease, limits, model::NodeInfo};
use millet_directory::{Deps, Directory, DirectoryConfig, KeeperSettings, Owners, Residents, TypeConfig};
use millet_gateway::{Api, Interfaces};
use millet_runtime::{Runtime, RuntimeBuilder, RuntimeDeps};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Router;

use super::{
    Addresses, Node, Plan, StartError,
    builder::Step,
    health,
    plane::{MakeLink, Plane},
};
use crate::{
    adapters::{
        caller::NodeCaller,
        identity::DirectoryIdentity,
        json::JsonCaller,
        keeper,
        launcher::{Launcher, Reports},
        listen,
        peer::{Transport, TransportConfig},
        shard_stores::ShardStores,
    },
    config::Config,
    world::{Listener, World},
};

/// Open streams have this long to end when a listener stops.
const LISTENER_GRACE: Duration = Duration::from_millis(500);

/// Starts every part of a node. Runs on the runtime behind the world's `io`. A fresh member of a cluster
/// that is not made yet serves, and goes on by itself once it is.
///
/// Cancel safety: dropping the future leaves parts running; it is not meant to be dropped.
pub async fn assemble(world: World, config: Config, plan: Plan) -> Result<Node, StartError> {
    if cfg!(panic = "abort") {
        return Err(StartError::PanicAbort);
    }
    config.check()?;
    let (stop, leaving) = (CancellationToken::new(), CancellationToken::new());
    let api = Door::default();
    let Plan { steps, memory, in_memory, launcher } = plan;
    // What is in memory ends with the process.
    let launcher = launcher.filter(|_| !in_memory);
    let ports = Ports::bind(&world, &config, in_memory).await?;
    let addresses = ports.addresses;
    let own = advertised(&config.node.peer_advertise, addresses.peer);
    let plane = Plane::open(&world, &config, in_memory.then_some(memory), &own).await?;
    let transport = Transport::new(world.clone(), TransportConfig::new(plane.node, world.threads.cores()));
    let outside = advertised(&config.node.api_advertise, addresses.api);
    let parts = Parts::build(&world, &config, steps, &plane, &transport, (own, outside))?;

    let serve = |name, router, listener| serve(&world, name, router, listener, &stop);
    let mut health = Vec::new();
    if let Some(listener) = ports.peer {
        serve(
            "peer listener",
            plane.serve(listen::inner_server().add_service(transport.service())),
            listener,
        );
    }
    if let Some(listener) = ports.api {
        let service = Api::new(
            parts.interfaces.clone(),
            parts.caller.clone(),
            world.clock.clone(),
            world.entropy.clone(),
        );
        let (routes, reporter) = millet_gateway::router(service, true)?;
        health.push(health::Reporter::Api(reporter));
        let router = listen::server().add_routes(routes);
        world.io.spawn("api listener", Box::pin(api.clone().serve(router, listener)));
    } else {
        api.closed.cancel();
    }
    if let Some(listener) = ports.admin {
        let (reporter, service) = tonic_health::server::health_reporter();
        health.push(health::Reporter::Admin(reporter));
        serve("admin listener", plane.serve_admin(listen::inner_server().add_service(service)), listener);
    }
    let watching =
        health::report(Arc::downgrade(&parts.directory), world.clock.clone(), health, leaving.clone());
    world.io.spawn("health", Box::pin(watching));

    let joining = plane.join(&world, &config);
    let finish = Finish {
        world: world.clone(),
        ttl: config.ttl(),
        directory: parts.directory.clone(),
        runtime: parts.runtime.clone(),
        transport: transport.clone(),
        info: parts.info,
        launcher: launcher.clone().map(|launcher| (launcher, plane.members().to_vec())),
    };
    let known = plane.member().is_none_or(|m| m.membership().is_some()) || config.is_alone();
    if known && config.roles()?.contains(&crate::config::Role::Meta) || in_memory {
        let (cluster, link) = joining.await?;
        finish.go(cluster, link)?;
    } else {
        let (stopped, fatal) = (stop.clone(), world.fatal.clone());
        world.io.spawn(
            "joining the cluster",
            Box::pin(async move {
                let joined = tokio::select! {
                    joined = joining => joined,
                    () = stopped.cancelled() => return,
                };
                if let Err(e) = joined.and_then(|(cluster, link)| finish.go(cluster, link)) {
                    fatal(e.to_string());
                }
            }),
        );
    }
    tracing::info!(node = %plane.node, peer = ?addresses.peer, api = ?addresses.api, "node started");
    Ok(Node {
        config,
        world,
        addresses,
        directory: parts.directory,
        runtime: parts.runtime,
        transport,
        plane,
        caller: parts.caller,
        json: parts.json,
        api,
        stop,
        leaving,
        launcher,
        threads: Vec::new(),
    })
}

/// The listener for callers outside: it closes before the node's session does, and calls that are under
/// way may end.
#[derive(Clone, Default)]
pub(super) struct Door {
    closing: CancellationToken,
    closed: CancellationToken,
}

/// Calls under way when the door closes have this long, wherever their grains are: as long as a call may
/// take unless its caller says otherwise. Longer ones are `Unknown` to their callers.
const API_GRACE: Duration = limits::DEFAULT_DEADLINE;

impl Door {
    async fn serve(self, router: Router, listener: Box<dyn Listener>) {
        // Also if serving panics: whoever waits for the door must not wait for ever.
        let _closed = self.closed.drop_guard();
        listen::serve("api", router, listener, self.closing.cancelled_owned(), API_GRACE).await;
    }

    /// Takes no more calls, and waits for those under way.
    pub(super) async fn close(&self) {
        self.closing.cancel();
        self.closed.cancelled().await;
    }
}

/// What runs grains and finds them.
struct Parts {
    directory: Arc<Directory>,
    runtime: Arc<Runtime>,
    caller: Arc<dyn Caller>,
    interfaces: Arc<Interfaces>,
    json: JsonCaller,
    info: NodeInfo,
}

impl Parts {
    fn build(
        world: &World,
        config: &Config,
        steps: Vec<Step>,
        plane: &Plane,
        transport: &Arc<Transport>,
        (peer_addr, api_addr): (String, String),
    ) -> Result<Self, StartError> {
        let deps = RuntimeDeps {
            clock: world.clock.clone(),
            spawner: world.spawner.clone(),
            entropy: world.entropy.clone(),
        };
        let builder = RuntimeBuilder::new(deps).store("default", plane.store.clone());
        let builder = steps.into_iter().fold(builder, |builder, step| step(builder));
        let stores = builder.stores().into_iter().map(|(_, store)| store);
        let types = builder.types().into_iter().map(|(decl, placement)| TypeConfig { decl, placement });
        let types: Vec<_> = types.collect();
        let name = &config.node.name;
        let info = NodeInfo {
            id: plane.node,
            name: if name.is_empty() { plane.node.to_string() } else { name.clone() },
            peer_addr,
            api_addr,
            types: types.iter().map(|t| t.decl.clone()).collect(),
        };
        let directory = Directory::new(
            Deps {
                meta: plane.meta.clone(),
                peers: transport.clone(),
                shard_store: Arc::new(ShardStores::new(plane.store.clone(), stores)),
                clock: world.clock.clone(),
                spawner: world.spawner.clone(),
                entropy: world.entropy.clone(),
            },
            DirectoryConfig { node: plane.node, types },
        );
        let owners: Arc<dyn Owners> = directory.clone();
        let caller: Arc<dyn Caller> = Arc::new(NodeCaller::new(owners.clone(), world.clock.clone()));
        let interfaces = Arc::new(Interfaces::new(builder.services())?);
        let (clock, entropy) = (world.clock.clone(), world.entropy.clone());
        let json =
            JsonCaller(millet_gateway::JsonCaller::new(interfaces.clone(), caller.clone(), clock, entropy));
        let runtime = builder.resource(json.clone()).build(owners)?;
        directory.attach(runtime.clone());
        Ok(Self { directory, runtime, caller, interfaces, json, info })
    }
}

/// The last steps, once the cluster is known.
struct Finish {
    world: World,
    ttl: Duration,
    directory: Arc<Directory>,
    runtime: Arc<Runtime>,
    transport: Arc<Transport>,
    info: NodeInfo,
    /// With the metadata members.
    launcher: Option<(Arc<Launcher>, Vec<String>)>,
}

impl Finish {
    fn go(self, cluster: String, link: MakeLink) -> Result<(), StartError> {
        let residents: Arc<dyn Residents> = self.runtime;
        let own = &self.info.peer_addr;
        let reports = self.launcher.map(|(l, members)| Reports::new(l, cluster.clone(), &members, own));
        let begins = move |session: &SessionLease| reports.iter().for_each(|r| r.begins(session));
        let identity = Arc::new(DirectoryIdentity(Arc::downgrade(&self.directory)));
        self.transport.attach(cluster, identity, Arc::downgrade(&residents));
        self.directory.start();
        let settings = KeeperSettings { ttl: self.ttl };
        keeper::start(&self.world, &self.directory, self.info, settings, link, begins)
            .map_err(|source| StartError::System { what: "the keeper's thread", source })
    }
}

/// What others dial: what the settings say, else what was bound.
fn advertised(setting: &str, bound: Option<SocketAddr>) -> String {
    if setting.is_empty() { bound.map_or_else(String::new, |a| a.to_string()) } else { setting.to_owned() }
}

fn serve(
    world: &World,
    name: &'static str,
    router: Router<listen::Inner>,
    listener: Box<dyn Listener>,
    stop: &CancellationToken,
) {
    let stop = stop.clone().cancelled_owned();
    world.io.spawn(name, Box::pin(listen::serve(name, router, listener, stop, LISTENER_GRACE)));
}

/// The three listeners, bound before anything starts: a taken port stops the node early.
struct Ports {
    addresses: Addresses,
    peer: Option<Box<dyn Listener>>,
    api: Option<Box<dyn Listener>>,
    admin: Option<Box<dyn Listener>>,
}

impl Ports {
    async fn bind(world: &World, config: &Config, in_memory: bool) -> Result<Self, StartError> {
        let mut ports = Self { addresses: Addresses::default(), peer: None, api: None, admin: None };
        let (net, node) = (&*world.net, &config.node);
        let peer = if in_memory { "127.0.0.1:0" } else { node.peer_listen.as_str() };
        let (listener, addr) = listen::bind(net, "node.peer_listen", peer).await?;
        (ports.peer, ports.addresses.peer) = (Some(listener), Some(addr));
        if !in_memory && !node.api_listen.is_empty() {
            let (listener, addr) = listen::bind(net, "node.api_listen", &node.api_listen).await?;
            (ports.api, ports.addresses.api) = (Some(listener), Some(addr));
        }
        if !in_memory && !node.admin_listen.is_empty() {
            let (listener, addr) = listen::bind(net, "node.admin_listen", &node.admin_listen).await?;
            (ports.admin, ports.addresses.admin) = (Some(listener), Some(addr));
        }
        Ok(ports)
    }
}
