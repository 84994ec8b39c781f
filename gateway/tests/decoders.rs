//! Whatever a caller from outside sends to the dynamic service: headers, framing, protobuf, MessagePack,
//! JSON. Every request is answered, none panics, and what reaches a grain is within the limits.

mod common;

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use common::{Counting, DUEL, ECHO, Fake, RANK, TestClock};
use futures::FutureExt as _;
use http::{HeaderValue, Request};
use http_body_util::Full;
use millet_core::{CallError, ErrorKind, limits};
use millet_gateway::{Api, Interfaces, JsonCall, JsonCaller};
use proptest::prelude::*;
use tower::Service as _;

fn api(fake: &Arc<Fake>) -> Api {
    let interfaces = Arc::new(Interfaces::new([DUEL, ECHO, RANK]).expect("good interfaces"));
    let clock = Arc::new(TestClock(Instant::now()));
    Api::new(interfaces, Arc::clone(fake) as _, clock, Arc::new(Counting::default()))
}

/// A gRPC frame whose flag and length may be wrong.
fn framed() -> impl Strategy<Value = Vec<u8>> {
    let good = message().prop_map(|m| common::framed(&m).to_vec());
    let odd = (any::<u8>(), any::<u32>(), any::<Vec<u8>>()).prop_map(|(flag, len, rest)| {
        [vec![flag], (len >> (len % 32)).to_be_bytes().to_vec(), rest].concat()
    });
    prop_oneof![4 => good, 1 => odd, 1 => any::<Vec<u8>>()]
}

/// Tags of the fields of `arena.StrikeRequest` among bytes, and JSON among both.
fn message() -> impl Strategy<Value = Vec<u8>> {
    let tag = prop::sample::select(vec![0x08u8, 0x12, 0x1a, 0x22, 0x2a, 0x30, 0x3a, 0x7b, 0x7c]);
    let part = (tag, 0..12u8, any::<Vec<u8>>()).prop_map(|(tag, len, rest)| {
        [vec![tag, len], rest.into_iter().take(usize::from(len)).collect()].concat()
    });
    prop_oneof![
        prop::collection::vec(part, 0..8).prop_map(|parts| parts.concat()),
        any::<Vec<u8>>(),
        json().prop_map(String::into_bytes),
    ]
}

fn json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<i64>().prop_map(|n| n.to_string()),
        any::<f64>().prop_map(|n| n.to_string()),
        ".{0,8}".prop_map(|s| format!("{s:?}")),
        ".{0,6}",
    ];
    let field = prop::sample::select(vec![
        "force", "seal", "spot", "x", "runes", "stance", "path", "who", "score", "?",
    ]);
    leaf.prop_recursive(4, 32, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(|v| format!("[{}]", v.join(","))),
            prop::collection::vec((field.clone(), inner), 0..5).prop_map(|v| {
                let fields: Vec<_> = v.into_iter().map(|(k, v)| format!("{k:?}:{v}")).collect();
                format!("{{{}}}", fields.join(","))
            }),
        ]
    })
}

fn header() -> impl Strategy<Value = (&'static str, Vec<u8>)> {
    let name = prop::sample::select(vec![
        "millet-key",
        "millet-key-bin",
        "grpc-timeout",
        "millet-request-id",
        "millet-form",
        "content-type",
        "grpc-encoding",
    ]);
    let value = prop_oneof![
        Just(b"7".to_vec()),
        Just(b"json".to_vec()),
        Just(b"application/grpc+json".to_vec()),
        Just(b"1S".to_vec()),
        "[0-9a-fA-F=/+]{0,40}".prop_map(String::into_bytes),
        prop::collection::vec(any::<u8>(), 0..20),
    ];
    (name, value)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]

    #[test]
    fn every_request_is_answered(
        path in prop_oneof![
            4 => prop::sample::select(vec!["/arena.Duel/Strike", "/arena.Echo/Say", "/realm.Rank/report"]).prop_map(str::to_owned),
            1 => "/[a-zA-Z./]{0,20}",
        ],
        headers in prop::collection::vec(header(), 0..5),
        body in framed(),
    ) {
        let fake = Arc::new(Fake::default());
        let mut request = Request::post(path).header("content-type", "application/grpc").header("millet-key", "7");
        if let Some(map) = request.headers_mut() {
            for (name, value) in headers {
                if let Ok(value) = HeaderValue::from_bytes(&value) {
                    map.insert(name, value);
                }
            }
        }
        let request = request.body(Full::new(Bytes::from(body))).expect("a request");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let response = runtime.block_on(api(&fake).call(request)).expect("infallible");
        prop_assert!(response.status().is_success() || response.status().is_client_error());
        for call in fake.calls.lock().expect("no panic holds it").iter() {
            prop_assert!(call.args.len() <= limits::API_MESSAGE_BYTES);
            prop_assert!(call.target.key.to_string().len() <= limits::KEY_BYTES);
        }
    }

    #[test]
    fn any_text_as_json_arguments(json in json(), key in ".{0,10}", method in 0..3usize) {
        let (service, method) = [("arena.Duel", "Strike"), ("arena.Echo", "Say"), ("realm.Rank", "report")][method];
        let fake = Arc::new(Fake::default());
        let interfaces = Arc::new(Interfaces::new([DUEL, ECHO, RANK]).expect("good interfaces"));
        let clock = Arc::new(TestClock(Instant::now()));
        let caller = JsonCaller::new(interfaces, Arc::clone(&fake) as _, clock, Arc::new(Counting::default()));
        let key = if service == "arena.Duel" { "7" } else { &key };
        let timeout = std::time::Duration::from_secs(1);
        let outcome = caller.call(JsonCall { service, key, method, args: &json, timeout }).now_or_never();
        // The echo answers with the arguments, so that they are read back as a result.
        if let Some(Err(CallError::Platform(e))) = outcome {
            let early = matches!(e.kind(), ErrorKind::BadArgument { .. } | ErrorKind::BadKey { .. });
            prop_assert!(early || matches!(e.kind(), ErrorKind::Unknown { .. } | ErrorKind::TooLarge { .. }), "{e}");
        }
    }
}

/// Nesting that a parser must refuse, not recurse into.
#[test]
fn deep_json_is_refused() {
    let fake = Arc::new(Fake::default());
    let interfaces = Arc::new(Interfaces::new([RANK, DUEL]).expect("good interfaces"));
    let clock = Arc::new(TestClock(Instant::now()));
    let caller = JsonCaller::new(interfaces, fake, clock, Arc::new(Counting::default()));
    let timeout = std::time::Duration::from_secs(1);
    for (service, key, method) in [("realm.Rank", "k", "report"), ("arena.Duel", "7", "Strike")] {
        for args in
            ["[".repeat(100_000), format!("{{\"who\":{}", "[".repeat(100_000)), "{\"spot\":".repeat(50_000)]
        {
            let outcome = caller.call(JsonCall { service, key, method, args: &args, timeout }).now_or_never();
            assert!(matches!(outcome, Some(Err(CallError::Platform(_)))), "{service} took it");
        }
    }
}
