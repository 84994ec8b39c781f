//! Millet's own client against the gateway over a real socket: typed errors survive, fail-over happens
//! only when nothing was sent, JSON goes both ways.

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::{Gateway, text};
use millet_client::Client;
use millet_core::{
    AppError, CallError, ErrorKind, GrainId, GrainType, KeyKind, Method, MethodId, MethodInfo, Outcome,
    PlatformError, Ran, Service,
};

const SOON: Duration = Duration::from_secs(5);

/// `arena.Echo`, with arguments and results as bytes.
struct Echo;
impl Service for Echo {
    const NAME: &'static str = "arena.Echo";
    const KEYS: KeyKind = KeyKind::Text;
    const METHODS: &'static [MethodInfo] = &[Say::INFO];
}
struct Say;
impl Method for Say {
    type Service = Echo;
    type Args = Bytes;
    type Res = Bytes;
    type Error = AppError;
    const INFO: MethodInfo =
        MethodInfo { name: "Say", id: MethodId::of("Say"), shared: false, idempotent: false };
    fn encode_args(args: &Bytes) -> Result<Bytes, ErrorKind> {
        Ok(args.clone())
    }
    fn decode_args(args: Bytes) -> Result<Bytes, ErrorKind> {
        Ok(args)
    }
    fn encode_result(result: Result<Bytes, AppError>) -> Outcome {
        result.map_err(CallError::App)
    }
    fn decode_result(outcome: Outcome) -> Result<Bytes, CallError<AppError>> {
        outcome
    }
}

/// Nobody listens there: the port was free a moment ago.
fn closed_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("bound").to_string()
}

fn platform(result: Result<Bytes, CallError<AppError>>) -> PlatformError {
    match result {
        Err(CallError::Platform(p)) => p,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn keys_of_any_script_and_arguments_arrive_as_they_are() {
    let gateway = Gateway::start().await;
    let client = gateway.client();
    for key in ["anna", "änna", "a b", " ", "%41", "日本"] {
        let args = Bytes::from_static(&[0x08, 9]);
        assert_eq!(client.call::<Say>(text(key), args.clone(), SOON).await, Ok(args));
        assert_eq!(gateway.fake.last().target.key, text(key));
    }
}

#[tokio::test]
async fn every_kind_of_error_comes_back_as_it_was_with_its_grain() {
    let gateway = Gateway::start().await;
    let client = gateway.client();
    for (n, kind) in ErrorKind::one_of_each().into_iter().enumerate() {
        let key = text(&format!("kind {n}"));
        let grain = GrainId::new(GrainType::new("arena.Echo").expect("a name"), key.clone());
        let error = platform(client.call::<Say>(key, Bytes::new(), SOON).await);
        assert_eq!(error, PlatformError::new(kind).at(&grain));
    }
}

#[tokio::test]
async fn application_errors_come_back_as_they_were() {
    let gateway = Gateway::start().await;
    let client = gateway.client();
    match client.call::<Say>(text("refuse"), Bytes::new(), SOON).await {
        Err(CallError::App(AppError::Refusal(r))) => {
            assert_eq!((r.code, r.message.as_str(), r.details), (9, "closed", vec![7]))
        }
        other => panic!("{other:?}"),
    }
    let own = client.call::<Say>(text("own"), Bytes::new(), SOON).await;
    assert_eq!(own, Err(CallError::App(AppError::Encoded(Bytes::from_static(&[0x81, 0xa1, b'n', 3])))));
}

#[tokio::test]
async fn a_key_of_the_wrong_kind_is_refused_before_it_leaves() {
    let gateway = Gateway::start().await;
    let error = platform(gateway.client().call::<Say>(7u64, Bytes::new(), SOON).await);
    assert!(matches!(error.kind(), ErrorKind::BadKey { .. }), "{error}");
    assert_eq!(gateway.fake.count(), 0);
}

#[tokio::test]
async fn an_endpoint_that_cannot_be_reached_is_passed_over() {
    let gateway = Gateway::start().await;
    let client = Client::connect([closed_address(), gateway.address.to_string()]).expect("addresses");
    for _ in 0..20 {
        client.call::<Say>(text("a"), Bytes::new(), SOON).await.expect("the other one answers");
    }
    assert_eq!(gateway.fake.count(), 20, "no call was sent twice");
}

#[tokio::test]
async fn without_any_reachable_endpoint_nothing_ran_and_each_is_named() {
    let address = closed_address();
    let client = Client::connect([&address]).expect("an address");
    let error = platform(client.call::<Say>(text("a"), Bytes::new(), SOON).await);
    assert!(matches!(error.kind(), ErrorKind::Unavailable { what } if what.contains(&address)), "{error}");
    assert_eq!(error.ran(), Ran::No);
}

/// The connection dies while the turn runs: another endpoint is there, but the call is not sent again.
#[tokio::test]
async fn a_link_lost_after_sending_is_unknown_and_not_sent_again() {
    let (first, second) = (Gateway::start().await, Gateway::start().await);
    let client = Client::connect([first.address.to_string(), second.address.to_string()]).expect("addresses");
    let call = {
        let client = client.clone();
        tokio::spawn(async move { client.call::<Say>(text("hang"), Bytes::new(), SOON).await })
    };
    let arrived = || first.fake.count() + second.fake.count() == 1;
    millet_testkit::until_async("the call arrives", async || arrived(), SOON).await;
    let (hit, other) = if first.fake.count() == 1 { (&first, &second) } else { (&second, &first) };
    hit.stop();
    let error = platform(call.await.expect("no panic"));
    assert_eq!(error.ran(), Ran::Unknown, "{error}");
    assert_eq!(other.fake.count(), 0);
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_unknown_at_the_deadline() {
    let gateway = Gateway::start().await;
    let error =
        platform(gateway.client().call::<Say>(text("hang"), Bytes::new(), Duration::from_millis(100)).await);
    assert_eq!(error.ran(), Ran::Unknown, "{error}");
}

/// One place: the second call waits for it, and its deadline passes before anything was sent.
#[tokio::test]
async fn calls_under_way_are_bounded_and_waiting_sends_nothing() {
    let gateway = Gateway::start().await;
    let mut options = millet_client::Options::default();
    options.in_flight = 1;
    let client = Client::with([gateway.address.to_string()], &options).expect("an address");
    let first = {
        let client = client.clone();
        tokio::spawn(async move { client.call::<Say>(text("hang"), Bytes::new(), SOON).await })
    };
    millet_testkit::until_async("the first call arrives", async || gateway.fake.count() == 1, SOON).await;
    let error = platform(client.call::<Say>(text("a"), Bytes::new(), Duration::from_millis(100)).await);
    assert!(matches!(error.kind(), ErrorKind::DeadlineExceeded { .. }), "{error}");
    assert_eq!(gateway.fake.count(), 1);
    first.abort();
}

#[tokio::test]
async fn json_calls_need_no_types_at_the_caller() {
    let gateway = Gateway::start().await;
    let client = gateway.client();
    let answer =
        client.call_json("arena.Echo", "anna", "Say", r#"{"force": "-5", "seal": "AP8="}"#, SOON).await;
    let answer: serde_json::Value = serde_json::from_str(&answer.expect("an echo")).expect("json");
    assert_eq!((&answer["force"], &answer["seal"]), (&"-5".into(), &"AP8=".into()));
    let answer = client.call_json("realm.Rank", "gold", "report", r#"{"who": 7, "score": -3}"#, SOON).await;
    assert_eq!(answer.as_deref(), Ok(r#"{"score":-3,"who":7}"#));
}

#[tokio::test]
async fn json_errors_are_text_for_people() {
    let gateway = Gateway::start().await;
    let client = gateway.client();
    let error = client
        .call_json("arena.Echo", "a", "Say", r#"{"forse": 1}"#, SOON)
        .await
        .expect_err("a typing error");
    assert!(error.to_string().contains("forse") && error.ran() == Ran::No, "{error}");
    let error = client.call_json("arena.Duel", "x", "Strike", "", SOON).await.expect_err("an integer key");
    assert!(error.to_string().contains("integer keys"), "{error}");
    let error = client.call_json("arena.Echo", "own", "Say", "", SOON).await;
    assert_eq!(error, Err(CallError::App(r#"{"n":3}"#.into())));
    let error = client.call_json("arena.Echo", "refuse", "Say", "", SOON).await;
    assert_eq!(error, Err(CallError::App("closed".into())));
}

#[test]
fn a_bad_address_says_how_to_write_one() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let _in = runtime.enter();
    for bad in ["nowhere", "http://", "host:port:3"] {
        let error = Client::connect([bad]).err().expect(bad).to_string();
        assert!(error.contains("host:port"), "{error}");
    }
    assert!(Client::connect(Vec::<String>::new()).is_err());
}
