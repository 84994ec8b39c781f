//! A running node: what is inside, how it starts, how it leaves.
//!
//! - `builder`: what users say.
//! - `assemble`: how the parts are put together, on any World.
//! - `plane`: where its metadata and state live.
//! - `health`: when the node says that it is ready.
//! - `leave`: the graceful way out.

mod assemble;
mod builder;
mod error;
mod health;
mod leave;
mod plane;
mod stats;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use millet_core::{Caller, Key, NodeId};
use millet_directory::Directory;
use millet_runtime::{Hosted, Runtime};
use tokio_util::sync::CancellationToken;

pub use assemble::assemble;
pub use builder::{NodeBuilder, Plan};
pub use error::StartError;
pub use leave::Departure;
pub use plane::{Memory, init_cluster};
pub use stats::{Figures, Stats};

use crate::{
    adapters::{json::JsonCaller, launcher::Launcher, peer::Transport},
    config::Config,
    world::World,
};
use plane::Plane;

/// Where a node listens.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Addresses {
    /// Other nodes.
    pub peer: Option<SocketAddr>,
    /// Callers outside the cluster.
    pub api: Option<SocketAddr>,
    /// Health.
    pub admin: Option<SocketAddr>,
}

/// A node that runs in this process.
///
/// Dropping it is a crash: nothing is saved, nobody is told, its session expires. Leave with
/// [`Node::shutdown`].
pub struct Node {
    config: Config,
    world: World,
    addresses: Addresses,
    directory: Arc<Directory>,
    runtime: Arc<Runtime>,
    transport: Arc<Transport>,
    plane: Plane,
    caller: Arc<dyn Caller>,
    json: JsonCaller,
    api: assemble::Door,
    /// Listeners stop taking connections.
    stop: CancellationToken,
    leaving: CancellationToken,
    /// Who started this process, and would close its session after a crash.
    launcher: Option<Arc<Launcher>>,
    /// The runtimes that the node brought: the grains' and the network's.
    threads: Vec<tokio::runtime::Runtime>,
}

impl Node {
    /// Describes a node.
    pub fn builder() -> NodeBuilder {
        NodeBuilder::default()
    }

    /// A typed reference to a grain, wherever it lives.
    pub fn get<S: Hosted>(&self, key: impl Into<Key>) -> S::Ref {
        self.runtime.get::<S>(key)
    }

    /// Calls by name, for gateways and tools.
    pub fn caller(&self) -> Arc<dyn Caller> {
        self.caller.clone()
    }

    /// Calls by name with JSON.
    pub fn json(&self) -> &JsonCaller {
        &self.json
    }

    /// Makes a cluster of the members that the settings name, once; every other member must be running,
    /// and is waited for. Harmless when the cluster is made already.
    ///
    /// # Errors
    /// This node is no metadata member, or the members are not fresh.
    ///
    /// Cancel safety: safe to repeat.
    pub async fn form_cluster(&self) -> Result<(), StartError> {
        match self.plane.founding() {
            Some((member, members)) => Plane::form(&member, &members).await,
            None => Err(StartError::NoMember),
        }
    }

    /// The node's figures.
    pub fn stats(&self) -> Stats {
        Stats { runtime: self.runtime.clone(), member: self.plane.member().cloned() }
    }

    /// This node's id, kept in its data directory.
    pub fn id(&self) -> NodeId {
        self.plane.node
    }

    /// The settings in force.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Where it listens.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Finds and follows owners; for tools and tests.
    pub fn directory(&self) -> &Arc<Directory> {
        &self.directory
    }

    /// Hosts the grains; for tools and tests.
    pub fn runtime(&self) -> &Arc<Runtime> {
        &self.runtime
    }

    /// This node's metadata member, if it is one.
    pub fn member(&self) -> Option<&Arc<millet_raft_meta::Member>> {
        self.plane.member()
    }

    /// Whether the node has a valid session and its view has reached it: calls are answered.
    pub fn is_ready(&self) -> bool {
        health::is_ready(&self.directory)
    }

    /// Waits until [`Node::is_ready`]; says every few seconds in the log what it waits for.
    ///
    /// Cancel safety: may be dropped at any time.
    pub async fn ready(&self) {
        let mut waited = Duration::ZERO;
        while !self.is_ready() {
            tokio::time::sleep(READY_LOOK).await;
            waited += READY_LOOK;
            if waited.as_millis().is_multiple_of(READY_SAY.as_millis()) {
                tracing::warn!(node = %self.id(), ?waited, "no session yet: no metadata quorum answers");
            }
        }
    }
}

/// Between two looks whether the node is ready.
const READY_LOOK: Duration = Duration::from_millis(2);
/// How often waiting is logged.
const READY_SAY: Duration = Duration::from_secs(5);

impl Drop for Node {
    fn drop(&mut self) {
        self.stop.cancel();
        self.directory.stop();
        self.transport.close();
        self.plane.abandon(&self.world);
        // May be dropped within an async context: never block here.
        self.threads.drain(..).for_each(tokio::runtime::Runtime::shutdown_background);
    }
}
