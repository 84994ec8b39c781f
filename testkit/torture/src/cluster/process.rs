//! One node's process: started, told things, ended, started again.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Instant,
};

use anyhow::{Context, Result};
use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use super::{Equipment, name};
use crate::{
    host::{
        clocks::{Clocks, jump},
        netns,
        shim::Switch,
    },
    spec::{Line, NodeSpec, Stats},
};

/// What a node has said.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    /// In this life, it has had a valid session.
    pub ready: bool,
    /// Its last figures.
    pub stats: Stats,
    /// When they came.
    pub at: Option<Instant>,
    /// Sessions it has had, over all lives.
    pub sessions: BTreeSet<u64>,
    /// The cluster's id, from a member.
    pub cluster: String,
    /// Counts its lives.
    pub lives: u64,
}

/// A process that ended by itself.
#[derive(Debug)]
pub struct Ending {
    /// Which node.
    pub node: usize,
    /// How.
    pub status: ExitStatus,
    /// Whether a fault that was to end it is under way.
    pub expected: bool,
    /// The end of its log.
    pub log: String,
}

#[derive(Default)]
struct Life {
    child: Option<Child>,
    /// How the last one ended.
    ended: Option<ExitStatus>,
    /// Nobody has been told of its end yet.
    untold: bool,
    expected: bool,
    clocks: Clocks,
}

/// One node.
pub struct Process {
    index: usize,
    dir: PathBuf,
    apart: bool,
    spec: Mutex<NodeSpec>,
    life: Mutex<Life>,
    heard: Arc<Mutex<Heard>>,
    /// Fails its system calls.
    pub shim: Switch,
}

impl Process {
    /// A node that does not run yet. `apart`: it lives in its network namespace.
    pub fn new(index: usize, spec: NodeSpec, dir: &Path, apart: bool) -> Result<Self> {
        Ok(Self {
            index,
            dir: dir.to_owned(),
            apart,
            spec: Mutex::new(spec),
            life: Mutex::default(),
            heard: Arc::default(),
            shim: Switch::new(dir.join(format!("{}.shim", name(index))))?,
        })
    }

    fn file(&self, what: &str) -> PathBuf {
        self.dir.join(format!("{}.{what}", name(self.index)))
    }

    /// Starts it.
    pub fn start(&self, clocks: Clocks, start: u32, equipment: &Equipment) -> Result<()> {
        let file = self.file("spec.json");
        let spec = {
            let mut spec = self.spec.lock();
            spec.start = start;
            serde_json::to_vec_pretty(&*spec).context("writing a node's spec")?
        };
        std::fs::write(&file, spec).context("writing a node's spec")?;
        let mut command = self.command()?;
        command.arg("node").arg("--spec").arg(&file).envs(self.environment(clocks, equipment)?);
        let log = std::fs::File::options().create(true).append(true).open(self.file("log"))?;
        let mut life = self.life.lock();
        anyhow::ensure!(life.child.is_none(), "{} is running already", name(self.index));
        let lives = {
            let mut heard = self.heard.lock();
            (heard.ready, heard.stats, heard.at) = (false, Stats::default(), None);
            heard.lives += 1;
            heard.lives
        };
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {}", name(self.index)))?;
        let out = child.stdout.take().context("the node's output is piped")?;
        let pid = child.id();
        tokio::spawn(listen(out, self.heard.clone(), lives));
        *life = Life { child: Some(child), clocks, ..Life::default() };
        tracing::debug!(node = name(self.index), ?pid, ?clocks, "started");
        Ok(())
    }

    fn command(&self) -> Result<Command> {
        // Not by its name: a build may put another program there while this one runs.
        let own = format!("/proc/{}/exe", std::process::id());
        if !self.apart {
            return Ok(Command::new(own));
        }
        // Unlike `ip netns exec`, this makes no mount namespace, which would keep images mounted.
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}/{}", netns::NAMES, netns::name(self.index))).arg(own);
        Ok(command)
    }

    fn environment(&self, clocks: Clocks, equipment: &Equipment) -> Result<BTreeMap<&'static str, String>> {
        let mut all = BTreeMap::new();
        if let Ok(library) = &equipment.clocks {
            let file = self.file("clock");
            jump(&file, 0)?;
            all.extend(clocks.environment(library, &file));
        }
        if let Ok(library) = &equipment.shim {
            all.insert("MILLET_SHIM", self.shim.path().display().to_string());
            let preload = all.entry("LD_PRELOAD").or_default();
            *preload = format!("{} {preload}", library.display()).trim().to_owned();
        }
        Ok(all)
    }

    /// What other nodes call it.
    pub fn peer(&self) -> String {
        self.spec.lock().peer.clone()
    }

    /// Where administrators reach it.
    pub fn admin(&self) -> String {
        self.spec.lock().admin.clone()
    }

    /// The cluster is made: no later start makes it again.
    pub fn is_made(&self) {
        self.spec.lock().init = false;
    }

    /// Everything on its disk is lost. It must not run.
    pub fn lose_disk(&self) -> Result<()> {
        anyhow::ensure!(!self.is_running(), "{} runs", name(self.index));
        let dir = self.spec.lock().dir.clone();
        std::fs::remove_dir_all(&dir).with_context(|| format!("removing {}", dir.display()))
    }

    /// Moves its wall clock, if it runs with [`Clocks::Jumping`].
    pub fn jump(&self, seconds: i64) -> Result<()> {
        jump(&self.file("clock"), seconds)
    }

    /// The clocks of its present or last life.
    pub fn clocks(&self) -> Clocks {
        self.life.lock().clocks
    }

    /// What it has said.
    pub fn heard(&self) -> Heard {
        self.heard.lock().clone()
    }

    /// Whether there is a process.
    pub fn is_running(&self) -> bool {
        let mut life = self.life.lock();
        look(&mut life, &self.heard);
        life.child.is_some()
    }

    /// How its last life ended, once it has.
    pub fn ended(&self) -> Option<ExitStatus> {
        if self.is_running() { None } else { self.life.lock().ended }
    }

    /// Its process id.
    pub fn pid(&self) -> Option<u32> {
        self.life.lock().child.as_ref().and_then(Child::id)
    }

    /// Says that an end of this life is what a fault is for.
    pub fn expect_end(&self) {
        self.life.lock().expected = true;
    }

    /// `kill -9`; it may take a moment to be gone.
    pub fn kill(&self) -> Result<()> {
        let mut life = self.life.lock();
        life.expected = true;
        if let Some(child) = &mut life.child {
            child.start_kill().with_context(|| format!("killing {}", name(self.index)))?;
        }
        Ok(())
    }

    /// Sends a signal to this very process.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.pid().and_then(|p| i32::try_from(p).ok()).and_then(Pid::from_raw);
        let pid = pid.with_context(|| format!("{} is not running", name(self.index)))?;
        kill_process(pid, signal).with_context(|| format!("signalling {}", name(self.index)))
    }

    /// Whether it has ended by itself since the last look, and how.
    pub fn reap(&self) -> Option<Ending> {
        let mut life = self.life.lock();
        look(&mut life, &self.heard);
        if !std::mem::take(&mut life.untold) {
            return None;
        }
        let status = life.ended?;
        Some(Ending { node: self.index, status, expected: life.expected, log: self.log_tail() })
    }

    /// Resident bytes.
    pub fn rss_bytes(&self) -> Option<u64> {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.pid()?)).ok()?;
        let line = text.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
        line.trim().trim_end_matches("kB").trim().parse::<u64>().ok().map(|kb| kb * 1024)
    }

    /// How long its log is.
    pub fn log_bytes(&self) -> usize {
        std::fs::metadata(self.file("log")).map_or(0, |m| usize::try_from(m.len()).unwrap_or(0))
    }

    /// Whether its log says this after so many bytes.
    pub fn has_said(&self, text: &str, after: usize) -> bool {
        let log = std::fs::read(self.file("log")).unwrap_or_default();
        String::from_utf8_lossy(log.get(after..).unwrap_or_default()).contains(text)
    }

    /// The end of its log.
    pub fn log_tail(&self) -> String {
        const LINES: usize = 15;
        let text = std::fs::read(self.file("log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(LINES)..].join("\n")
    }
}

fn look(life: &mut Life, heard: &Mutex<Heard>) {
    if let Some(child) = &mut life.child
        && let Ok(Some(status)) = child.try_wait()
    {
        (life.ended, life.untold) = (Some(status), true);
        life.child = None;
        heard.lock().ready = false;
    }
}

/// Reads one life's lines until it ends.
async fn listen(out: tokio::process::ChildStdout, heard: Arc<Mutex<Heard>>, life: u64) {
    let mut lines = BufReader::new(out).lines();
    while let Ok(Some(text)) = lines.next_line().await {
        let Ok(line) = serde_json::from_str::<Line>(&text) else { continue };
        let mut h = heard.lock();
        if h.lives != life {
            return;
        }
        match line {
            Line::Ready { session, cluster } => {
                h.cluster = cluster;
                h.sessions.insert(session);
                h.ready = true;
            }
            Line::Stats(stats) => {
                if stats.session != 0 {
                    h.sessions.insert(stats.session);
                }
                (h.stats, h.at) = (stats, Some(Instant::now()));
            }
        }
    }
}
