//! Processes for tests of the launcher: a node with the metadata, and one under a launcher. Everything that
//! is started here is ended here.

use std::{
    io::{BufRead, BufReader, Read},
    os::fd::OwnedFd,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
};

use millet_testkit::until;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};
use tempfile::TempDir;

use crate::nodes::{LIMIT, free_ports};

/// One cluster at a time.
pub static BUSY: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

pub fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|w| (*w).to_owned()).collect()
}

fn id(pid: u32) -> Pid {
    i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a pid")
}

pub fn kill(pid: u32, signal: Signal) {
    kill_process(id(pid), signal).expect("it runs");
}

/// A process that is killed when this is dropped; never another one that got its number.
pub struct Killed(OwnedFd);

impl Killed {
    pub fn pid(pid: u32) -> Self {
        Self(pidfd_open(id(pid), PidfdFlags::empty()).expect("it runs"))
    }

    /// `kill -9`, now.
    pub fn kill(&self) {
        pidfd_send_signal(&self.0, Signal::KILL).expect("it runs");
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended long ago.
        let _ = pidfd_send_signal(&self.0, Signal::KILL);
    }
}

/// A process and what it and its children have said.
pub struct Process {
    child: Child,
    said: Arc<Mutex<Vec<String>>>,
}

impl Process {
    pub fn start(program: &str, args: &[String]) -> Self {
        let mut child = Command::new(program)
            .args(args)
            .env("RUST_LOG", "info,openraft=error")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let said = Arc::<Mutex<Vec<String>>>::default();
        listen(child.stdout.take().expect("piped"), said.clone());
        listen(child.stderr.take().expect("piped"), said.clone());
        Self { child, said }
    }

    /// The arguments to launch a command, this program's own name first.
    pub fn launch(command: Vec<String>) -> Vec<String> {
        [words(&[env!("CARGO_BIN_EXE_realm"), "run", "--"]), command].concat()
    }

    pub fn launched(command: Vec<String>) -> Self {
        let all = Self::launch(command);
        Self::start(&all[0], &all[1..])
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its only child.
    pub fn only_child(&self) -> u32 {
        let pid = self.pid();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("it runs");
        children.trim().parse().expect("one child")
    }

    /// Its exit code, once it has ended.
    pub fn code(&mut self) -> i32 {
        until("the process has ended", || self.child.try_wait().expect("is ours").is_some(), LIMIT);
        self.child.wait().expect("is ours").code().expect("a launcher always exits")
    }

    fn lines(&self, with: &str) -> Vec<String> {
        self.said.lock().expect("whole").iter().filter(|l| l.contains(with)).cloned().collect()
    }

    pub fn has_said(&self, what: &str) -> bool {
        !self.lines(what).is_empty()
    }

    /// Waits until it has said this, and returns the latest line.
    pub fn until(&self, what: &str) -> String {
        until(&format!("a line with {what:?}"), || self.has_said(what), LIMIT);
        self.lines(what).pop().expect("said")
    }

    /// The number behind this text.
    pub fn number_after(&self, text: &str) -> u32 {
        let line = self.until(text);
        let (_, number) = line.split_once(text).expect("is there");
        number.chars().take_while(char::is_ascii_digit).collect::<String>().parse().expect("a number")
    }

    /// Waits for so many more lines of figures, two a second.
    pub fn figures(&self, more: usize) {
        let before = self.lines(FIGURES).len();
        until("its figures come", || self.lines(FIGURES).len() >= before + more, LIMIT);
    }
}

const FIGURES: &str = r#""line":"stats""#;

fn listen(out: impl Read + Send + 'static, said: Arc<Mutex<Vec<String>>>) {
    std::thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            said.lock().expect("whole").push(line);
        }
    });
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("a process said:\n{}\n", self.said.lock().expect("whole").join("\n"));
        }
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A node with the metadata, and a worker under a launcher.
pub struct Stage {
    pub survivor: Process,
    pub launcher: Process,
    node: Killed,
    ports: Vec<String>,
    _dir: TempDir,
}

impl Stage {
    /// Starts both and waits until they are ready. `command` makes what is launched of the node's own.
    pub fn start(ttl_ms: u64, command: impl FnOnce(Vec<String>) -> Vec<String>) -> Self {
        let (dir, ports) = (tempfile::tempdir().expect("a folder"), free_ports(4));
        let folder = |i: usize| dir.path().join(i.to_string()).display().to_string();
        let node = |i: usize| {
            let exe = env!("CARGO_BIN_EXE_realm");
            let (dir, name, ttl) = (folder(i), format!("n{i}"), ttl_ms.to_string());
            let [peer, api, members] = [&ports[i], &ports[2 + i], &ports[0]];
            let args = [
                exe,
                "node",
                "--name",
                &name,
                "--peer",
                peer,
                "--api",
                api,
                "--members",
                members,
                "--dir",
                &dir,
                "--ttl-ms",
                &ttl,
            ];
            words(&args)
        };
        let first = node(0);
        let survivor = Process::start(&first[0], &first[1..]);
        survivor.until(READY);
        let launcher = Process::launched(command([node(1), words(&["--worker"])].concat()));
        let node = Killed::pid(launcher.number_after(r#""started","pid":"#));
        launcher.until(READY);
        Self { survivor, launcher, node, ports, _dir: dir }
    }

    /// The launched node's process.
    pub fn node(&self) -> &Killed {
        &self.node
    }

    pub fn api(&self, i: usize) -> &str {
        &self.ports[2 + i]
    }

    /// The launched node's session.
    pub fn session(&self) -> u32 {
        self.launcher.number_after(r#""ready","session":"#)
    }

    /// Whether the survivor has heard of its end.
    pub fn has_ended(&self, session: u32) -> bool {
        self.survivor.has_said(&format!(r#""ended","session":{session},"#))
    }
}

const READY: &str = r#""line":"ready""#;
