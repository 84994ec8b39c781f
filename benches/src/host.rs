//! Nodes in processes of their own, and the settings of a node that joins them: workers host grains, members
//! keep metadata and state on disk, every write synced.

use std::{
    net::TcpListener,
    ops::Range,
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Error, Result, bail, ensure};
use millet::{Node, NodeBuilder, config::Config};
use tempfile::TempDir;

use crate::{
    child::{self, Child},
    counter::Count,
    drive,
    echo::Echoing,
    spread::Spread,
    stored::{Leased, LeasedCounters},
};

/// A member that hosts counters; forms the cluster if told to.
const NODE: &str = "node";
/// A node of leased counters that joins members, and asks its own when told to.
const WORKER: &str = "worker";
/// A node of the sweeps' grains that joins members.
const HOST: &str = "host";
/// Runs the rest of its words under a launcher.
const LAUNCH: &str = "launch";

/// A node that was away has a session again by then.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the child's words mean; runs until the parent ends.
pub fn run(words: &[&str]) -> Result<()> {
    match words {
        [NODE, dir, peer, members, first] => host(dir, peer, members, *first == "first"),
        [WORKER, dir, members] => work(dir, members),
        [HOST, dir, members] => {
            drop(child::end_with_parent());
            serve(joining(Path::new(dir), &list(members)).grain::<Spread>().grain::<Echoing>(), false)
        }
        #[cfg(target_os = "linux")]
        [LAUNCH, rest @ ..] => {
            let mut command = vec![std::env::current_exe()?.into_os_string(), "child".into()];
            command.extend(rest.iter().map(Into::into));
            std::process::exit(millet::launcher::run(&command)?.into())
        }
        _ => {
            bail!(
                "a child is told: {NODE} FOLDER PEER MEMBERS FIRST, {WORKER} or {HOST} FOLDER MEMBERS, {LAUNCH} …"
            )
        }
    }
}

fn list(members: &str) -> Vec<String> {
    members.split(',').filter(|m| !m.is_empty()).map(str::to_owned).collect()
}

fn host(dir: &str, peer: &str, members: &str, first: bool) -> Result<()> {
    drop(child::end_with_parent());
    let members = list(members);
    let builder = Node::builder().config(settings(Path::new(dir), peer, &members)).grain::<Count>();
    serve(builder, first && !members.is_empty())
}

/// Runs a node until the parent ends; says its address when it is ready.
fn serve(builder: NodeBuilder, forms: bool) -> Result<()> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?.block_on(async {
        let node = builder.launch().await?;
        if forms {
            node.form_cluster().await?;
        }
        node.ready().await;
        let peer = node.addresses().peer.context("a node with a peer port")?;
        child::say_ready(&peer.to_string())?;
        // The watch over the parent ends the process.
        std::future::pending().await
    })
}

/// Told `once FIRST COUNT CALLERS`, it asks so many leased counters from that key on, once each, and says how
/// many seconds that took; told `total FIRST COUNT`, it says what they hold together.
fn work(dir: &str, members: &str) -> Result<()> {
    let told = child::end_with_parent();
    let builder = joining(Path::new(dir), &list(members)).grain::<Leased>();
    drive::in_pool(async move {
        let node = Arc::new(builder.start().await?);
        let target = LeasedCounters(node);
        child::say_ready(&std::process::id().to_string())?;
        // Until the parent goes, which ends the process.
        while let Ok(line) = tokio::task::block_in_place(|| told.recv()) {
            let words: Vec<&str> = line.split(' ').collect();
            let number =
                |n: usize| words.get(n).context("a number is missing")?.parse::<u64>().map_err(Error::new);
            let (first, count) = (number(1)?, number(2)?);
            let answer = match words[0] {
                "once" => drive::once_each(&target, first..first + count, number(3)?).await?.as_secs_f64(),
                "total" => patient_total(&target, first..first + count).await? as f64,
                other => bail!("a worker cannot {other:?}"),
            };
            child::say_ready(&answer.to_string())?;
        }
        Ok(())
    })
}

/// What the counters hold together; a node that was away cannot tell before it has a session again.
async fn patient_total(target: &LeasedCounters, keys: Range<u64>) -> Result<u64> {
    let until = Instant::now() + PATIENCE;
    loop {
        match drive::total(target, keys.clone()).await {
            Err(_) if Instant::now() < until => tokio::task::yield_now().await,
            answer => return answer,
        }
    }
}

/// A node that joins these members and only hosts grains or only calls.
fn joining(dir: &Path, members: &[String]) -> NodeBuilder {
    let mut config = settings(dir, "127.0.0.1:0", members);
    config.node.roles = vec!["worker".into()];
    Node::builder().config(config)
}

fn settings(dir: &Path, peer: &str, members: &[String]) -> Config {
    let mut config = Config::default();
    config.node.data_dir = dir.display().to_string();
    config.node.peer_listen = peer.to_owned();
    config.node.api_listen = String::new();
    config.node.admin_listen = String::new();
    config.node.members = members.to_vec();
    config
}

/// Member processes of one cluster, with their folders.
pub struct Members {
    children: Vec<Child>,
    addresses: Vec<String>,
    folder: TempDir,
}

impl Members {
    /// One that needs no other.
    pub fn one() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let dir = folder.path().join("m0").display().to_string();
        let child = Child::start(&["child", NODE, &dir, "127.0.0.1:0", "", "first"])?;
        let address = child.said.first().context("it says its address")?.clone();
        Ok(Self { children: vec![child], addresses: vec![address], folder })
    }

    /// Three, each with a disk folder of its own.
    pub fn three() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let addresses = free_ports(3)?;
        let all = addresses.join(",");
        let mut children = Vec::new();
        for (n, address) in addresses.iter().enumerate() {
            let dir = folder.path().join(format!("m{n}")).display().to_string();
            let first = if n == 0 { "first" } else { "other" };
            children.push(Child::spawn(&["child", NODE, &dir, address, &all, first])?);
        }
        let children = children.into_iter().map(Child::ready).collect::<Result<_>>()?;
        Ok(Self { children, addresses, folder })
    }

    /// A node that joins them and only hosts grains or only calls.
    pub fn worker(&self, name: &str) -> NodeBuilder {
        joining(&self.folder.path().join(name), &self.addresses)
    }

    /// The same in a process of its own, with leased counters; perhaps under a launcher.
    pub fn worker_process(&self, name: &str, launcher: bool) -> Result<Child> {
        let dir = self.folder.path().join(name).display().to_string();
        let members = self.addresses.join(",");
        let words = ["child", LAUNCH, WORKER, &dir, &members];
        match launcher {
            true => Child::start(&words),
            false => Child::start(&[words[0], words[2], words[3], words[4]]),
        }
    }

    /// A node of the sweeps' grains, in a process of its own; it is ready when it says so.
    pub fn host_process(&self, name: &str) -> Result<Child> {
        let dir = self.folder.path().join(name).display().to_string();
        Child::spawn(&["child", HOST, &dir, &self.addresses.join(",")])
    }

    /// Their process ids.
    pub fn pids(&self) -> Vec<u32> {
        self.children.iter().map(Child::pid).collect()
    }
}

/// Sends a signal, by its name.
pub fn signal(pid: u32, name: &str) -> Result<()> {
    let status = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status()?;
    ensure!(status.success(), "kill -{name} {pid}: {status}");
    Ok(())
}

/// Ports that were free a moment ago.
pub fn free_ports(count: usize) -> Result<Vec<String>> {
    let held = (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<Vec<_>, _>>()?;
    let ports = held.iter().map(|l| Ok(l.local_addr()?.to_string())).collect::<Result<Vec<_>>>()?;
    ensure!(ports.len() == count, "{count} ports are bound");
    Ok(ports)
}
