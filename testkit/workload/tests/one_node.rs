//! The whole workload on one node in memory, judged by the oracle; and on one that forgets.

use std::{sync::Arc, time::Duration};

use millet::{
    Node,
    core::MemoryStore,
    world::{OsClock, OsEntropy},
};
use millet_oracle::{Header, Invariant, Standing, Verdict, check_history, history::Workload};
use millet_workload::{
    Buffer, Door, Host, InProcess, Recorder, Settings, StoreRegisters, client, converge, install, read_back,
    store_client,
};
use tokio::{sync::watch, task::JoinSet};

const BOUND: Duration = Duration::from_secs(13);

fn way(node: &Node) -> InProcess {
    InProcess { caller: node.caller(), clock: Arc::new(OsClock), entropy: Arc::new(OsEntropy::default()) }
}

fn settings() -> Settings {
    let mut settings = Settings { pause: Duration::from_millis(4), keys: 3, ..Settings::default() };
    settings.clients.push((Workload::Store, 3));
    settings
}

fn header() -> Header {
    let mut header = Header::new("one_node", 1, 4_000_000);
    header.limits.requires = vec![
        Invariant::SingleActivation,
        Invariant::NoLostWrite,
        Invariant::ExactlyOnce,
        Invariant::MonotoneEpochs,
        Invariant::Linearizable,
        Invariant::Routing,
        Invariant::Ids,
        Invariant::HonestFailure,
        Invariant::Convergence,
        Invariant::Conservation,
        Invariant::AtMostOne,
        Invariant::IdleReturn,
    ];
    header
}

#[tokio::test(flavor = "multi_thread")]
async fn the_workload_on_one_node_passes_and_every_checker_has_work() {
    let host = Host::new(1);
    let node = install(Node::builder().in_memory(), &host).start().await.expect("starts");
    host.started(&node);
    let (settings, buffer) = (Arc::new(settings()), Buffer::default());
    let recorder = Recorder::new(Arc::new(OsClock), buffer.clone(), &header()).expect("memory");
    let door = Door::default();
    door.open(way(&node));
    let ways: Arc<[Door]> = Arc::new([door]);
    let stores = StoreRegisters::new(Arc::new(MemoryStore::new()));
    let (stop, stopped) = watch::channel(false);
    let mut clients = JoinSet::new();
    for role in settings.roles() {
        let (recorder, settings, stopped) = (recorder.clone(), settings.clone(), stopped.clone());
        if role.workload == Workload::Store {
            clients.spawn(store_client(role, stores.clone(), settings, recorder, stopped));
        } else {
            clients.spawn(client(role, ways.clone(), settings, recorder, stopped));
        }
    }
    // Long enough for grains to be collected and to come back.
    // tidy: sleep: the load's length, nothing waits for it
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(converge(ways.clone(), Some(stores.clone()), recorder.clone(), BOUND).await, 0);
    stop.send_replace(true);
    while let Some(ended) = clients.join_next().await {
        ended.expect("no client panics");
    }
    assert_eq!(read_back(ways, Some(stores), recorder.clone(), BOUND).await, 0);
    recorder.finish().expect("memory");
    node.shutdown().await;

    let verdict = check_history(buffer.bytes().as_slice()).expect("a history");
    println!("{}{}", verdict.screen(), verdict.summary());
    assert_eq!(verdict.standing(), Standing::Pass, "{}", verdict.screen());
    assert!(verdict.ops.ok > 1_000, "{:?}", verdict.ops);
    // Interleaved opens of the store's registers fence one another; nothing else is without an answer.
    assert!(verdict.ops.unknown < verdict.ops.ok / 10, "{:?}", verdict.ops);
}

/// Drops the node in the middle of the load: whatever was under way is unknown or did not run, and
/// memory being all there was, the read-back must show the loss.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_forgets_everything_is_caught() {
    let host = Host::new(1);
    let node = install(Node::builder().in_memory(), &host).start().await.expect("starts");
    host.started(&node);
    let mut settings = settings();
    settings.clients = vec![(Workload::Counter, 2), (Workload::Account, 2)];
    let (settings, buffer) = (Arc::new(settings), Buffer::default());
    let mut plain = header();
    plain.limits.requires.clear();
    let recorder = Recorder::new(Arc::new(OsClock), buffer.clone(), &plain).expect("memory");
    let door = Door::default();
    door.open(way(&node));
    let ways: Arc<[Door]> = Arc::new([door.clone()]);
    let (stop, stopped) = watch::channel(false);
    let mut clients = JoinSet::new();
    for role in settings.roles() {
        clients.spawn(client(role, ways.clone(), settings.clone(), recorder.clone(), stopped.clone()));
    }
    // tidy: sleep: the load's length, nothing waits for it
    tokio::time::sleep(Duration::from_secs(1)).await;
    stop.send_replace(true);
    while let Some(ended) = clients.join_next().await {
        ended.expect("no client panics");
    }
    door.close();
    drop(node);
    let host = Host::new(2);
    let node = install(Node::builder().in_memory(), &host).start().await.expect("starts");
    host.started(&node);
    door.open(way(&node));
    assert_eq!(read_back(ways, None, recorder.clone(), BOUND).await, 0);
    recorder.finish().expect("memory");
    node.shutdown().await;

    let verdict: Verdict = check_history(buffer.bytes().as_slice()).expect("a history");
    assert_eq!(verdict.standing(), Standing::Fail);
    assert!(verdict.invariants[&Invariant::NoLostWrite].violations > 100, "{}", verdict.screen());
    assert_eq!(verdict.violations[0].invariant, Invariant::NoLostWrite);
    assert!(!verdict.violations[0].timeline.is_empty());
}
