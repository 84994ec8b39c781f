//! The error table as gRPC statuses, both ways: what a gateway sends to any client in any language, and
//! how Millet's own client gets the typed error back.
//!
//! Foreign clients read the code, the message, `google.rpc` details (RetryInfo, ErrorInfo) and the
//! metadata `millet-error-kind` and `millet-error-grain`. Millet's client reads `millet-error-bin`, the
//! outcome in wire form.

use std::time::Duration;

use bytes::Bytes;
use millet_core::{AppError, CallError, ErrorKind, Outcome, PlatformError};
use prost::Message as _;
use tonic::{Code, Status, metadata::MetadataValue};

use crate::{
    common::{outcome_from_wire, outcome_to_wire},
    wire,
};

/// Metadata: the name of the error kind, `App` for an application's own error.
pub const KIND: &str = "millet-error-kind";
/// Metadata: the innermost grain that failed, `type/key`, percent-encoded outside printable ASCII.
pub const GRAIN: &str = "millet-error-grain";
/// Metadata: the outcome in wire form.
pub const OUTCOME: &str = "millet-error-bin";

/// Texts longer than this are cut in statuses: peers commonly refuse more than 8 KiB of headers.
const TEXT_BYTES: usize = 1024;
/// An application's error up to this size travels in a status; base64 makes it a third larger.
const APP_BYTES: usize = 4096;
/// What clients are told to wait where the error itself does not say.
const RETRY_AFTER: Duration = Duration::from_millis(250);

/// The status for a failed call. `late`: its deadline has passed, which decides between the two codes
/// that an unknown outcome may have.
pub fn to_status(error: CallError<AppError>, late: bool) -> Status {
    match error {
        CallError::App(AppError::Refusal(r)) => {
            let code = match r.code {
                1..=16 => Code::from(r.code),
                _ => Code::Unknown,
            };
            let mut status = Status::new(code, cut(&r.message));
            let fits = r.details.len() + r.message.len() <= APP_BYTES;
            let error = if fits {
                AppError::Refusal(r)
            } else {
                AppError::Refusal(millet_core::Refusal::new(r.code, cut(&r.message)))
            };
            mark(&mut status, "App", None, Err(CallError::App(error)));
            status
        }
        CallError::App(AppError::Encoded(bytes)) => {
            let fits = bytes.len() <= APP_BYTES;
            let text = format!("the grain's own error, {} bytes of MessagePack", bytes.len());
            let mut status = Status::new(Code::Unknown, text);
            let error = if fits {
                CallError::App(AppError::Encoded(bytes))
            } else {
                let why =
                    format!("the grain's own error of {} bytes does not fit into a status", bytes.len());
                CallError::Platform(ErrorKind::Unknown { why }.into())
            };
            mark(&mut status, "App", None, Err(error));
            status
        }
        CallError::Platform(error) => platform(error, late),
    }
}

fn platform(error: PlatformError, late: bool) -> Status {
    let name = error.kind().name();
    let grain = error.grain().map(ToString::to_string);
    let details = details(error.kind(), grain.as_deref());
    let code = code(error.kind(), late);
    let mut status = Status::with_details(code, cut(&error.to_string()), Bytes::new());
    let details = rpc::Status { code: code.into(), message: status.message().to_owned(), details };
    status = Status::with_details(code, status.message().to_owned(), details.encode_to_vec().into());
    mark(&mut status, name, grain.as_deref(), Err(CallError::Platform(error)));
    status
}

/// The gRPC code of a kind (the table of docs/errors.md).
pub fn code(kind: &ErrorKind, late: bool) -> Code {
    match kind {
        ErrorKind::Unauthenticated => Code::Unauthenticated,
        ErrorKind::PermissionDenied { .. } => Code::PermissionDenied,
        ErrorKind::Moved { .. }
        | ErrorKind::Fenced
        | ErrorKind::Unavailable { .. }
        | ErrorKind::ActivateFailed { .. }
        | ErrorKind::Quarantined { .. } => Code::Unavailable,
        ErrorKind::Overloaded { .. } | ErrorKind::TooLarge { .. } => Code::ResourceExhausted,
        ErrorKind::DeadlineExceeded { .. } => Code::DeadlineExceeded,
        ErrorKind::Unknown { .. } if late => Code::DeadlineExceeded,
        ErrorKind::CallCycle { .. } => Code::FailedPrecondition,
        ErrorKind::NoSuchGrain { .. } => Code::NotFound,
        ErrorKind::NoSuchMethod { .. } => Code::Unimplemented,
        ErrorKind::BadKey { .. } | ErrorKind::BadArgument { .. } => Code::InvalidArgument,
        ErrorKind::Panicked { .. } => Code::Internal,
        // `Unknown` itself, and kinds this crate does not know yet: claim least.
        _ => Code::Unknown,
    }
}

fn details(kind: &ErrorKind, grain: Option<&str>) -> Vec<rpc::Any> {
    let retry_after = match kind {
        ErrorKind::Overloaded { retry_after, .. } | ErrorKind::Quarantined { retry_after } => {
            Some(*retry_after)
        }
        kind if kind.is_retryable() => Some(RETRY_AFTER),
        _ => None,
    };
    let info = rpc::ErrorInfo {
        reason: kind.name().to_owned(),
        domain: "millet".to_owned(),
        metadata: grain.map(|g| ("grain".to_owned(), cut(g))).into_iter().collect(),
    };
    let mut details = vec![rpc::Any::of("google.rpc.ErrorInfo", &info)];
    if let Some(d) = retry_after {
        let delay = rpc::Duration {
            seconds: i64::try_from(d.as_secs()).unwrap_or(i64::MAX),
            nanos: i32::try_from(d.subsec_nanos()).unwrap_or(0),
        };
        details.push(rpc::Any::of("google.rpc.RetryInfo", &rpc::RetryInfo { retry_delay: Some(delay) }));
    }
    details
}

fn mark(status: &mut Status, kind: &'static str, grain: Option<&str>, outcome: Outcome) {
    let metadata = status.metadata_mut();
    metadata.insert(KIND, MetadataValue::from_static(kind));
    if let Some(value) = grain.and_then(|g| MetadataValue::try_from(percent(&cut(g))).ok()) {
        metadata.insert(GRAIN, value);
    }
    let mut outcome = outcome_to_wire(outcome);
    if let Some(wire::outcome::Kind::Error(e)) = &mut outcome.kind {
        e.text = cut(&e.text);
        e.text2 = cut(&e.text2);
    }
    metadata.insert_bin(OUTCOME, MetadataValue::from_bytes(&outcome.encode_to_vec()));
}

/// The error of a status that a Millet gateway made; `None` for any other status.
pub fn from_status(status: &Status) -> Option<CallError<AppError>> {
    let bytes = status.metadata().get_bin(OUTCOME)?.to_bytes().ok()?;
    outcome_from_wire(wire::Outcome::decode(bytes).ok()?).ok()?.err()
}

/// At most [`TEXT_BYTES`], cut between characters.
pub fn cut(text: &str) -> String {
    if text.len() <= TEXT_BYTES {
        return text.to_owned();
    }
    format!("{}…", &text[..text.floor_char_boundary(TEXT_BYTES)])
}

fn percent(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for b in text.bytes() {
        if b.is_ascii_graphic() && b != b'%' {
            out.push(char::from(b));
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
    }
    out
}

/// The messages of `google/rpc/*.proto` that we send.
mod rpc {
    use std::collections::HashMap;

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Status {
        #[prost(int32, tag = "1")]
        pub(super) code: i32,
        #[prost(string, tag = "2")]
        pub(super) message: String,
        #[prost(message, repeated, tag = "3")]
        pub(super) details: Vec<Any>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Any {
        #[prost(string, tag = "1")]
        pub(super) type_url: String,
        #[prost(bytes = "vec", tag = "2")]
        pub(super) value: Vec<u8>,
    }
    impl Any {
        pub(super) fn of(name: &str, message: &impl prost::Message) -> Self {
            Self { type_url: format!("type.googleapis.com/{name}"), value: message.encode_to_vec() }
        }
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct ErrorInfo {
        #[prost(string, tag = "1")]
        pub(super) reason: String,
        #[prost(string, tag = "2")]
        pub(super) domain: String,
        #[prost(map = "string, string", tag = "3")]
        pub(super) metadata: HashMap<String, String>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct RetryInfo {
        #[prost(message, optional, tag = "1")]
        pub(super) retry_delay: Option<Duration>,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Duration {
        #[prost(int64, tag = "1")]
        pub(super) seconds: i64,
        #[prost(int32, tag = "2")]
        pub(super) nanos: i32,
    }
}

#[cfg(test)]
mod tests {
    use millet_core::{GrainId, GrainType, Key, Refusal};

    use super::*;

    fn grain() -> GrainId {
        GrainId::new(GrainType::new("realm.Player").expect("a name"), Key::text("änna %").expect("a key"))
    }

    /// The table of docs/errors.md, every kind, both ways.
    #[test]
    fn every_kind_has_its_code_and_comes_back_as_it_was() {
        let wanted = [
            ("Moved", 14),
            ("Fenced", 14),
            ("Unauthenticated", 16),
            ("PermissionDenied", 7),
            ("Unavailable", 14),
            ("Overloaded", 8),
            ("DeadlineExceeded", 4),
            ("Unknown", 2),
            ("CallCycle", 9),
            ("NoSuchGrain", 5),
            ("NoSuchMethod", 12),
            ("BadKey", 3),
            ("BadArgument", 3),
            ("TooLarge", 8),
            ("Panicked", 13),
            ("ActivateFailed", 14),
            ("Quarantined", 14),
        ];
        let seen: Vec<(&str, i32)> =
            ErrorKind::one_of_each().iter().map(|k| (k.name(), i32::from(code(k, false)))).collect();
        assert_eq!(seen, wanted);
        for kind in ErrorKind::one_of_each() {
            let error = CallError::Platform(PlatformError::new(kind.clone()).at(&grain()));
            let status = to_status(error.clone(), false);
            assert_eq!(status.metadata().get(KIND).and_then(|v| v.to_str().ok()), Some(kind.name()));
            let shown = status.metadata().get(GRAIN).and_then(|v| v.to_str().ok());
            assert_eq!(shown, Some("realm.Player/%C3%A4nna%20%25"));
            let details = rpc::Status::decode(status.details()).expect("google.rpc.Status");
            let retry = details.details.iter().any(|d| d.type_url.ends_with("google.rpc.RetryInfo"));
            assert_eq!(retry, kind.is_retryable(), "{kind}");
            assert!(status.message().contains(&kind.to_string()));
            assert_eq!(from_status(&status), Some(error));
        }
    }

    #[test]
    fn an_unknown_outcome_after_the_deadline_is_deadline_exceeded() {
        let kind = ErrorKind::Unknown { why: "timed out while running".into() };
        assert_eq!(to_status(CallError::Platform(kind.into()), true).code(), Code::DeadlineExceeded);
    }

    #[test]
    fn an_application_error_keeps_its_code_and_details() {
        let refusal = CallError::App(AppError::Refusal(Refusal {
            code: 9,
            message: "closed".into(),
            details: vec![1, 2],
        }));
        let status = to_status(refusal.clone(), false);
        assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, "closed"));
        assert_eq!(from_status(&status), Some(refusal));
        let own = CallError::App(AppError::Encoded(vec![0x81, 0xa1].into()));
        assert_eq!(from_status(&to_status(own.clone(), false)), Some(own));
    }

    /// Code 0 would read as success, 99 is no code: both are UNKNOWN on the wire and themselves again after it.
    #[test]
    fn a_refusal_with_an_impossible_code_is_still_a_refusal() {
        for code in [0, 99, -1] {
            let refusal = CallError::App(AppError::Refusal(Refusal::new(code, "no")));
            let status = to_status(refusal.clone(), false);
            assert_eq!(status.code(), Code::Unknown);
            assert_eq!(from_status(&status), Some(refusal));
        }
    }

    #[test]
    fn large_errors_fit_into_headers() {
        let long = "x".repeat(100_000);
        let errors = [
            CallError::Platform(PlatformError::new(ErrorKind::NoSuchGrain {
                ty: long.clone(),
                known: long.clone(),
            })),
            CallError::App(AppError::Refusal(Refusal {
                code: 9,
                message: long.clone(),
                details: vec![0; 100_000],
            })),
            CallError::App(AppError::Encoded(vec![0; 100_000].into())),
        ];
        for error in errors {
            let mut headers = http_headers(&to_status(error, false));
            headers.sort_unstable();
            assert!(headers.iter().sum::<usize>() < 14_000, "{headers:?}");
        }
    }
    fn http_headers(status: &Status) -> Vec<usize> {
        let mut map = tonic::codegen::http::HeaderMap::new();
        status.add_header(&mut map).expect("valid headers");
        map.iter().map(|(k, v)| k.as_str().len() + v.len() + 32).collect()
    }

    #[test]
    fn a_foreign_status_is_not_taken_for_ours() {
        assert_eq!(from_status(&Status::unavailable("a proxy")), None);
    }
}
