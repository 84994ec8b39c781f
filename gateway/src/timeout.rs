//! The `grpc-timeout` header, and how much of it the way back may take.

use std::time::Duration;

use http::HeaderMap;
use millet_core::{ErrorKind, limits};

/// The caller's time: what the header says, at most [`limits::MAX_DEADLINE`], without a header
/// [`limits::DEFAULT_DEADLINE`].
///
/// # Errors
/// `BadArgument` if the header is malformed (tonic itself would let the call run without a limit).
pub(crate) fn of(headers: &HeaderMap) -> Result<Duration, ErrorKind> {
    Ok(in_header(headers)?.unwrap_or(limits::DEFAULT_DEADLINE))
}

/// What the header says, if it is there; see [`of`].
pub(crate) fn in_header(headers: &HeaderMap) -> Result<Option<Duration>, ErrorKind> {
    let Some(value) = headers.get("grpc-timeout") else { return Ok(None) };
    let text = value.to_str().unwrap_or("");
    match parse(text) {
        Some(d) => Ok(Some(d.min(limits::MAX_DEADLINE))),
        None => {
            let shown: String = text.chars().take(40).collect();
            let why = format!("grpc-timeout {shown:?} is not 1 to 8 digits and one of H, M, S, m, u, n");
            Err(ErrorKind::BadArgument { why })
        }
    }
}

fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if !(1..=8).contains(&digits.len()) || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let n: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(n * 3600)),
        "M" => Some(Duration::from_secs(n * 60)),
        "S" => Some(Duration::from_secs(n)),
        "m" => Some(Duration::from_millis(n)),
        "u" => Some(Duration::from_micros(n)),
        "n" => Some(Duration::from_nanos(n)),
        _ => None,
    }
}

/// The deadline given to the call itself: a little earlier than the caller's, so that the typed answer
/// gets there before the caller (and tonic's own timer, which answers CANCELLED) gives up.
pub(crate) fn for_call(caller: Duration) -> Duration {
    caller - (caller / 10).min(Duration::from_millis(10))
}

/// When [`crate::Repair`] answers if nothing else did: between the call's deadline and the caller's.
pub(crate) fn for_answer(caller: Duration) -> Duration {
    caller - (caller / 20).min(Duration::from_millis(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_grammar_of_the_specification_is_read() {
        for (text, wanted) in [
            ("100m", Some(100)),
            ("1S", Some(1_000)),
            ("2M", Some(120_000)),
            ("1H", Some(3_600_000)),
            ("5000u", Some(5)),
            ("0m", Some(0)),
            ("99999999m", Some(99_999_999)),
            ("", None),
            ("m", None),
            ("100", None),
            ("123456789m", None),
            ("-1m", None),
            ("1.5S", None),
            ("1s", None),
            ("1 S", None),
            ("1ö", None),
        ] {
            assert_eq!(parse(text).map(|d| d.as_millis()), wanted, "{text:?}");
        }
    }

    #[test]
    fn a_malformed_timeout_is_refused_and_a_long_one_cut() {
        let headers = |v: &str| {
            HeaderMap::from_iter([(http::HeaderName::from_static("grpc-timeout"), v.parse().expect("ascii"))])
        };
        assert!(matches!(of(&headers("soon")), Err(ErrorKind::BadArgument { .. })));
        assert_eq!(of(&headers("9H")), Ok(limits::MAX_DEADLINE));
        assert_eq!(of(&HeaderMap::new()), Ok(limits::DEFAULT_DEADLINE));
    }

    #[test]
    fn the_call_ends_before_the_answer_and_the_answer_before_the_caller() {
        for ms in [1, 5, 100, 10_000] {
            let caller = Duration::from_millis(ms);
            assert!(for_call(caller) < for_answer(caller) && for_answer(caller) < caller);
        }
    }
}
