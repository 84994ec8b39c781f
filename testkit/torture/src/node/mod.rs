//! One node process: the production assembly on the real world, except that its connections go through
//! the driver's proxies.

pub mod routes;

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use millet::{
    Node,
    config::Config,
    world::{OsClock, RealDisk, World},
};
use millet_core::Clock;
use millet_workload::{Host, install};

use crate::{
    probe::Probe,
    spec::{LOOK_MS, Line, NodeSpec, Stats},
};

/// Threads that serve the network, as in production.
const IO_THREADS: usize = 2;

/// Runs the node that this file describes until SIGTERM.
pub fn run(file: &Path) -> Result<()> {
    // The driver may end in any way: no node outlives it.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .context("asking to end with the driver")?;
    let text = std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    let spec: NodeSpec = serde_json::from_str(&text).with_context(|| format!("in {}", file.display()))?;
    let threads = |name| {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.enable_all().thread_name(name);
        builder
    };
    let grains = threads("millet-grains").build()?;
    let io = threads("millet-io").worker_threads(IO_THREADS).build()?;
    let mut world = World::real(grains.handle().clone(), io.handle().clone(), Arc::new(RealDisk));
    world.net = Arc::new(routes::Routed::new(spec.routes.clone()));
    io.block_on(serve(spec, world))
}

async fn serve(spec: NodeSpec, world: World) -> Result<()> {
    let mut builder = Node::builder().config(config(&spec));
    let host = Host::new(spec.start);
    if !spec.member {
        builder = install(builder.grain::<Probe>(), &host);
    }
    let io = tokio::runtime::Handle::current();
    let node = io.spawn(builder.launch_in(world)).await??;
    if spec.init {
        node.form_cluster().await?;
    }
    host.started(&node);
    let node = Arc::new(node);
    let watched = node.clone();
    let figures = io.spawn(async move {
        loop {
            say(&Line::Stats(figures(&watched)));
            tokio::time::sleep(Duration::from_millis(LOOK_MS)).await;
        }
    });
    node.ready().await;
    let cluster = node.member().and_then(|m| m.membership()).map_or_else(String::new, |m| m.cluster);
    say(&Line::Ready { session: node.directory().session().map_or(0, |s| s.id().0), cluster });
    until_told().await?;
    figures.abort();
    // The task's clone goes with it.
    let _ = figures.await;
    if let Some(node) = Arc::into_inner(node) {
        node.shutdown().await;
    }
    Ok(())
}

async fn until_told() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    signal(SignalKind::terminate())?.recv().await;
    Ok(())
}

fn config(spec: &NodeSpec) -> Config {
    let mut config = Config::default();
    config.cluster.id = "torture".into();
    config.node.name = spec.name.clone();
    config.node.roles = vec![if spec.member { "meta" } else { "worker" }.into()];
    config.node.data_dir = spec.dir.display().to_string();
    config.node.peer_listen = spec.peer.clone();
    config.node.api_listen = spec.api.clone();
    config.node.admin_listen = spec.admin.clone();
    config.node.members = spec.members.clone();
    config
}

fn figures(node: &Node) -> Stats {
    let now = node.stats().now();
    let clock = OsClock;
    let session = node.directory().session();
    let status = node.member().and_then(|m| m.status());
    let meta = status.as_ref().and_then(|s| s.groups.iter().find(|g| g.group == 0));
    Stats {
        session: session.as_ref().map_or(0, |s| s.id().0),
        valid: node.directory().valid_session().is_some(),
        activations: now.activations,
        fenced: now.fenced_outputs,
        leads: now.leads,
        term: meta.map_or(0, |g| g.term),
        member: status.as_ref().map_or(0, |s| s.member),
        leases: now.leases,
        boot_ns: clock.boottime().0,
        wall_ms: clock.wall_ms(),
    }
}

fn say(line: &Line) {
    use std::io::Write;
    let text = serde_json::to_string(line).expect("a line is plain data");
    // The driver may be gone: then so is this process in a moment.
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}
