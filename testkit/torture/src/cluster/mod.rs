//! The cluster under torture: its node processes, the proxies between them, and what each node last said.
//!
//! - `layout`: addresses and folders, in network namespaces or on loopback.
//! - `process`: one node's process over its lives.

mod layout;
mod process;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

pub use layout::{CLIENTS, Layout, MEMBERS, NODES, WORKERS};
pub use process::{Ending, Heard, Process};

use crate::{
    host::{
        Need,
        clocks::{self, Clocks},
        image::Image,
        netns, shim,
    },
    net::Links,
};

/// How long a node may take to be ready, on a machine that is busy.
pub const READY: Duration = Duration::from_secs(45);
/// How long a node may take to leave after SIGTERM: its drain limit and some.
const LEAVE: Duration = Duration::from_secs(35);
/// Between two looks at something that changes soon.
pub const LOOK: Duration = Duration::from_millis(5);
/// What a node said longer ago is not its state now.
const STALE: Duration = Duration::from_millis(600);

/// What the machine has, or what is missing for it.
pub struct Equipment {
    /// Network namespaces per node, with packet filters.
    pub netns: Need<()>,
    /// An ext4 image per member.
    pub images: Need<()>,
    /// The shim's library.
    pub shim: Need<PathBuf>,
    /// libfaketime.
    pub clocks: Need<PathBuf>,
}

impl Equipment {
    /// Looks, and compiles the shim into this folder. `room`: whether we have namespaces of our own.
    pub fn look(dir: &Path, room: &Need<()>) -> Self {
        let netns = room.clone().and_then(|()| crate::host::find("nft").map(drop));
        let images = room.clone().and_then(|()| Image::can());
        Self { netns, images, shim: shim::build(dir), clocks: clocks::library() }
    }
}

/// The node processes and everything around them.
pub struct Cluster {
    /// What the machine has.
    pub equipment: Equipment,
    /// The proxies.
    pub links: Links,
    nodes: Vec<Process>,
    images: Vec<Image>,
    apis: Vec<String>,
    members: BTreeMap<String, String>,
    starts: AtomicU32,
}

impl Cluster {
    /// Lays everything out in `dir`; no process is started yet.
    pub async fn new(dir: &Path, equipment: Equipment) -> Result<Self> {
        let apart = equipment.netns.is_ok();
        if apart {
            netns::make(NODES)?;
        }
        let layout = Layout::new(apart)?;
        let links = crate::net::Links::start(layout.routes()).await.context("starting the proxies")?;
        let mut images = Vec::new();
        if equipment.images.is_ok() {
            for i in MEMBERS {
                images.push(Image::make(dir.join(format!("{}.img", name(i))), dir.join(name(i)))?);
            }
        }
        let mut nodes = Vec::new();
        for i in 0..NODES {
            let spec = layout.spec(i, dir, &links);
            nodes.push(Process::new(i, spec, dir, apart)?);
        }
        let apis = WORKERS.map(|i| links.at((CLIENTS, i)).to_string()).collect();
        let member = |(i, addr)| (addr, links.at((CLIENTS, i)).to_string());
        let members = MEMBERS.zip(layout.members()).map(member).collect();
        Ok(Self { equipment, links, nodes, images, apis, members, starts: AtomicU32::new(1) })
    }

    /// Where clients connect: a proxy per worker, in the order of [`WORKERS`].
    pub fn apis(&self) -> &[String] {
        &self.apis
    }

    /// The members' addresses as they call themselves, and the proxies that lead to them.
    pub fn members(&self) -> &BTreeMap<String, String> {
        &self.members
    }

    /// One node's process.
    pub fn node(&self, i: usize) -> &Process {
        &self.nodes[i]
    }

    /// A member's image, where there are any.
    pub fn image(&self, member: usize) -> Option<&Image> {
        self.images.get(member)
    }

    /// Starts a node (again).
    pub fn start(&self, i: usize, clocks: Clocks) -> Result<()> {
        let start = self.starts.fetch_add(1, Ordering::Relaxed);
        self.nodes[i].start(clocks, start, &self.equipment)?;
        self.links.set_up(i, true);
        Ok(())
    }

    /// Waits until a node is ready.
    pub async fn until_ready(&self, i: usize) -> Result<()> {
        let until = Instant::now() + READY;
        while !self.nodes[i].heard().ready {
            if let Some(status) = self.nodes[i].ended() {
                bail!(
                    "{} ended ({status}) before it was ready; its log:\n{}",
                    name(i),
                    self.nodes[i].log_tail()
                );
            }
            ensure!(
                Instant::now() < until,
                "{} is not ready after {READY:?}; its log:\n{}",
                name(i),
                self.nodes[i].log_tail()
            );
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Starts these nodes where they are not running, and waits until all of them are ready.
    pub async fn bring_up(&self, nodes: impl IntoIterator<Item = usize> + Clone) -> Result<()> {
        for i in nodes.clone() {
            if !self.nodes[i].is_running() {
                self.start(i, self.nodes[i].clocks())?;
            }
        }
        for i in nodes {
            self.until_ready(i).await?;
        }
        Ok(())
    }

    /// `kill -9`, and waits until it is gone.
    pub async fn kill(&self, i: usize) -> Result<()> {
        self.nodes[i].kill()?;
        self.until_gone(i, Duration::from_secs(10)).await
    }

    /// SIGTERM, and waits until the node has left.
    pub async fn terminate(&self, i: usize) -> Result<Duration> {
        let start = Instant::now();
        self.nodes[i].expect_end();
        self.nodes[i].signal(rustix::process::Signal::TERM)?;
        self.until_gone(i, LEAVE).await?;
        Ok(start.elapsed())
    }

    /// Waits for a process to end, at most `limit`.
    pub async fn until_gone(&self, i: usize, limit: Duration) -> Result<()> {
        let until = Instant::now() + limit;
        while self.nodes[i].is_running() {
            ensure!(Instant::now() < until, "{} has not ended within {limit:?}", name(i));
            tokio::time::sleep(LOOK).await;
        }
        self.links.set_up(i, false);
        Ok(())
    }

    /// The member that leads the metadata, as the members say now.
    pub fn leader(&self) -> Option<usize> {
        MEMBERS
            .filter(|i| self.nodes[*i].is_running())
            .map(|i| (i, self.nodes[i].heard()))
            .filter(|(_, h)| h.stats.leads && h.at.is_some_and(|at| at.elapsed() < STALE))
            .max_by_key(|(_, h)| h.stats.term)
            .map(|(i, _)| i)
    }

    /// Waits until some member leads.
    pub async fn until_led(&self) -> Result<usize> {
        let until = Instant::now() + READY;
        loop {
            if let Some(leader) = self.leader() {
                return Ok(leader);
            }
            ensure!(Instant::now() < until, "no metadata leader within {READY:?}");
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Looks after processes that have ended by themselves; says which have.
    pub fn reap(&self) -> Vec<Ending> {
        let mut endings = Vec::new();
        for (i, node) in self.nodes.iter().enumerate() {
            if let Some(ending) = node.reap() {
                self.links.set_up(i, false);
                endings.push(ending);
            }
        }
        endings
    }

    /// Ends every process.
    pub async fn stop(&self) {
        for node in &self.nodes {
            // One that has ended already needs no end.
            let _ = node.kill();
        }
        for i in 0..NODES {
            let _ = self.until_gone(i, Duration::from_secs(10)).await;
        }
    }

    /// Every position.
    pub fn all(&self) -> std::ops::Range<usize> {
        0..NODES
    }
}

/// A node's name, for people and files.
pub fn name(i: usize) -> String {
    if i < MEMBERS.end { format!("m{}", i + 1) } else { format!("w{}", i - MEMBERS.end + 1) }
}

/// A shared cluster.
pub type Shared = Arc<Cluster>;
