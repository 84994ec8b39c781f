//! `milletctl` as a process against a node of this process: results on standard output, errors of three
//! lines on standard error, and an exit code that says whether anything ran.

use std::process::Output;

use millet::{Node, config::Config, prelude::*};
use serde::{Deserialize, Serialize};
use tokio::process::Command;

/// A purse that cannot be overdrawn.
pub struct Purse {
    gold: Persistent<u64>,
}

/// Not enough.
#[derive(Debug, Serialize, Deserialize)]
pub struct Short {
    /// What is there.
    pub has: u64,
}

impl Grain for Purse {
    type Service = PurseService;
    fn create(c: &mut Create<'_, Self>) -> Self {
        Self { gold: c.state("gold") }
    }
    millet::states!(gold);
}

#[millet::grain(name = "test.Purse", key = int)]
impl Purse {
    /// Puts gold in.
    async fn put(&mut self, _ctx: &Ctx<Self>, gold: u64) -> u64 {
        *self.gold += gold;
        *self.gold
    }
    /// Takes gold out.
    async fn take(&mut self, _ctx: &Ctx<Self>, gold: u64) -> Result<u64, Short> {
        let has = *self.gold;
        *self.gold = has.checked_sub(gold).ok_or(Short { has })?;
        Ok(*self.gold)
    }
    /// Never ends.
    async fn hang(&self, _ctx: &Ctx<Self>) {
        std::future::pending().await
    }
}

async fn ctl(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_milletctl"));
    command.env_remove("MILLET_ENDPOINT").args(args).output().await.expect("it runs")
}

/// The exit code and the three lines of an error.
fn refused(output: &Output) -> (Option<i32>, [String; 3]) {
    assert!(output.stdout.is_empty(), "an error prints no result: {output:?}");
    let text = String::from_utf8(output.stderr.clone()).expect("text");
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    (output.status.code(), lines.try_into().unwrap_or_else(|l| panic!("three lines, not {l:?}")))
}

async fn node(dir: &std::path::Path) -> (Node, String) {
    let mut config = Config::default();
    config.node.data_dir = dir.display().to_string();
    config.node.peer_listen = "127.0.0.1:0".into();
    config.node.api_listen = "127.0.0.1:0".into();
    config.node.admin_listen = String::new();
    let node = Node::builder().config(config).grain::<Purse>().start().await.expect("starts");
    let api = node.addresses().api.expect("listens").to_string();
    (node, api)
}

/// One node for the whole road: a result, a refusal, a wrong name, an unknown outcome.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_prints_its_result_and_the_exit_code_says_whether_anything_ran() {
    let dir = tempfile::tempdir().expect("a folder");
    let (node, api) = node(dir.path()).await;
    let call = async |args: &[&str]| ctl(&[&["--endpoint", &api, "grain", "call"], args].concat()).await;

    let put = call(&["test.Purse/7", "put", r#"{"gold": 5}"#]).await;
    assert_eq!((put.status.code(), put.stdout.as_slice()), (Some(0), &b"5\n"[..]), "{put:?}");
    assert!(put.stderr.is_empty(), "{put:?}");

    let (code, [what, at, _]) = refused(&call(&["test.Purse/7", "take", r#"{"gold": 9}"#]).await);
    assert_eq!(code, Some(1));
    assert!(what.contains("test.Purse/7 take: refused") && what.contains(r#"{"has":5}"#), "{what}");
    assert!(at.contains(&api), "{at}");

    let (code, [what, _, next]) = refused(&call(&["test.Puree/7", "put"]).await);
    assert!(code == Some(2) && what.contains("test.Purse"), "the known ones are listed: {what}");
    assert!(next.contains("type"), "{next}");
    let (code, [what, ..]) = refused(&call(&["test.Purse/seven", "put"]).await);
    assert!(code == Some(2) && what.contains("key"), "{what}");
    let (code, [what, ..]) = refused(&call(&["test.Purse/7", "put", r#"{"gould": 5}"#]).await);
    assert!(code == Some(2) && what.contains("gould"), "{what}");

    let (code, [what, _, next]) = refused(&call(&["test.Purse/7", "hang", "--timeout", "0.3"]).await);
    assert!(code == Some(3) && what.contains("unknown"), "{what}");
    assert!(next.contains("read back"), "{next}");
    drop(node);
}

#[tokio::test]
async fn an_endpoint_nobody_listens_on_is_named_and_nothing_ran() {
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.local_addr().expect("bound").to_string()
    };
    let mut command = Command::new(env!("CARGO_BIN_EXE_milletctl"));
    command.env("MILLET_ENDPOINT", &closed).args(["grain", "call", "test.Purse/7", "put"]);
    let (code, [what, at, next]) = refused(&command.output().await.expect("it runs"));
    assert_eq!(code, Some(2));
    assert!(what.contains("no node can be reached") && at.contains(&closed), "{what} {at}");
    assert!(next.contains("node.api_listen"), "{next}");
}

#[tokio::test]
async fn wrong_usage_is_three_lines_and_help_says_what_is_not_there() {
    for args in [
        &["grain", "call", "test.Purse", "put"][..],
        &["grain", "call", "test.Purse/7"],
        &["grain", "call", "test.Purse/7", "put", "--timeout", "never"],
        &["nodes"],
    ] {
        let (code, [_, usage, next]) = refused(&ctl(args).await);
        assert_eq!(code, Some(2), "{args:?}");
        assert!(usage.contains("TYPE/KEY METHOD") && next.contains("--help"), "{usage} {next}");
    }
    let (code, [what, ..]) = refused(&ctl(&["--endpoint", "nowhere", "grain", "call", "a.B/1", "c"]).await);
    assert!(code == Some(2) && what.contains("host:port"), "{what}");
    let help = ctl(&["--help"]).await;
    let text = String::from_utf8(help.stdout).expect("text");
    assert!(
        help.status.success()
            && text.contains("Exit codes")
            && text.contains("no commands yet")
            && text.contains("meta"),
        "{text}"
    );
}
