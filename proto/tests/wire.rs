//! Wire forms: what goes out comes back the same, golden bytes never change, bad values are errors.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use millet_core::{
    AppError, BootTime, CallError, Chain, Envelope, Epoch, ErrorKind, Frame, GrainId, GrainType, Grant, Key,
    MethodId, NodeId, Outcome, PlatformError, Refusal, RequestId, Sender, SessionId,
};
use millet_proto::{
    common::{outcome_from_wire, outcome_to_wire},
    peer::{call_from_wire, call_to_wire},
    wire,
};
use prost::Message as _;

fn grain() -> GrainId {
    GrainId::new(GrainType::new("realm.Player").expect("a good name"), Key::Int(42))
}

fn envelope() -> Envelope {
    Envelope {
        target: grain(),
        method: MethodId(0xAABB_CCDD),
        args: Bytes::from_static(b"args"),
        request: RequestId(7),
        deadline: BootTime(5_000_000_000),
        chain: Chain::default().with(Frame { grain: grain(), shared: true }),
        sender: Some(Sender {
            session: SessionId(9),
            epoch: Some(Epoch { grant: Grant { generation: 1, index: 88 }, activation: 3 }),
        }),
        grant: Some(Grant { generation: 1, index: 99 }),
        one_way: false,
        context: Arc::new(vec![("k".into(), "v".into())]),
    }
}

#[test]
fn a_call_comes_back_as_it_was() {
    let wire = wire::Call::decode(call_to_wire(5, &envelope()).encode_to_vec().as_slice()).expect("decodes");
    assert_eq!((wire.id, wire.deadline_ms), (5, 5_000));
    let back = call_from_wire(wire, SessionId(9), BootTime(5_000_000_000)).expect("valid");
    assert_eq!(format!("{back:?}"), format!("{:?}", envelope()));
}

/// A change here breaks rolling upgrades.
#[test]
fn golden_bytes_of_a_call() {
    let hex: String =
        call_to_wire(5, &envelope()).encode_to_vec().iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(hex, GOLDEN_CALL);
}
const GOLDEN_CALL: &str = concat!(
    "080512120a0c7265616c6d2e506c617965721202082a1dddccbbaa2204617267732a1000000000000000000000000000",
    "0000073088273a160a120a0c7265616c6d2e506c617965721202082a100142080a040801105810034a04080110635a06",
    "0a016b120176"
);

#[test]
fn every_error_comes_back_as_it_was() {
    let s = || "x".to_owned();
    let kinds = [
        ErrorKind::Moved {
            holder: Some(SessionId(3)),
            node: Some(NodeId(4)),
            grant: Some(Grant { generation: 1, index: 2 }),
        },
        ErrorKind::Moved { holder: None, node: None, grant: None },
        ErrorKind::Fenced,
        ErrorKind::Unauthenticated,
        ErrorKind::PermissionDenied { method: s() },
        ErrorKind::Unavailable { what: s() },
        ErrorKind::Overloaded { retry_after: Duration::from_millis(5), what: s() },
        ErrorKind::DeadlineExceeded { blocker: None },
        ErrorKind::DeadlineExceeded { blocker: Some(s()) },
        ErrorKind::Unknown { why: s() },
        ErrorKind::CallCycle { chain: s() },
        ErrorKind::NoSuchGrain { ty: s(), known: "y".into() },
        ErrorKind::NoSuchMethod { method: s() },
        ErrorKind::BadKey { why: s() },
        ErrorKind::BadArgument { why: s() },
        ErrorKind::TooLarge { what: s(), limit: 17 },
        ErrorKind::Panicked { id: 3 },
        ErrorKind::ActivateFailed { why: s() },
        ErrorKind::Quarantined { retry_after: Duration::from_secs(1) },
    ];
    for kind in kinds {
        let sent: Outcome = Err(CallError::Platform(PlatformError::new(kind).at(&grain())));
        assert_eq!(outcome_from_wire(outcome_to_wire(sent.clone())).expect("valid"), sent);
    }
}

#[test]
fn application_outcomes_come_back_as_they_were() {
    let refusal = Refusal { code: 9, message: "no".into(), details: vec![1, 2] };
    for sent in [
        Ok(Bytes::from_static(b"ok")),
        Err(CallError::App(AppError::Refusal(refusal))),
        Err(CallError::App(AppError::Encoded(Bytes::from_static(b"e")))),
    ] {
        assert_eq!(outcome_from_wire(outcome_to_wire(sent.clone())).expect("valid"), sent);
    }
}

/// A newer peer's error must not be taken for "did not run".
#[test]
fn an_unknown_error_kind_claims_nothing() {
    let e = wire::Error { kind: "Sideways".into(), ..Default::default() };
    let p = PlatformError::try_from(e).expect("valid");
    assert_eq!(p.ran(), millet_core::Ran::Unknown);
}

#[test]
fn bad_values_are_errors_that_name_the_field() {
    let call = || call_to_wire(1, &envelope());
    let show = |c: wire::Call| match call_from_wire(c, SessionId(1), BootTime(0)) {
        Ok(_) => "accepted".to_owned(),
        Err(e) => e.to_string(),
    };
    let key = |text: String| wire::GrainId {
        r#type: "T".into(),
        key: Some(wire::Key { kind: Some(wire::key::Kind::Text(text)) }),
    };
    assert_eq!(show(wire::Call { target: None, ..call() }), "Call.target: missing");
    assert_eq!(show(wire::Call { request: Bytes::new(), ..call() }), "Call.request: 0 bytes, want 16");
    assert!(show(wire::Call { target: Some(key(String::new())), ..call() }).contains("empty"));
    assert!(show(wire::Call { target: Some(key("k".repeat(1025))), ..call() }).contains("1024"));
    assert!(show(wire::Call { target: Some(key("a\u{0}b".into())), ..call() }).contains("control"));
    let chain = vec![wire::ChainFrame { grain: Some(grain().into()), shared: false }; 33];
    assert!(show(wire::Call { chain, ..call() }).contains("limit of 32"));
    let context = vec![wire::ContextEntry { key: "k".into(), value: "v".repeat(5000) }];
    assert!(show(wire::Call { context, ..call() }).starts_with("context"));
}
