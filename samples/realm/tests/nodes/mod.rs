//! Real node processes for tests.
#![allow(dead_code, reason = "every test file uses its part")]

use std::{
    io::{BufRead, BufReader},
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use millet::client::Client;

pub const NODES: usize = 3;
pub const LIMIT: Duration = Duration::from_secs(60);
pub const CALL: Duration = Duration::from_secs(10);

/// Node processes; killed when dropped.
pub struct Nodes(pub Vec<Child>);

impl Nodes {
    /// Starts all of them and waits until each is ready.
    pub fn start(dir: &Path, ports: &[String], first: bool) -> Self {
        let (peers, apis) = ports.split_at(NODES);
        let start = |i: usize| {
            Command::new(env!("CARGO_BIN_EXE_realm"))
                .args(["node", "--name", &format!("n{i}"), "--peer", &peers[i], "--api", &apis[i]])
                .args(["--members", &peers.join(",")])
                .arg("--dir")
                .arg(dir.join(i.to_string()))
                .args((first && i == 0).then_some("--init"))
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .expect("the program starts")
        };
        let mut nodes = Self((0..NODES).map(start).collect());
        for child in &mut nodes.0 {
            let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
            assert!(
                lines.any(|l| l.is_ok_and(|l| l.contains("\"ready\""))),
                "a node ended before it was ready"
            );
            // The rest is read, so that the node never waits for us.
            std::thread::spawn(move || lines.for_each(drop));
        }
        nodes
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        self.0.iter_mut().for_each(|c| drop(c.kill()));
        self.0.iter_mut().for_each(|c| drop(c.wait()));
    }
}

pub fn free_ports(count: usize) -> Vec<String> {
    let held: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
    held.iter().map(|l| l.local_addr().expect("bound").to_string()).collect()
}

/// A hero's deeds, in order; `None` if it does not answer.
pub async fn ledger(client: &Client, player: u64) -> Option<Vec<u64>> {
    let answer = client.call_json("realm.Player", &player.to_string(), "Ledger", "{}", CALL).await.ok()?;
    let answer: serde_json::Value = serde_json::from_str(&answer).expect("JSON");
    let deeds = answer.get("deeds").and_then(|d| d.as_array()).cloned().unwrap_or_default();
    Some(deeds.iter().map(|d| d.as_str().and_then(|s| s.parse().ok()).expect("a number")).collect())
}
