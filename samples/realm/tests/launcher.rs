//! Rule R18 on real processes: a launcher ends the session of a node that is proven dead, at once, and of no
//! other. The sessions here live far longer than a test, so that an end is a close and no expiry.

mod launched;
mod nodes;

use std::time::{Duration, Instant};

use launched::{BUSY, Killed, Process, Stage, kill, words};
use millet::client::Client;
use millet_testkit::{skip_unprivileged, until, until_some};
use nodes::{CALL, LIMIT, ledger};
use rustix::process::Signal;

/// Far above every limit here.
const LONG_TTL_MS: u64 = 60_000;
const HERO: u64 = 7;
/// Lines of figures, two a second, in which something that is wrong would show itself.
const A_WHILE: usize = 4;

async fn deed(client: &Client, deed: u64) -> Option<()> {
    let args = format!(r#"{{"deed":"{deed}","gold":1}}"#);
    client.call_json("realm.Player", &HERO.to_string(), "Deed", &args, CALL).await.ok().map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn r18_the_session_of_a_node_that_is_killed_is_closed_at_once() {
    let _one = BUSY.lock().await;
    let mut stage = Stage::start(LONG_TTL_MS, |node| node);
    let (victim, other) =
        (Client::connect([stage.api(1)]).unwrap(), Client::connect([stage.api(0)]).unwrap());
    until_some("the hero lives on the launched node", async || deed(&victim, 1).await, LIMIT).await;
    let session = stage.session();
    let died = Instant::now();
    stage.node().kill();
    until("the survivor hears of the end", || stage.has_ended(session), LIMIT);
    println!("from kill -9 to the end of the session at the survivor: {:?}", died.elapsed());
    assert_eq!(ledger(&other, HERO).await, Some(vec![1]), "the grain answers elsewhere");
    println!("from kill -9 to the grain's answer elsewhere: {:?}", died.elapsed());
    assert!(died.elapsed() < Duration::from_millis(LONG_TTL_MS) / 2, "that may have been its expiry");
    assert_eq!(stage.launcher.code(), 137);
    assert!(stage.launcher.has_said("its session is closed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn r18_a_session_whose_socket_another_process_holds_is_not_closed() {
    let _one = BUSY.lock().await;
    // The shell's child inherits the socket; then the shell becomes the node.
    let script = r#"sleep 600 & echo "holder $!"; exec "$@""#;
    let mut stage = Stage::start(LONG_TTL_MS, |node| [words(&["sh", "-c", script, "sh"]), node].concat());
    let holder = Killed::pid(stage.launcher.number_after("holder "));
    let session = stage.session();
    stage.node().kill();
    stage.launcher.until("the child has ended");
    stage.survivor.figures(A_WHILE);
    assert!(!stage.has_ended(session), "closed although a process with its socket runs");
    stage.launcher.until("another process has the child's socket");
    drop(holder);
    until("the last holder is gone", || stage.has_ended(session), LIMIT);
    assert_eq!(stage.launcher.code(), 137);
}

#[tokio::test(flavor = "multi_thread")]
async fn r18_a_node_that_is_not_the_launched_process_keeps_its_session() {
    let _one = BUSY.lock().await;
    let script = r#""$@" & wait"#;
    let mut stage = Stage::start(LONG_TTL_MS, |node| [words(&["sh", "-c", script, "sh"]), node].concat());
    let session = stage.session();
    stage.launcher.until("not the process that was launched");
    let shell = stage.launcher.only_child();
    kill(shell, Signal::KILL);
    assert_eq!(stage.launcher.code(), 137);
    stage.launcher.figures(A_WHILE);
    assert!(!stage.has_ended(session), "closed although the node runs");
}

#[tokio::test(flavor = "multi_thread")]
async fn r18_a_node_outlives_its_launcher_and_keeps_its_session() {
    let _one = BUSY.lock().await;
    let ttl = Duration::from_secs(6);
    let stage = Stage::start(ttl.as_millis() as u64, |node| node);
    let session = stage.session();
    let killed = Instant::now();
    kill(stage.launcher.pid(), Signal::KILL);
    while killed.elapsed() < ttl + Duration::from_secs(2) {
        stage.launcher.figures(1);
    }
    assert!(!stage.has_ended(session), "a node that renews its session has lost it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_leaves_gracefully_when_its_launcher_is_told_to_end() {
    let _one = BUSY.lock().await;
    let mut stage = Stage::start(LONG_TTL_MS, |node| node);
    let session = stage.session();
    kill(stage.launcher.pid(), Signal::TERM);
    assert_eq!(stage.launcher.code(), 0);
    stage.launcher.until("closed: true");
    until("the survivor hears of the end", || stage.has_ended(session), LIMIT);
    assert!(!stage.launcher.has_said("its session is closed"), "the node did that itself");
}

#[test]
fn exit_codes_and_signals_pass_through() {
    let code = |command: &[&str]| Process::launched(words(command)).code();
    assert_eq!(code(&["sh", "-c", "exit 7"]), 7);
    assert_eq!(code(&["sh", "-c", "kill -9 $$"]), 137);
    assert_eq!(code(&["no-such-command-anywhere"]), 127);
    assert_eq!(code(&["/"]), 126);
    for (name, signal) in [("USR1", Signal::USR1), ("HUP", Signal::HUP), ("INT", Signal::INT)] {
        let script = format!("trap 'exit 9' {name}; echo ready; while :; do sleep 0.05; done");
        let mut launcher = Process::launched(words(&["sh", "-c", &script]));
        launcher.until("ready");
        kill(launcher.pid(), signal);
        assert_eq!(launcher.code(), 9, "{name}");
    }
}

/// An ended process has its number until it is reaped, so that the shell sees whether it is.
#[test]
fn the_first_process_of_a_container_reaps_orphans() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("orphan").display().to_string();
    let script =
        r#"(sleep 0.1 & echo $! > "$0"); while kill -0 $(cat "$0") 2>&1; do sleep 0.02; done; exit 5"#;
    let command = [words(&["-pf"]), Process::launch(words(&["sh", "-c", script, &file]))].concat();
    let mut container = Process::start("unshare", &command);
    match container.code() {
        1 if container.has_said("unshare") => skip_unprivileged(
            "realm::launcher::the_first_process_of_a_container_reaps_orphans",
            "the right to make a process namespace",
        ),
        code => assert_eq!(code, 5),
    }
}
