//! The error table: what an error says about the turn decides whether anyone may send the call again.

use std::time::Duration;

use millet_core::{CallError, ErrorKind, GrainId, GrainType, PlatformError, Ran, Refusal};

fn every_kind() -> Vec<ErrorKind> {
    let text = String::new;
    let kinds = vec![
        ErrorKind::Moved { holder: None, node: None, grant: None },
        ErrorKind::Fenced,
        ErrorKind::Unauthenticated,
        ErrorKind::PermissionDenied { method: text() },
        ErrorKind::Unavailable { what: text() },
        ErrorKind::Overloaded { retry_after: Duration::ZERO, what: text() },
        ErrorKind::DeadlineExceeded { blocker: None },
        ErrorKind::Unknown { why: text() },
        ErrorKind::CallCycle { chain: text() },
        ErrorKind::NoSuchGrain { ty: text(), known: text() },
        ErrorKind::NoSuchMethod { method: text() },
        ErrorKind::BadKey { why: text() },
        ErrorKind::BadArgument { why: text() },
        ErrorKind::TooLarge { what: text(), limit: 0 },
        ErrorKind::Panicked { id: 0 },
        ErrorKind::ActivateFailed { why: text() },
        ErrorKind::Quarantined { retry_after: Duration::ZERO },
    ];
    let names: std::collections::BTreeSet<&str> = kinds.iter().map(ErrorKind::name).collect();
    assert_eq!(names.len(), kinds.len(), "two kinds share a name");
    kinds
}

#[test]
fn r13_only_what_did_not_start_is_followed_or_retried() {
    for kind in every_kind() {
        if kind.is_followed() || kind.is_retryable() {
            assert_eq!(kind.ran(), Ran::No, "{}", kind.name());
        }
    }
}

#[test]
fn r13_the_directory_follows_moved_and_fenced_and_nothing_else() {
    let followed: Vec<&str> = every_kind().iter().filter(|k| k.is_followed()).map(ErrorKind::name).collect();
    assert_eq!(followed, ["Moved", "Fenced"]);
}

#[test]
fn an_unknown_outcome_is_never_told_as_a_failure() {
    let unknown: Vec<&str> =
        every_kind().iter().filter(|k| k.ran() == Ran::Unknown).map(ErrorKind::name).collect();
    assert_eq!(unknown, ["Unknown"]);
}

#[test]
fn an_error_names_the_innermost_grain_that_failed() {
    let id = |name: &str| GrainId::new(GrainType::new(name).unwrap(), 7_u64);
    let error = PlatformError::new(ErrorKind::Fenced).at(&id("Inner")).at(&id("Outer"));
    assert_eq!(error.grain(), Some(&id("Inner")));
    assert!(error.to_string().starts_with("Inner/7: "));
}

#[test]
fn a_platform_error_is_told_once_however_deep_it_is_reported() {
    let error: CallError<Refusal> = PlatformError::new(ErrorKind::Fenced).into();
    let source = std::error::Error::source(&error);
    assert!(source.is_none(), "the chain would repeat {source:?}");
}
