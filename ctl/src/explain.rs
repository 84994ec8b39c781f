//! What a failed call means to the person at the keyboard: one line for what happened, one for what to do.
//! Pure; the kinds are those of docs/errors.md.

use millet_core::{CallError, ErrorKind};

/// What happened, and what to do next.
pub fn problem(error: &CallError<String>) -> (String, &'static str) {
    match error {
        CallError::App(said) => (
            format!("refused: {said}"),
            "the grain ran and said no: change the arguments, or what it objects to",
        ),
        CallError::Platform(p) => (p.to_string(), next(p.kind())),
    }
}

fn next(kind: &ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Unavailable { .. } => {
            "check that a node answers at this endpoint (its node.api_listen) and the cluster has a quorum, then call again"
        }
        ErrorKind::Moved { .. } | ErrorKind::Fenced => "nothing ran: call again",
        ErrorKind::Overloaded { .. } | ErrorKind::Quarantined { .. } => {
            "nothing ran: call again after the time above"
        }
        ErrorKind::DeadlineExceeded { .. } => "nothing ran: give it more time with --timeout",
        ErrorKind::Unknown { .. } => "read back what the call would have changed before you repeat it",
        ErrorKind::NoSuchGrain { .. } => {
            "take a type that the cluster hosts: package.Service, or the name in #[grain(name = ...)]"
        }
        ErrorKind::NoSuchMethod { .. } => "take a method of this type, spelled as declared",
        ErrorKind::BadKey { .. } => "write TYPE/KEY with the kind of key that the type declares",
        ErrorKind::BadArgument { .. } => "write the arguments as a JSON object with the method's fields",
        ErrorKind::TooLarge { .. } => "send less",
        ErrorKind::CallCycle { .. } => "break the ring, or make the methods on it &self",
        ErrorKind::Unauthenticated => "log in",
        ErrorKind::PermissionDenied { .. } => "ask for the right to call it",
        ErrorKind::Panicked { .. } => {
            "find the id in the node's log; the next call loads the saved state again"
        }
        ErrorKind::ActivateFailed { .. } => "see the node's log for the grain's own words, then call again",
        // The enum may grow; a kind without words of its own still gets three lines.
        _ => "see docs/errors.md",
    }
}

/// Without line breaks: an error has three lines, whatever it quotes.
pub fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_error_has_words_of_its_own() {
        for kind in ErrorKind::one_of_each() {
            let (what, next) = problem(&CallError::Platform(kind.clone().into()));
            assert!(!what.is_empty() && next != "see docs/errors.md", "{}", kind.name());
        }
    }

    #[test]
    fn what_a_grain_says_stays_on_one_line() {
        let (what, _) = problem(&CallError::App("no:\n  not\ttoday\r\n".into()));
        assert_eq!(one_line(&what), "refused: no: not today");
    }
}
