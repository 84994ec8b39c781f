//! Generated code on a running node: both fronts, from inside and from outside through the gateway and
//! the client, typed and with JSON. One road: gRPC, gateway, directory, mailbox, generated dispatch.
#![allow(missing_docs, reason = "a test's types")]

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use millet::{
    client::Client,
    prelude::*,
    rt::{CallError, ErrorKind, ServiceInfo},
    world::{OsClock, OsEntropy},
};
use millet_gateway::{Api, Interfaces, router};
use serde::{Deserialize, Serialize};

pub mod arena {
    include!("../../tests/golden/arena.rs");
}
use arena::{Duel, DuelGrain, Report, StrikeRequest, duel};

const SOON: Duration = Duration::from_secs(5);

struct Ring {
    total: u64,
}
impl Grain for Ring {
    type Service = Duel;
    fn create(_: &mut Create<'_, Self>) -> Self {
        Ring { total: 0 }
    }
}
impl DuelGrain for Ring {
    async fn strike(&mut self, ctx: &Ctx<Self>, req: StrikeRequest) -> Result<Report, Refusal> {
        let force = u64::try_from(req.force).map_err(|_| Refusal::invalid("force is negative"))?;
        self.total += force;
        Ok(Report { text: ctx.key().to_string(), total: self.total })
    }
    async fn watch(&self, _: &Ctx<Self>, (): ()) -> Result<Report, Refusal> {
        Ok(Report { text: "seen".into(), total: self.total })
    }
    async fn r#type(&mut self, _: &Ctx<Self>, _: Report) -> Result<(), Refusal> {
        Err(Refusal { code: 9, message: "closed".into(), details: vec![1] })
    }
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub enum TooLow {
    Below { best: i64 },
}

pub struct Rank {
    best: BTreeMap<u64, i64>,
}
impl Grain for Rank {
    type Service = RankService;
    fn create(_: &mut Create<'_, Self>) -> Self {
        Rank { best: BTreeMap::new() }
    }
}
#[millet::grain(name = "realm.Rank", key = text)]
impl Rank {
    async fn report(&mut self, ctx: &Ctx<Self>, who: u64, score: i64) -> Result<u64, TooLow> {
        let best = self.best.entry(who).or_insert(0);
        if score <= *best {
            return Err(TooLow::Below { best: *best });
        }
        *best = score;
        // A contract-first grain, called from a Rust-first one.
        let hit = StrikeRequest { force: score, ..StrikeRequest::default() };
        Ok(ctx.get::<Duel>(who).strike(hit).await.map_or(0, |r| r.total))
    }
    async fn top(&self, _: &Ctx<Self>) -> BTreeMap<u64, i64> {
        self.best.clone()
    }
}

async fn node() -> Node {
    Node::builder().in_memory().grain::<Ring>().grain::<Rank>().start().await.expect("starts")
}

/// The gateway in front of a node, on a port of its own.
async fn gateway(node: &Node) -> String {
    let services = [ServiceInfo::of::<Duel>(), ServiceInfo::of::<RankService>()];
    let interfaces = Arc::new(Interfaces::new(services).expect("good interfaces"));
    let api = Api::new(interfaces, node.caller(), Arc::new(OsClock), Arc::new(OsEntropy::default()));
    let (routes, _health) = router(api, false).expect("good descriptors");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let serving = tonic::transport::Server::builder().add_routes(routes).serve_with_incoming(incoming);
    tokio::spawn(async move { serving.await.expect("serves") });
    address
}

fn strike(force: i64) -> StrikeRequest {
    StrikeRequest { force, ..StrikeRequest::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn references_run_exclusive_and_shared_methods_and_bring_refusals_back() {
    let node = node().await;
    let ring = node.get::<Duel>(7u64);
    assert_eq!(ring.strike(strike(3)).await.map(|r| (r.text, r.total)), Ok(("7".into(), 3)));
    assert_eq!(ring.strike(strike(4)).await.map(|r| r.total), Ok(7));
    assert_eq!(ring.watch().await.map(|r| r.total), Ok(7));
    let refusal = Refusal { code: 9, message: "closed".into(), details: vec![1] };
    assert_eq!(ring.r#type(Report::default()).await, Err(CallError::App(refusal)));
    ring.tell::<duel::Strike>(strike(1)).expect("accepted");
    assert_eq!(ring.watch().await.map(|r| r.total), Ok(8), "a tell is in order with what follows it");
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rust_first_grains_call_contract_first_ones_and_keep_their_error_types() {
    let node = node().await;
    let rank = node.get::<RankService>(Key::text("gold").expect("a key"));
    assert_eq!(rank.report(7, 5).await, Ok(5));
    assert_eq!(rank.report(7, 9).await, Ok(14), "5 and 9 were struck");
    assert_eq!(rank.report(7, 9).await, Err(CallError::App(TooLow::Below { best: 9 })));
    assert_eq!(rank.top().await, Ok([(7, 9)].into()));
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_makes_typed_calls_of_both_fronts_through_the_gateway() {
    let node = node().await;
    let client = Client::connect([gateway(&node).await]).expect("an address");
    let report = client.call::<duel::Strike>(1u64, strike(2), SOON).await;
    assert_eq!(report.map(|r| r.total), Ok(2));
    let refused = client.call::<duel::Strike>(1u64, strike(-2), SOON).await;
    assert_eq!(refused, Err(CallError::App(Refusal::invalid("force is negative"))));
    let gold = || Key::text("gold").expect("a key");
    let args = || rank::ReportArgs { who: 1, score: 3 };
    assert_eq!(client.call::<rank::Report>(gold(), args(), SOON).await, Ok(5));
    let low = client.call::<rank::Report>(gold(), args(), SOON).await;
    assert_eq!(low, Err(CallError::App(TooLow::Below { best: 3 })));
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn json_calls_reach_both_fronts_by_name() {
    let node = node().await;
    let client = Client::connect([gateway(&node).await]).expect("an address");
    let json = async |service, key, method, args| client.call_json(service, key, method, args, SOON).await;
    let answer = json("arena.Duel", "5", "Strike", r#"{"force": "6"}"#).await;
    assert_eq!(answer.as_deref(), Ok(r#"{"text":"5","total":"6"}"#));
    assert_eq!(json("arena.Duel", "5", "Type", "").await, Err(CallError::App("closed".into())));
    assert_eq!(json("realm.Rank", "gold", "report", r#"{"who": 5, "score": 1}"#).await.as_deref(), Ok("7"));
    let low = json("realm.Rank", "gold", "report", r#"{"who": 5, "score": 1}"#).await;
    assert_eq!(low, Err(CallError::App(r#"{"Below":{"best":1}}"#.into())));
    assert_eq!(json("realm.Rank", "gold", "top", "").await.as_deref(), Ok(r#"{"5":1}"#));
    let error = json("realm.Rank", "gold", "report", r#"{"who": "x"}"#).await.expect_err("no number");
    assert!(error.to_string().contains("realm.Rank.report: field who"), "{error}");
    match json("arena.Nobody", "1", "Strike", "").await {
        Err(CallError::Platform(p)) => assert!(matches!(p.kind(), ErrorKind::NoSuchGrain { .. }), "{p}"),
        other => panic!("{other:?}"),
    }
    node.shutdown().await;
}

/// The client's hot path has no reflection and one connection; 64 callers at once make this many calls.
/// A floor far below what is measured, so that only a mistake of kind (a lock, a timer, a connection a
/// call) fails it.
#[tokio::test(flavor = "multi_thread")]
async fn one_client_makes_thousands_of_calls_a_second() {
    const CALLERS: u64 = 64;
    const EACH: u64 = 50;
    let node = node().await;
    let client = Client::connect([gateway(&node).await]).expect("an address");
    client.call::<duel::Watch>(0u64, (), SOON).await.expect("answers");
    let start = std::time::Instant::now();
    let callers: Vec<_> = (0..CALLERS)
        .map(|n| {
            let client = client.clone();
            tokio::spawn(async move {
                for _ in 0..EACH {
                    client.call::<duel::Strike>(n, strike(1), SOON).await.expect("answers");
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.expect("no panic");
    }
    let rate = (CALLERS * EACH) as f64 / start.elapsed().as_secs_f64();
    println!("{rate:.0} calls/s, unoptimised");
    assert!(rate > 500.0, "{rate:.0} calls/s");
    node.shutdown().await;
}
