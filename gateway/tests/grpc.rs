//! Plain gRPC against the dynamic service over a real socket: the table of bad inputs, deadlines,
//! reflection, health.

mod common;

use std::{sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use common::{Answer, Gateway, framed, raw};
use millet_core::{Key, MethodId, RequestId, limits};
use tonic::Code;

const STRIKE: &str = "/arena.Duel/Strike";
const SAY: &str = "/arena.Echo/Say";
const SEVEN: (&str, &str) = ("millet-key", "7");

async fn refused(path: &str, headers: &[(&str, &str)], body: Bytes, code: Code, wanted: &str) {
    let gateway = Gateway::start().await;
    let channel = gateway.connection().await;
    let answer = raw(&channel, path, headers, body).await;
    assert_eq!(answer.status.code(), code, "{answer:?}");
    assert!(answer.status.message().contains(wanted), "{answer:?}");
    assert_eq!(gateway.fake.count(), 0, "nothing may have been called");
    // The connection is kept: the next call on it is answered.
    let next = raw(&channel, STRIKE, &[SEVEN], framed(&[])).await;
    assert_eq!(next.status.code(), Code::Ok, "{next:?}");
}

#[tokio::test]
async fn a_call_reaches_the_grain_that_its_metadata_names() {
    let gateway = Gateway::start().await;
    let channel = gateway.connection().await;
    let id = "000102030405060708090a0b0c0d0e0f";
    let headers = [SEVEN, ("grpc-timeout", "5S"), ("millet-request-id", id)];
    let answer = raw(&channel, STRIKE, &headers, framed(&[0x08, 3])).await;
    assert_eq!((answer.http, answer.status.code(), &answer.message[..]), (200, Code::Ok, &[0x08, 3][..]));
    let call = gateway.fake.last();
    assert_eq!((call.target.ty.as_str(), call.target.key), ("arena.Duel", Key::Int(7)));
    assert_eq!(
        (call.method, call.request),
        (MethodId::of("Strike"), RequestId(0x000102030405060708090a0b0c0d0e0f))
    );
    assert!(call.deadline.0 < 5_000_000_000 + 2_000_000_000);
}

#[tokio::test]
async fn an_unknown_type_is_not_found_and_the_known_ones_are_listed() {
    refused(
        "/arena.Nobody/Strike",
        &[SEVEN],
        framed(&[]),
        Code::NotFound,
        "known: arena.Duel, arena.Echo, realm.Rank",
    )
    .await;
}

#[tokio::test]
async fn an_unknown_method_is_unimplemented_and_the_known_ones_are_listed() {
    refused(
        "/arena.Duel/Fly",
        &[SEVEN],
        framed(&[]),
        Code::Unimplemented,
        "arena.Duel.Fly; known: Strike, Watch, Type",
    )
    .await;
}

#[tokio::test]
async fn a_standard_service_that_is_not_offered_is_unimplemented() {
    refused("/grpc.channelz.v1.Channelz/GetServers", &[], framed(&[]), Code::Unimplemented, "not offered")
        .await;
}

#[tokio::test]
async fn malformed_protobuf_is_refused_with_the_path_of_the_field() {
    refused(STRIKE, &[SEVEN], framed(&[0x22, 2, 0x0d, 1]), Code::InvalidArgument, "field spot.x").await;
    refused(STRIKE, &[SEVEN], framed(&[0x1a, 1, 0xff]), Code::InvalidArgument, "field at: not UTF-8").await;
}

#[tokio::test]
async fn nested_groups_end_at_a_limit() {
    refused(STRIKE, &[SEVEN], framed(&[0x7b].repeat(200_000)), Code::InvalidArgument, "nested more than")
        .await;
}

#[tokio::test]
async fn a_message_over_the_limit_is_refused_with_both_numbers() {
    let large = framed(&vec![0; limits::API_MESSAGE_BYTES + 1]);
    refused(
        STRIKE,
        &[SEVEN],
        large,
        Code::ResourceExhausted,
        "1048577 bytes (arena.Duel/Strike) is over the limit of 1048576",
    )
    .await;
}

#[tokio::test]
async fn an_announced_length_of_4_gib_is_refused_without_waiting_for_it() {
    refused(
        STRIKE,
        &[SEVEN],
        Bytes::from_static(&[0, 255, 255, 255, 255]),
        Code::ResourceExhausted,
        "4294967295 bytes",
    )
    .await;
}

#[tokio::test]
async fn a_truncated_missing_doubled_or_compressed_message_is_refused() {
    refused(
        STRIKE,
        &[SEVEN],
        Bytes::from_static(&[0, 0, 0, 0, 9, 1]),
        Code::InvalidArgument,
        "ends after 1 of 9 bytes",
    )
    .await;
    refused(STRIKE, &[SEVEN], Bytes::new(), Code::InvalidArgument, "no message").await;
    refused(
        STRIKE,
        &[SEVEN],
        [framed(&[]), framed(&[])].concat().into(),
        Code::InvalidArgument,
        "more than one",
    )
    .await;
    refused(STRIKE, &[SEVEN], Bytes::from_static(&[1, 0, 0, 0, 0]), Code::InvalidArgument, "identity").await;
}

#[tokio::test]
async fn a_wrong_content_type_is_415() {
    let gateway = Gateway::start().await;
    let channel = gateway.connection().await;
    let answer = raw(&channel, STRIKE, &[SEVEN, ("content-type", "application/json")], framed(&[])).await;
    assert_eq!(answer.http, 415);
    assert_eq!(gateway.fake.count(), 0);
}

#[tokio::test]
async fn bad_keys_are_refused_with_the_rule() {
    let no = Code::InvalidArgument;
    refused(STRIKE, &[], framed(&[]), no, "millet-key").await;
    refused(SAY, &[("millet-key", "")], framed(&[]), no, "may not be empty").await;
    refused(SAY, &[("millet-key", &"k".repeat(1025))], framed(&[]), no, "over the limit of 1024 bytes").await;
    refused(SAY, &[("millet-key-bin", "YQBi")], framed(&[]), no, "control characters: U+0000").await;
    refused(SAY, &[("millet-key-bin", "!")], framed(&[]), no, "not base64").await;
    refused(STRIKE, &[("millet-key", "007")], framed(&[]), no, "canonical").await;
    refused(STRIKE, &[("millet-key", "anna")], framed(&[]), no, "integer keys").await;
}

#[tokio::test]
async fn a_malformed_timeout_is_refused_instead_of_running_without_a_limit() {
    refused(STRIKE, &[SEVEN, ("grpc-timeout", "soon")], framed(&[]), Code::InvalidArgument, "grpc-timeout")
        .await;
}

#[tokio::test]
async fn a_deadline_already_past_starts_nothing() {
    refused(STRIKE, &[SEVEN, ("grpc-timeout", "0m")], framed(&[]), Code::DeadlineExceeded, "").await;
}

#[tokio::test]
async fn a_malformed_request_id_is_refused() {
    refused(
        STRIKE,
        &[SEVEN, ("millet-request-id", "7")],
        framed(&[]),
        Code::InvalidArgument,
        "32 hexadecimal",
    )
    .await;
}

#[tokio::test]
async fn headers_over_the_limit_do_not_reach_a_grain() {
    let gateway = Gateway::start().await;
    let channel = gateway.connection().await;
    let long = "x".repeat(20 * 1024);
    let answer = raw(&channel, STRIKE, &[SEVEN, ("x-long", &long)], framed(&[])).await;
    assert_eq!(answer.http, 431);
    assert_eq!(gateway.fake.count(), 0);
}

/// tonic answers CANCELLED and drops the handler; a turn that hangs is DEADLINE_EXCEEDED and unknown.
#[tokio::test]
async fn a_call_that_outlives_its_deadline_is_deadline_exceeded_and_unknown() {
    let gateway = Gateway::start().await;
    let channel = gateway.connection().await;
    let headers = [("millet-key", "hang"), ("grpc-timeout", "200m")];
    let answer = raw(&channel, SAY, &headers, framed(&[])).await;
    assert_eq!(answer.status.code(), Code::DeadlineExceeded, "{answer:?}");
    let kind = answer.status.metadata().get("millet-error-kind").and_then(|v| v.to_str().ok());
    assert_eq!(kind, Some("Unknown"));
}

#[tokio::test]
async fn a_caller_who_goes_away_does_not_stop_the_turn() {
    let gateway = Gateway::start().await;
    let channel = gateway.connection().await;
    let call = {
        let channel = channel.clone();
        tokio::spawn(async move { raw(&channel, SAY, &[("millet-key", "slow")], framed(&[])).await })
    };
    let limit = Duration::from_secs(5);
    millet_testkit::until_async("the turn starts", async || gateway.fake.count() == 1, limit).await;
    call.abort();
    assert!(call.await.is_err(), "the caller is gone");
    gateway.fake.go.notify_one();
    let finished = async || gateway.fake.finished.load(Ordering::SeqCst) == 1;
    millet_testkit::until_async("the turn runs to its end", finished, limit).await;
}

#[tokio::test]
async fn a_panic_is_internal_and_the_connection_is_kept() {
    let gateway = Gateway::start().await;
    let channel = gateway.connection().await;
    let answer = raw(&channel, SAY, &[("millet-key", "panic")], framed(&[])).await;
    assert_eq!(answer.status.code(), Code::Internal, "{answer:?}");
    let next = raw(&channel, SAY, &[("millet-key", "a")], framed(&[])).await;
    assert_eq!(next.status.code(), Code::Ok);
}

#[tokio::test]
async fn errors_carry_details_that_any_client_reads() {
    let gateway = Gateway::start().await;
    let channel = gateway.connection().await;
    let Answer { status, .. } = raw(&channel, SAY, &[("millet-key", "kind 5")], framed(&[])).await;
    assert_eq!(status.code(), Code::ResourceExhausted);
    let grain = status.metadata().get("millet-error-grain").and_then(|v| v.to_str().ok());
    assert_eq!(grain, Some("arena.Echo/kind%205"));
    let details = status.details();
    for part in
        ["type.googleapis.com/google.rpc.RetryInfo", "type.googleapis.com/google.rpc.ErrorInfo", "Overloaded"]
    {
        assert!(details.windows(part.len()).any(|w| w == part.as_bytes()), "{part}");
    }
}

#[tokio::test]
async fn reflection_lists_every_contract_first_interface_in_both_versions() {
    use tonic_reflection::pb::{v1, v1alpha};
    let gateway = Gateway::start().await;
    let channel = gateway.channel().await;
    let wanted = ["arena.Duel", "arena.Echo", "grpc.health.v1.Health"];

    let ask = v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(v1::server_reflection_request::MessageRequest::ListServices(String::new())),
    };
    let mut client = v1::server_reflection_client::ServerReflectionClient::new(channel.clone());
    let mut answers =
        client.server_reflection_info(tokio_stream::once(ask)).await.expect("answers").into_inner();
    let answer = answers.message().await.expect("no error").expect("one answer");
    let Some(v1::server_reflection_response::MessageResponse::ListServicesResponse(list)) =
        answer.message_response
    else {
        panic!("a list")
    };
    let names: Vec<String> = list.service.into_iter().map(|s| s.name).collect();
    assert!(wanted.iter().all(|w| names.iter().any(|n| n == w)), "{names:?}");
    assert!(!names.iter().any(|n| n == "realm.Rank"), "Rust-first interfaces have no descriptor");

    let ask = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(v1alpha::server_reflection_request::MessageRequest::FileContainingSymbol(
            "arena.Duel".into(),
        )),
    };
    let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(channel);
    let mut answers =
        client.server_reflection_info(tokio_stream::once(ask)).await.expect("answers").into_inner();
    let answer = answers.message().await.expect("no error").expect("one answer");
    assert!(matches!(
        answer.message_response,
        Some(v1alpha::server_reflection_response::MessageResponse::FileDescriptorResponse(f)) if !f.file_descriptor_proto.is_empty()
    ));
}

#[tokio::test]
async fn health_serves_the_whole_and_every_interface_once_told() {
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
    let gateway = Gateway::start().await;
    let mut client = HealthClient::new(gateway.channel().await);
    let mut check = async |name: &str| {
        client.check(HealthCheckRequest { service: name.into() }).await.map(|r| r.into_inner().status)
    };
    gateway.health.set_serving(true).await;
    for name in ["", "arena.Duel", "realm.Rank"] {
        assert_eq!(check(name).await.ok(), Some(1), "{name:?} serves");
    }
    gateway.health.set_serving(false).await;
    assert_eq!(check("arena.Duel").await.ok(), Some(2), "not serving");
    assert_eq!(check("arena.Nobody").await.err().map(|s| s.code()), Some(Code::NotFound));
}
