//! What a node refuses, and how it says so: each error names the thing and the remedy.

mod cluster;

use std::time::Duration;

use cluster::{BumperRef, BumperService, LIMIT, builder, free_ports, init, settings};
use millet::{CallError, ErrorKind, Node, config::Config};
use millet_testkit::until_some;

/// A reference that waits no longer than 300 ms.
fn impatient(node: &Node) -> BumperRef {
    (*node.get::<BumperService>(5)).clone().with_deadline(Duration::from_millis(300)).into()
}

async fn refused(config: Config) -> String {
    match builder(config).launch().await {
        Ok(_) => panic!("the node started"),
        Err(e) => e.to_string(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_is_refused_with_the_setting_that_names_it() {
    let holder = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let taken = holder.local_addr().expect("bound").to_string();
    let dir = tempfile::tempdir().expect("a folder");
    let said = refused(settings(dir.path(), &taken, &[])).await;
    assert!(said.contains(&taken) && said.contains("node.peer_listen"), "{said}");
    let mut config = settings(dir.path(), "127.0.0.1:0", &[]);
    config.node.api_listen = taken.clone();
    let said = refused(config).await;
    assert!(said.contains(&taken) && said.contains("node.api_listen"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_data_directory_is_refused_and_its_holder_goes_on() {
    let dir = tempfile::tempdir().expect("a folder");
    let node = builder(settings(dir.path(), "127.0.0.1:0", &[])).start().await.expect("starts");
    let said = refused(settings(dir.path(), "127.0.0.1:0", &[])).await;
    let pid = std::process::id().to_string();
    assert!(said.contains(&dir.path().display().to_string()) && said.contains(&pid), "{said}");
    assert!(node.get::<BumperService>(1).bump().await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_of_another_cluster_is_refused_by_both_names() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut config = settings(dir.path(), "127.0.0.1:0", &[]);
    config.cluster.id = "blue".into();
    builder(config.clone()).start().await.expect("starts").shutdown().await;
    config.cluster.id = "red".into();
    let said = refused(config.clone()).await;
    assert!(said.contains("blue-") && said.contains("red"), "{said}");
    config.cluster.id = "blue".into();
    builder(config).start().await.expect("its own cluster again").shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_that_cannot_be_written_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o555)).expect("ours");
    let writable = std::fs::write(dir.path().join("probe"), "x").is_ok();
    if writable {
        // An administrator may write everywhere; a file in the way is refused in the same place.
        let file = dir.path().join("probe");
        let said = refused(settings(&file, "127.0.0.1:0", &[])).await;
        assert!(said.contains("probe"), "{said}");
    } else {
        let said = refused(settings(dir.path(), "127.0.0.1:0", &[])).await;
        assert!(said.contains(&dir.path().display().to_string()) && said.contains("writable"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn contradicting_settings_are_refused_before_anything_starts() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut config = settings(&dir.path().join("never-made"), "127.0.0.1:0", &[]);
    config.cluster.session_ttl_ms = 1000;
    let said = refused(config).await;
    assert!(said.contains("800ms") && said.contains("raise the ttl"), "{said}");
    assert!(!dir.path().join("never-made").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn g7_without_quorum_calls_answer_unavailable_and_name_it_and_go_on_when_it_returns() {
    let members: [String; 3] = free_ports().await;
    let dirs: Vec<_> = members.iter().map(|_| tempfile::tempdir().expect("a folder")).collect();
    let start = |n: usize| builder(settings(dirs[n].path(), &members[n], &members)).start();
    let (a, b, c, _) = tokio::join!(start(0), start(1), start(2), init(&members));
    let (a, b, c): (Node, Node, Node) = (a.expect("starts"), b.expect("starts"), c.expect("starts"));
    let first = a.get::<BumperService>(5).bump().await.expect("answered");
    drop(b);
    drop(c);
    // A live grain serves until its lease ends, then says why it does not.
    let refused = async || match impatient(&a).bump().await {
        Err(CallError::Platform(e)) if matches!(e.kind(), ErrorKind::Unavailable { .. }) => {
            Some(e.to_string())
        }
        _ => None,
    };
    let said = until_some("the lease ends", refused, LIMIT).await;
    assert!(said.contains("quorum") || said.contains("session"), "{said}");
    // The majority returns: the activation thaws with its memory, unless its session ended meanwhile.
    let (b, c) = tokio::join!(start(1), start(2));
    let (_b, _c) = (b.expect("starts"), c.expect("starts"));
    let again = async || a.get::<BumperService>(5).bump().await.ok();
    let (bumps, session) = until_some("the grain answers again", again, LIMIT).await;
    if session == first.1 {
        assert!(bumps > first.0, "thawed without its memory");
    }
}
