//! G2 on real processes, sockets and disks: every node is killed at once in the middle of its work; after
//! a restart each acknowledged deed is there once, each unanswered one at most once.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use millet::{Ran, client::Client};
use millet_testkit::{until, until_some};

const NODES: usize = 3;
const PLAYERS: u64 = 12;
const LIMIT: Duration = Duration::from_secs(60);
const CALL: Duration = Duration::from_secs(10);

/// Node processes; killed when dropped.
struct Nodes(Vec<Child>);

impl Nodes {
    /// Starts all of them and waits until each is ready.
    fn start(dir: &Path, ports: &[String], first: bool) -> Self {
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

fn free_ports(count: usize) -> Vec<String> {
    let held: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
    held.iter().map(|l| l.local_addr().expect("bound").to_string()).collect()
}

/// What became of each deed of each player: acknowledged, or not known.
type Deeds = Arc<Mutex<BTreeMap<(u64, u64), bool>>>;

/// One player's bot: deed after deed until the cluster is gone.
async fn play(client: Client, player: u64, deeds: Deeds) {
    for n in 0..100_000 {
        let deed = player * 1_000_000 + n;
        deeds.lock().expect("whole").insert((player, deed), false);
        let args = format!(r#"{{"deed":"{deed}","gold":1}}"#);
        match client.call_json("realm.Player", &player.to_string(), "Deed", &args, CALL).await {
            Ok(_) => drop(deeds.lock().expect("whole").insert((player, deed), true)),
            Err(e) if e.ran() == Ran::No => drop(deeds.lock().expect("whole").remove(&(player, deed))),
            Err(_) => return,
        }
    }
}

async fn ledger(client: &Client, player: u64) -> Option<Vec<u64>> {
    let answer = client.call_json("realm.Player", &player.to_string(), "Ledger", "{}", CALL).await.ok()?;
    let answer: serde_json::Value = serde_json::from_str(&answer).expect("JSON");
    let deeds = answer.get("deeds").and_then(|d| d.as_array()).cloned().unwrap_or_default();
    Some(deeds.iter().map(|d| d.as_str().and_then(|s| s.parse().ok()).expect("a number")).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn g2_no_acknowledged_deed_is_lost_when_every_node_is_killed_at_once() {
    let dir = tempfile::tempdir().expect("a folder");
    let ports = free_ports(2 * NODES);
    let nodes = Nodes::start(dir.path(), &ports, true);
    let deeds = Deeds::default();
    let bots: Vec<_> = (0..PLAYERS)
        .map(|p| {
            let client = Client::connect([&ports[NODES + p as usize % NODES]]).expect("an address");
            tokio::spawn(play(client, p, deeds.clone()))
        })
        .collect();
    let acknowledged = || deeds.lock().expect("whole").values().filter(|acked| **acked).count();
    until("every bot is at work", || acknowledged() > 300, LIMIT);
    drop(nodes);
    bots.iter().for_each(|b| b.abort());

    let _nodes = Nodes::start(dir.path(), &ports, false);
    let client = Client::connect(&ports[NODES..]).expect("addresses");
    for player in 0..PLAYERS {
        let read = async || ledger(&client, player).await;
        let ledger = until_some("the hero answers", read, LIMIT).await;
        for ((_, deed), acked) in deeds.lock().expect("whole").range((player, 0)..=(player, u64::MAX)) {
            let times = ledger.iter().filter(|d| *d == deed).count();
            assert!(times <= 1, "deed {deed} was done {times} times");
            assert!(!acked || times == 1, "deed {deed} was acknowledged and is lost");
        }
    }
}
