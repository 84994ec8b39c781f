//! The demo's node processes, each under a launcher if asked for: start, wait for their lines, kill, restart.
//! Every process started here is ended here.

use std::{
    collections::HashSet,
    net::TcpListener,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use parking_lot::Mutex;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use crate::node::Line;

/// How long a node may take to be ready.
const READY: Duration = Duration::from_secs(30);
/// How long a node may take to leave after SIGTERM.
const LEAVE: Duration = Duration::from_secs(30);

/// What the nodes have said about themselves.
#[derive(Default)]
pub struct Heard {
    /// Sessions each node has had.
    pub sessions: Vec<HashSet<u64>>,
    /// Whether the node is ready now.
    pub ready: Vec<bool>,
    pub activations: Vec<u64>,
    /// The node processes, which are not our children where they have launchers.
    processes: Vec<Option<OwnedFd>>,
    pub fenced: Vec<u64>,
    pub leases: u64,
    /// The position of the metadata leader, as the nodes last said.
    pub leader: Option<usize>,
    /// Ends of sessions as nodes applied them: session, boot-clock nanoseconds.
    pub ended: Vec<(u64, u64)>,
}

/// The nodes of one demo.
pub struct Cluster {
    dir: PathBuf,
    peers: Vec<String>,
    apis: Vec<String>,
    /// The nodes, or their launchers.
    children: Vec<Option<Child>>,
    launcher: bool,
    /// Launchers of nodes that were killed: each closes its node's session, then ends.
    bereft: Vec<Child>,
    pub heard: Arc<Mutex<Heard>>,
    pub started: Instant,
}

impl Cluster {
    /// Picks free ports and starts `count` nodes, which form a new cluster.
    pub fn start(dir: &Path, count: usize, launcher: bool) -> Result<Self> {
        let ports = free_ports(2 * count)?;
        let at = |p: &u16| format!("127.0.0.1:{p}");
        let mut cluster = Self {
            dir: dir.to_owned(),
            peers: ports[..count].iter().map(at).collect(),
            apis: ports[count..].iter().map(at).collect(),
            children: Vec::new(),
            launcher,
            bereft: Vec::new(),
            heard: Arc::new(Mutex::new(Heard {
                sessions: vec![HashSet::new(); count],
                ready: vec![false; count],
                activations: vec![0; count],
                processes: (0..count).map(|_| None).collect(),
                fenced: vec![0; count],
                ..Heard::default()
            })),
            started: Instant::now(),
        };
        cluster.children.resize_with(count, || None);
        for i in 0..count {
            cluster.spawn(i)?;
        }
        Ok(cluster)
    }

    /// Starts (again) the node at this position, with the same folder and ports.
    pub fn spawn(&mut self, i: usize) -> Result<()> {
        let exe = std::env::current_exe().context("finding this program's own file")?;
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.join(format!("node{}.log", i + 1)))
            .context("creating the node's log file")?;
        let mut command = Command::new(&exe);
        if self.launcher {
            command.args(["run", "--"]).arg(&exe);
        }
        let mut child = command
            .arg("node")
            .args(["--name", &format!("n{}", i + 1)])
            .args(["--dir".as_ref(), self.dir.join(format!("n{}", i + 1)).as_os_str()])
            .args(["--peer", &self.peers[i], "--api", &self.apis[i]])
            .args(["--members", &self.peers.join(",")])
            .args((i == 0).then_some("--init"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .context("starting a node process")?;
        let out = child.stdout.take().context("the node's output is piped")?;
        tokio::spawn(listen(i, out, self.heard.clone(), self.apis.clone()));
        self.children[i] = Some(child);
        Ok(())
    }

    /// Addresses for callers.
    pub fn apis(&self) -> &[String] {
        &self.apis
    }

    /// Waits until the node at this position says it is ready.
    pub async fn until_ready(&mut self, i: usize) -> Result<()> {
        let until = Instant::now() + READY;
        while !self.heard.lock().ready[i] {
            if let Some(child) = &mut self.children[i]
                && let Some(status) = child.try_wait()?
            {
                bail!("node {} ended ({status}) before it was ready; its log:\n{}", i + 1, self.log_tail(i));
            }
            ensure!(
                Instant::now() < until,
                "node {} is not ready after {READY:?}; its log:\n{}",
                i + 1,
                self.log_tail(i)
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// `kill -9`.
    pub async fn kill(&mut self, i: usize) -> Result<()> {
        let mut child = self.children[i].take().context("the node is running")?;
        if self.launcher {
            self.end_process(i)?;
            self.bereft.push(child);
        } else {
            child.start_kill()?;
            child.wait().await?;
        }
        self.gone(i);
        Ok(())
    }

    /// `kill -9` of the node itself: its launcher sees the end.
    fn end_process(&self, i: usize) -> Result<()> {
        let heard = self.heard.lock();
        let process = heard.processes[i].as_ref().context("the node has said its process")?;
        Ok(pidfd_send_signal(process, Signal::KILL)?)
    }

    /// SIGTERM, to this very process; a launcher passes it on.
    pub fn terminate(&mut self, i: usize) -> Result<()> {
        let child = self.children[i].as_ref().context("the node is running")?;
        let pid = child.id().and_then(|p| i32::try_from(p).ok()).and_then(Pid::from_raw);
        kill_process(pid.context("the node has a pid")?, Signal::TERM)?;
        Ok(())
    }

    /// Waits for a node that was told to leave.
    pub async fn until_gone(&mut self, i: usize) -> Result<()> {
        if let Some(child) = self.children[i].as_mut() {
            let status = tokio::time::timeout(LEAVE, child.wait())
                .await
                .with_context(|| format!("node {} has not left after {LEAVE:?}", i + 1))??;
            ensure!(status.success(), "node {} left with {status}; its log:\n{}", i + 1, self.log_tail(i));
        }
        self.gone(i);
        Ok(())
    }

    /// Ends every node.
    pub async fn stop(&mut self) {
        for child in self.children.iter_mut().flatten().chain(&mut self.bereft) {
            // A process that has ended already needs no end.
            let _ = child.start_kill();
            let _ = child.wait().await;
        }
        self.end_processes();
    }

    /// Nodes outlive launchers that are killed.
    fn end_processes(&self) {
        for process in self.heard.lock().processes.iter().flatten() {
            let _ = pidfd_send_signal(process, Signal::KILL);
        }
    }

    fn gone(&mut self, i: usize) {
        self.children[i] = None;
        self.heard.lock().ready[i] = false;
    }

    fn log_tail(&self, i: usize) -> String {
        let text = std::fs::read_to_string(self.dir.join(format!("node{}.log", i + 1))).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.end_processes();
    }
}

/// Ports that were free a moment ago.
fn free_ports(count: usize) -> Result<Vec<u16>> {
    let held: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    Ok(held.iter().map(|l| l.local_addr().map(|a| a.port())).collect::<Result<_, _>>()?)
}

/// Reads one node's lines until it ends.
async fn listen(i: usize, out: tokio::process::ChildStdout, heard: Arc<Mutex<Heard>>, apis: Vec<String>) {
    let mut lines = BufReader::new(out).lines();
    while let Ok(Some(text)) = lines.next_line().await {
        let Ok(line) = serde_json::from_str::<Line>(&text) else { continue };
        let mut h = heard.lock();
        match line {
            Line::Started { pid } => {
                let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
                h.processes[i] = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
            }
            Line::Ready { session } => {
                h.sessions[i].insert(session);
                h.ready[i] = true;
            }
            Line::Stats { session, activations, fenced, leases, leader_api } => {
                h.sessions[i].insert(session);
                h.activations[i] = activations;
                h.fenced[i] = fenced;
                if let Some(leases) = leases {
                    h.leases = leases;
                }
                if let Some(leader) = leader_api.and_then(|l| apis.iter().position(|a| *a == l)) {
                    h.leader = Some(leader);
                }
            }
            Line::Ended { session, boot_ns } => h.ended.push((session, boot_ns)),
        }
    }
    heard.lock().ready[i] = false;
}
