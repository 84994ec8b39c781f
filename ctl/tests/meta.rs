//! `milletctl meta` as a process against metadata nodes of this process: join, refusals with the arithmetic,
//! transfer, backup, and exit codes.

use std::{path::Path, process::Output};

use millet::{Node, config::Config};
use tokio::process::Command;

async fn ctl(admin: &str, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_milletctl"));
    command.env_remove("MILLET_ADMIN").args(["meta", "--admin", admin]).args(args);
    command.output().await.expect("it runs")
}

fn out(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).expect("text")
}

/// The exit code and the three lines of an error.
fn refused(output: &Output) -> (Option<i32>, [String; 3]) {
    assert!(output.stdout.is_empty(), "an error prints no result: {output:?}");
    let text = String::from_utf8(output.stderr.clone()).expect("text");
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    (output.status.code(), lines.try_into().unwrap_or_else(|l| panic!("three lines, not {l:?}")))
}

/// A metadata-only node. Without `members` it makes its own cluster.
async fn node(dir: &Path, members: &[String]) -> (Node, String, String) {
    let mut config = Config::default();
    config.cluster.id = "realm".into();
    config.node.roles = vec!["meta".into()];
    config.node.data_dir = dir.display().to_string();
    config.node.peer_listen = "127.0.0.1:0".into();
    config.node.api_listen = String::new();
    config.node.admin_listen = "127.0.0.1:0".into();
    config.node.members = members.to_vec();
    let node = Node::builder().config(config).launch().await.expect("starts");
    let at = node.addresses();
    let (peer, admin) = (at.peer.expect("listens").to_string(), at.admin.expect("listens").to_string());
    (node, peer, admin)
}

#[tokio::test(flavor = "multi_thread")]
async fn members_come_and_go_and_are_backed_up_by_command() {
    let dirs: Vec<_> = (0..3).map(|_| tempfile::tempdir().expect("a folder")).collect();
    let (first, peer, admin) = node(dirs[0].path(), &[]).await;
    let members = [peer];
    let (second, second_peer, second_admin) = node(dirs[1].path(), &members).await;
    let (third, third_peer, _) = node(dirs[2].path(), &members).await;
    first.ready().await;

    assert_eq!(out(&ctl(&admin, &["add", &second_peer]).await), "member 2: every group has it\n");
    assert_eq!(out(&ctl(&second_admin, &["add", &third_peer]).await), "member 3: every group has it\n");
    // Who has joined serves like any other.
    second.ready().await;
    let status = out(&ctl(&second_admin, &["status"]).await);
    assert!(status.starts_with("cluster realm-") && status.contains("as member 2 sees it"), "{status}");
    assert_eq!(status.matches("voter").count(), 6, "{status}");
    assert!(status.contains(&third_peer) && !status.contains("silent"), "{status}");

    let (code, [what, at, _]) = refused(&ctl(&admin, &["remove", "3"]).await);
    assert!(code == Some(1) && what.contains("it bears the loss of 0"), "{what}");
    assert!(at.contains(&admin), "{at}");
    let (code, [what, ..]) = refused(&ctl(&admin, &["replace", "9", "127.0.0.1:1"]).await);
    assert!(code == Some(1) && what.contains("no member 9"), "{what}");
    let (code, [what, ..]) = refused(&ctl(&admin, &["cancel"]).await);
    assert!(code == Some(1) && what.contains("no change"), "{what}");

    let led = out(&ctl(&admin, &["transfer", "--to", "2"]).await);
    assert_eq!(led, "meta is led by member 2\nstate is led by member 2\n");

    let file = dirs[0].path().join("realm.backup");
    let path = file.display().to_string();
    let made = out(&ctl(&second_admin, &["backup", &path]).await);
    assert!(made.contains("checked") && made.contains("meta up to entry"), "{made}");
    let (code, [what, ..]) = refused(&ctl(&admin, &["backup", &path]).await);
    assert!(code == Some(2) && what.contains("exists"), "a backup is never written over: {what}");

    assert!(out(&ctl(&admin, &["remove", "3", "--confirm", "realm"]).await).starts_with("member 3"));
    let status = out(&ctl(&admin, &["status"]).await);
    assert_eq!(status.matches("voter").count(), 4, "{status}");
    drop((first, second, third));
}

#[tokio::test]
async fn addresses_where_no_member_is_are_named_and_the_code_is_2() {
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.local_addr().expect("bound").to_string()
    };
    let (code, [what, at, next]) = refused(&ctl(&closed, &["status"]).await);
    assert_eq!(code, Some(2));
    assert!(what.contains("no member can be reached") && at.contains(&closed), "{what} {at}");
    assert!(next.contains("node.admin_listen"), "{next}");
    let (code, [what, ..]) = refused(&ctl("nowhere", &["status"]).await);
    assert!(code == Some(2) && what.contains("host:port"), "{what}");
    let (code, _) = refused(&ctl(&closed, &["replace", "one", "127.0.0.1:1"]).await);
    assert_eq!(code, Some(2));
}
