//! The child: one node with all three ports and a grain that can be slow. Says where it listens and who
//! it is, then runs until its standard input ends, so that it never outlives the program that started it.

use std::{io::Read as _, process::ExitCode, time::Duration};

use millet::{Node, config::Config, prelude::*};

/// As a user's crate has it.
pub mod arena {
    include!("../../../stub-gen/tests/golden/arena.rs");
}

use arena::{Duel, DuelGrain, Report, StrikeRequest};

/// Adds twice what it is told, with time between the two for `seal` times 10 ms: a turn that was torn
/// leaves an odd total.
struct Ring {
    total: u64,
}

impl Grain for Ring {
    type Service = Duel;
    fn create(_: &mut Create<'_, Self>) -> Self {
        Self { total: 0 }
    }
}

impl DuelGrain for Ring {
    async fn strike(&mut self, _: &Ctx<Self>, req: StrikeRequest) -> Result<Report, Refusal> {
        let force = u64::try_from(req.force).map_err(|_| Refusal::invalid("force: negative"))?;
        self.total += force;
        let wait = Duration::from_millis(10) * req.seal.first().copied().unwrap_or(0).into();
        // tidy: sleep: the turn is slow on purpose
        tokio::time::sleep(wait).await;
        self.total += force;
        Ok(Report { text: String::new(), total: self.total })
    }
    async fn watch(&self, _: &Ctx<Self>, (): ()) -> Result<Report, Refusal> {
        Ok(Report { text: "seen".into(), total: self.total })
    }
    async fn r#type(&mut self, _: &Ctx<Self>, _: Report) -> Result<(), Refusal> {
        Err(Refusal::failed_precondition("closed"))
    }
}

/// Keyed by text, Rust-first: its arguments are MessagePack.
struct Board {
    posts: Vec<String>,
}

impl Grain for Board {
    type Service = BoardService;
    fn options() -> GrainOptions {
        GrainOptions::sharded(4)
    }
    fn create(_: &mut Create<'_, Self>) -> Self {
        Self { posts: Vec::new() }
    }
}

#[millet::grain(name = "abuse.Board", key = text)]
impl Board {
    /// Keeps a line.
    async fn post(&mut self, _: &Ctx<Self>, line: String, _votes: Vec<u64>) -> u64 {
        self.posts.push(line);
        self.posts.len() as u64
    }
}

/// Runs the child.
pub fn run(dir: &str) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    runtime.expect("a runtime").block_on(serve(dir));
    ExitCode::SUCCESS
}

async fn serve(dir: &str) {
    let mut config = Config::default();
    config.node.data_dir = dir.to_owned();
    config.node.peer_listen = "127.0.0.1:0".into();
    config.node.api_listen = "127.0.0.1:0".into();
    config.node.admin_listen = "127.0.0.1:0".into();
    let node = Node::builder().config(config).grain::<Ring>().grain::<Board>();
    let node = node.start().await.expect("the node starts");
    let at = node.addresses();
    let session = node.directory().session().expect("ready").id();
    let cluster = node.member().and_then(|m| m.membership()).expect("a member of its own cluster");
    println!(
        "NODE {} {} {} {} {} {}",
        at.peer.expect("listens"),
        at.api.expect("listens"),
        at.admin.expect("listens"),
        node.id().0,
        session.0,
        cluster.cluster,
    );
    let end = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    drop(end.await);
    node.shutdown().await;
}
