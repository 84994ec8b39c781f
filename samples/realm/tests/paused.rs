//! G1 on real processes: a node is stopped for longer than its session lives, its grain goes on elsewhere,
//! and when the node wakes nothing that it still remembers leaves it.

mod nodes;

use std::sync::Arc;

use millet::client::Client;
use millet_testkit::until_some;
use nodes::{CALL, LIMIT, NODES, Nodes, free_ports, ledger};
use rustix::process::{Pid, Signal, kill_process};

const HERO: u64 = 7;
/// Calls that lie in the sleeper's socket when it wakes.
const ASLEEP: usize = 20;

async fn deed(client: &Client, deed: u64) -> Option<()> {
    let args = format!(r#"{{"deed":"{deed}","gold":1}}"#);
    client.call_json("realm.Player", &HERO.to_string(), "Deed", &args, CALL).await.ok().map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn g1_a_node_that_slept_through_the_end_of_its_session_answers_nothing_old() {
    let dir = tempfile::tempdir().expect("a folder");
    let ports = free_ports(2 * NODES);
    let nodes = Nodes::start(dir.path(), &ports, true);
    let sleeper = Arc::new(Client::connect([&ports[NODES]]).expect("an address"));
    let other = Client::connect([&ports[NODES + 1]]).expect("an address");
    until_some("the hero lives on the first node", async || deed(&sleeper, 1).await, LIMIT).await;

    let pid = i32::try_from(nodes.0[0].id()).ok().and_then(Pid::from_raw).expect("a pid");
    kill_process(pid, Signal::STOP).expect("stopped");
    until_some("the hero goes on elsewhere", async || deed(&other, 2).await, LIMIT).await;
    let asked: Vec<_> = (0..ASLEEP)
        .map(|_| {
            let sleeper = sleeper.clone();
            tokio::spawn(async move { ledger(&sleeper, HERO).await })
        })
        .collect();
    // One of the others answers once more: the questions above have left meanwhile.
    until_some("the hero is there", async || ledger(&other, HERO).await, LIMIT).await;
    kill_process(pid, Signal::CONT).expect("goes on");

    for answer in asked {
        if let Some(ledger) = answer.await.expect("ends") {
            assert_eq!(ledger, [1, 2], "an answer from memory that had ended");
        }
    }
    let woken = until_some("the node serves again", async || ledger(&sleeper, HERO).await, LIMIT).await;
    assert_eq!(woken, [1, 2]);
}
