//! The node under attack, as its attackers see it: three addresses and the memory of its process.

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use millet_core::{NodeId, SessionId};

/// A running node; it ends with the value.
pub struct Target {
    child: Child,
    pub peer: SocketAddr,
    pub api: SocketAddr,
    pub admin: SocketAddr,
    pub node: NodeId,
    pub session: SessionId,
    pub cluster: String,
    _dir: tempfile::TempDir,
}

impl Target {
    /// Starts this program once more, as the node.
    pub fn start() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let me = std::env::current_exe().expect("this program");
        let mut child = Command::new(me)
            .arg("--node")
            .arg(dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts");
        let out = BufReader::new(child.stdout.take().expect("piped"));
        let line =
            out.lines().map_while(Result::ok).find(|l| l.starts_with("NODE ")).expect("the node starts");
        let words: Vec<&str> = line.split(' ').skip(1).collect();
        let [peer, api, admin, node, session, cluster] = words[..] else { panic!("{line}") };
        let addr = |text: &str| text.parse().expect("an address");
        let number = |text: &str| text.parse().expect("a number");
        Self {
            child,
            peer: addr(peer),
            api: addr(api),
            admin: addr(admin),
            node: NodeId(number(node)),
            session: SessionId(number(session)),
            cluster: cluster.to_owned(),
            _dir: dir,
        }
    }

    /// Its ports by name.
    pub fn ports(&self) -> [(&'static str, SocketAddr); 3] {
        [("api", self.api), ("peer", self.peer), ("admin", self.admin)]
    }

    /// Whether the process still runs.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Watches the memory of the process until the value is dropped.
    pub fn watch(&self) -> Memory {
        Memory::watch(self.child.id())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The most that the process held since [`Target::watch`].
pub struct Memory {
    start: u64,
    most: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

/// Between two looks.
const LOOK: Duration = Duration::from_millis(10);

impl Memory {
    fn watch(pid: u32) -> Self {
        let start = resident(pid);
        let (most, stop) = (Arc::new(AtomicU64::new(start)), Arc::new(AtomicBool::new(false)));
        let memory = Self { start, most: most.clone(), stop: stop.clone() };
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                most.fetch_max(resident(pid), Ordering::Relaxed);
                // tidy: sleep: the pace of a sampler
                std::thread::sleep(LOOK);
            }
        });
        memory
    }

    /// How much it grew, in KiB.
    pub fn growth(&self) -> u64 {
        self.most.load(Ordering::Relaxed).saturating_sub(self.start)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Resident memory in KiB; 0 for a process that is gone.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    line.and_then(|l| l.split_whitespace().next()).and_then(|n| n.parse().ok()).unwrap_or(0)
}
