//! G2 on real processes, sockets and disks: every node is killed at once in the middle of its work; after
//! a restart each acknowledged deed is there once, each unanswered one at most once.

mod nodes;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use millet::{Ran, client::Client};
use millet_testkit::{until, until_some};
use nodes::{CALL, LIMIT, NODES, Nodes, free_ports, ledger};

const PLAYERS: u64 = 12;

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
