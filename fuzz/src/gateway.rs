//! Calls from outside the cluster: headers, framing, protobuf checked against its descriptor, proto3 JSON
//! and MessagePack, both ways. What reaches a grain is a message of its type.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use futures::FutureExt as _;
use http::{HeaderValue, Request};
use http_body_util::Full;
use millet_core::{
    AppError, BootTime, BoxFuture, Call, CallError, Caller, Clock, KeyKind, MethodId, MethodInfo, Outcome,
    ServiceInfo, limits, world::Entropy,
};
use millet_gateway::{Api, Interfaces, JsonCall, JsonCaller};
use prost_reflect::{DescriptorPool, DynamicMessage};
use tower::Service as _;

use crate::bytes::{Input, piece};

const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/all.bin"));

const fn info(name: &'static str) -> MethodInfo {
    MethodInfo { name, id: MethodId::of(name), shared: false, idempotent: false }
}

const SAY: ServiceInfo = ServiceInfo {
    name: "fuzz.Echo",
    keys: KeyKind::Int,
    methods: &[info("Say")],
    descriptors: Some(DESCRIPTORS),
    arguments: &[],
};
const REPORT: ServiceInfo = ServiceInfo {
    name: "fuzz.Rank",
    keys: KeyKind::Text,
    methods: &[info("report")],
    descriptors: None,
    arguments: &[&["who", "score", "q"]],
};

/// Answers with what it was told to, or with the arguments.
#[derive(Default)]
struct Echo {
    answers: Mutex<VecDeque<Outcome>>,
    seen: Mutex<Vec<Call>>,
}

impl Caller for Echo {
    fn call(&self, call: Call) -> BoxFuture<'_, Outcome> {
        let told = self.answers.lock().expect("one thread").pop_front();
        let answer = told.unwrap_or_else(|| Ok(call.args.clone()));
        self.seen.lock().expect("one thread").push(call);
        Box::pin(std::future::ready(answer))
    }
}

struct Still;
impl Clock for Still {
    fn boottime(&self) -> BootTime {
        BootTime(1)
    }
    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }
    fn wall_ms(&self) -> u64 {
        0
    }
}
impl Entropy for Still {
    fn next_u64(&self) -> u64 {
        4
    }
}

struct World {
    interfaces: Arc<Interfaces>,
    pool: DescriptorPool,
    runtime: Mutex<tokio::runtime::Runtime>,
}

fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| World {
        interfaces: Arc::new(Interfaces::new([SAY, REPORT]).expect("good descriptors")),
        pool: DescriptorPool::decode(DESCRIPTORS).expect("good descriptors"),
        runtime: Mutex::new(
            tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime"),
        ),
    })
}

pub(crate) fn run(input: &[u8]) {
    let mut input = Input(input);
    match input.byte() % 5 {
        0 => request(&mut input),
        1 => json("fuzz.Echo", "7", "Say", &String::from_utf8_lossy(input.rest())),
        2 => json("fuzz.Rank", "anna", "report", &String::from_utf8_lossy(input.rest())),
        3 => result("fuzz.Echo", "7", "Say", input.byte(), input.rest()),
        _ => result("fuzz.Rank", "anna", "report", input.byte(), input.rest()),
    }
}

/// A whole request: three headers of any value, then the body as it comes.
fn request(input: &mut Input<'_>) {
    const HEADERS: [&str; 7] = [
        "millet-key",
        "millet-key-bin",
        "grpc-timeout",
        "millet-request-id",
        "millet-form",
        "content-type",
        "grpc-encoding",
    ];
    const PATHS: [&str; 4] = ["/fuzz.Echo/Say", "/fuzz.Rank/report", "/grpc.health.v1.Health/Check", "/x"];
    let path = PATHS[usize::from(input.byte()) % PATHS.len()];
    let mut request =
        Request::post(path).header("content-type", "application/grpc").header("millet-key", "7");
    for _ in 0..3 {
        let which = usize::from(input.byte());
        let value = if which < HEADERS.len() { input.piece() } else { &[] };
        if let (Some(name), Ok(value), Some(map)) =
            (HEADERS.get(which), HeaderValue::from_bytes(value), request.headers_mut())
        {
            map.insert(*name, value);
        }
    }
    let request = request.body(Full::new(Bytes::copy_from_slice(input.rest()))).expect("a request");
    let world = world();
    let echo = Arc::new(Echo::default());
    let mut api =
        Api::new(Arc::clone(&world.interfaces), Arc::clone(&echo) as _, Arc::new(Still), Arc::new(Still));
    let response = world.runtime.lock().expect("one thread").block_on(api.call(request)).expect("infallible");
    assert!(response.status().is_success() || response.status().is_client_error());
    for call in echo.seen.lock().expect("one thread").iter() {
        assert!(call.args.len() <= limits::API_MESSAGE_BYTES);
        assert!(call.target.key.to_string().len() <= limits::KEY_BYTES);
        if call.target.ty.as_str() == "fuzz.Echo" {
            let ty = world.pool.get_message_by_name("fuzz.All").expect("in the set");
            DynamicMessage::decode(ty, &call.args[..]).expect("arguments that pass are a message");
        }
    }
}

fn caller(echo: &Arc<Echo>) -> JsonCaller {
    JsonCaller::new(Arc::clone(&world().interfaces), Arc::clone(echo) as _, Arc::new(Still), Arc::new(Still))
}

fn call(echo: &Arc<Echo>, (service, key, method): (&str, &str, &str), args: &str) -> Option<String> {
    let call = JsonCall { service, key, method, args, timeout: Duration::from_secs(1) };
    caller(echo).call(call).now_or_never().expect("the echo answers at once").ok()
}

/// Arguments in JSON: refused, or an answer that is JSON and means the same when it is sent once more.
fn json(service: &str, key: &str, method: &str, args: &str) {
    let echo = Arc::new(Echo::default());
    let Some(answer) = call(&echo, (service, key, method), args) else { return };
    serde_json::from_str::<serde_json::Value>(&answer).expect("an answer is JSON");
    if service == "fuzz.Echo" {
        let again = call(&echo, (service, key, method), &answer);
        assert_eq!(again.as_ref(), Some(&answer), "an answer is no arguments");
    }
}

/// What a grain answers: any bytes, as a result or as its own error.
fn result(service: &str, key: &str, method: &str, kind: u8, bytes: &[u8]) {
    let echo = Arc::new(Echo::default());
    let bytes = Bytes::copy_from_slice(bytes);
    let outcome = if kind & 1 == 0 { Ok(bytes) } else { Err(CallError::App(AppError::Encoded(bytes))) };
    echo.answers.lock().expect("one thread").push_back(outcome);
    if let Some(answer) = call(&echo, (service, key, method), "") {
        serde_json::from_str::<serde_json::Value>(&answer).expect("an answer is JSON");
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    const FULL: &str = concat!(
        r#"{"a":-1,"b":"-9007199254740993","c":1,"d":"2","e":-3,"f":"-4","g":5,"h":"6","i":-7,"j":"-8","k":1.5,"#,
        r#""l":"NaN","m":true,"n":"text","o":"AP8=","p":"KIND_ONE","q":{"a":1},"r":0,"s":["1","-2"],"t":["a"],"#,
        r#""u":[{"n":"b"}],"v":{"k":{"a":2}},"w":{"-3":"AA=="},"x":{"true":"KIND_FAR"},"y1":"one"}"#
    );
    const KNOWN: [&str; 10] = [
        r#"{"z2":"1.5s"}"#,
        r#"{"z3":{}}"#,
        r#"{"z4":"a,q.b"}"#,
        r#"{"z5":{"a":1,"b":[null,true,"x"]}}"#,
        r#"{"z6":null,"z7":[1,2]}"#,
        r#"{"z8":"2026-11-20T16:07:00.123Z"}"#,
        r#"{"z9":"7","z10":"AA==","z11":1e300}"#,
        r#"{"z1":{"@type":"type.googleapis.com/fuzz.All","a":1}}"#,
        r#"{"z1":{"@type":"type.googleapis.com/google.protobuf.Duration","value":"3s"}}"#,
        r#"{"z12":["KIND_FAR",1],"z13":[1,-0.0,"Infinity"],"y3":null}"#,
    ];
    let mut all: Vec<Vec<u8>> =
        KNOWN.iter().chain([&FULL]).map(|j| [&[1][..], j.as_bytes()].concat()).collect();
    all.push([&[2][..], br#"{"who":18446744073709551615,"score":-3,"q":[1.5,null,{"a":"b"}]}"#].concat());
    let (good, named) = (
        b"\x08\x01\x72\x01a\x8a\x01\x02\x08\x02\xd2\x01\x05\x0a\x01k\x12\x00",
        b"\x82\xa3who\x07\xa5score\xc4\x01\x00",
    );
    all.push([&[3, 0][..], good].concat());
    all.push([&[4, 0][..], named].concat());
    all.push([&[4, 1][..], named].concat());
    let body = |message: &[u8]| {
        let len = u32::try_from(message.len()).expect("small");
        [&[0][..], &len.to_be_bytes(), message].concat()
    };
    let headers =
        [vec![0], piece(b"7"), vec![2], piece(b"100m"), vec![3], piece(b"00112233445566778899aabbccddeeff")];
    all.push([&[0, 0][..], &headers.concat(), &body(good)].concat());
    let headers = [vec![1], piece(b"YW5uYQ=="), vec![5], piece(b"application/grpc+json"), vec![255]];
    all.push([&[0, 1][..], &headers.concat(), &body(br#"{"who":1}"#)].concat());
    all.push([&[0, 0, 255, 4][..], &piece(b"json"), &[255], &body(FULL.as_bytes())].concat());
    all
}
