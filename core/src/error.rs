//! One table of errors (docs/errors.md). Nobody invents another.
//!
//! Every error says what happened, whether the turn ran, and names the innermost grain that failed.

use std::{fmt, time::Duration};

use bytes::Bytes;

use crate::{GrainId, Grant, NodeId, SessionId};

/// Whether the turn that a failed call asked for ran.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Ran {
    /// It did not start, and will not.
    No,
    /// It ran to an end.
    Yes,
    /// Nobody can tell: read back before repeating what is not idempotent.
    Unknown,
}

/// What went wrong between a caller and a grain.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Held by another session; followed inside the platform.
    Moved {
        /// The holder's session, where known.
        holder: Option<SessionId>,
        /// The holder's node, where known.
        node: Option<NodeId>,
        /// The grant it holds, where known; a hint is followed only to a higher one.
        grant: Option<Grant>,
    },
    /// The activation lost its lease before the turn started; followed inside the platform.
    Fenced,
    /// No or bad credentials.
    Unauthenticated,
    /// The caller may not call this method.
    PermissionDenied {
        /// The method, `Service.Method`.
        method: String,
    },
    /// No session, no quorum, an ownerless shard: retry with back-off.
    Unavailable {
        /// What is missing.
        what: String,
    },
    /// A bounded queue is full: slow down.
    Overloaded {
        /// When to try again.
        retry_after: Duration,
        /// Which queue.
        what: String,
    },
    /// The deadline passed before the turn started.
    DeadlineExceeded {
        /// What was in the way, where known: grain, method, for how long.
        blocker: Option<String>,
    },
    /// The turn may have run: link lost, timed out while running, fenced at exit.
    Unknown {
        /// Why the outcome is unknown.
        why: String,
    },
    /// The call would wait for itself.
    CallCycle {
        /// The chain, `A/1 -> B/2 -> A/1`.
        chain: String,
    },
    /// No such grain type here.
    NoSuchGrain {
        /// The type asked for.
        ty: String,
        /// Some known types, for the message.
        known: String,
    },
    /// The type has no such method.
    NoSuchMethod {
        /// Type and method.
        method: String,
    },
    /// The key is not one of this type's.
    BadKey {
        /// What is wrong with it.
        why: String,
    },
    /// The arguments cannot be read.
    BadArgument {
        /// Which field, and what is wrong.
        why: String,
    },
    /// A message or state over its limit.
    TooLarge {
        /// What, its size and its limit, in bytes.
        what: String,
        /// The limit in bytes.
        limit: usize,
    },
    /// The grain's code panicked; its activation ended, its state is loaded again next time.
    Panicked {
        /// Find it in the log by this id.
        id: u64,
    },
    /// The grain could not be activated.
    ActivateFailed {
        /// What its `activate` or its store said.
        why: String,
    },
    /// Panicked too often: calls are refused for a while.
    Quarantined {
        /// For how much longer.
        retry_after: Duration,
    },
}

impl ErrorKind {
    /// Whether the turn ran.
    pub fn ran(&self) -> Ran {
        match self {
            Self::Unknown { .. } => Ran::Unknown,
            Self::Panicked { .. } => Ran::Yes,
            Self::Moved { .. }
            | Self::Fenced
            | Self::Unauthenticated
            | Self::PermissionDenied { .. }
            | Self::Unavailable { .. }
            | Self::Overloaded { .. }
            | Self::DeadlineExceeded { .. }
            | Self::CallCycle { .. }
            | Self::NoSuchGrain { .. }
            | Self::NoSuchMethod { .. }
            | Self::BadKey { .. }
            | Self::BadArgument { .. }
            | Self::TooLarge { .. }
            | Self::ActivateFailed { .. }
            | Self::Quarantined { .. } => Ran::No,
        }
    }

    /// Whether the same call may succeed later without a change of the program.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::Moved { .. }
                | Self::Fenced
                | Self::Unavailable { .. }
                | Self::Overloaded { .. }
                | Self::ActivateFailed { .. }
                | Self::Quarantined { .. }
        )
    }

    /// Whether the directory follows it (R13).
    pub fn is_followed(&self) -> bool {
        matches!(self, Self::Moved { .. } | Self::Fenced)
    }

    /// One of each kind, with every field set: tables over all kinds are tested against this.
    pub fn one_of_each() -> Vec<Self> {
        let retry_after = Duration::from_millis(1_500);
        let text = |s: &str| s.to_owned();
        vec![
            Self::Moved {
                holder: Some(SessionId(7)),
                node: Some(NodeId(3)),
                grant: Some(Grant { generation: 1, index: 9 }),
            },
            Self::Fenced,
            Self::Unauthenticated,
            Self::PermissionDenied { method: text("Player.AddGold") },
            Self::Unavailable { what: text("no quorum") },
            Self::Overloaded { retry_after, what: text("mailbox") },
            Self::DeadlineExceeded { blocker: Some(text("Rank/gold report for 3s")) },
            Self::Unknown { why: text("link lost") },
            Self::CallCycle { chain: text("A/1 -> B/2 -> A/1") },
            Self::NoSuchGrain { ty: text("Hero"), known: text("Player, Rank") },
            Self::NoSuchMethod { method: text("Player.Fly") },
            Self::BadKey { why: text("empty") },
            Self::BadArgument { why: text("field gold: negative") },
            Self::TooLarge { what: text("arguments of 9 bytes"), limit: 8 },
            Self::Panicked { id: 0xfeed },
            Self::ActivateFailed { why: text("store said no") },
            Self::Quarantined { retry_after },
        ]
    }

    /// The name in docs/errors.md and on the wire.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Moved { .. } => "Moved",
            Self::Fenced => "Fenced",
            Self::Unauthenticated => "Unauthenticated",
            Self::PermissionDenied { .. } => "PermissionDenied",
            Self::Unavailable { .. } => "Unavailable",
            Self::Overloaded { .. } => "Overloaded",
            Self::DeadlineExceeded { .. } => "DeadlineExceeded",
            Self::Unknown { .. } => "Unknown",
            Self::CallCycle { .. } => "CallCycle",
            Self::NoSuchGrain { .. } => "NoSuchGrain",
            Self::NoSuchMethod { .. } => "NoSuchMethod",
            Self::BadKey { .. } => "BadKey",
            Self::BadArgument { .. } => "BadArgument",
            Self::TooLarge { .. } => "TooLarge",
            Self::Panicked { .. } => "Panicked",
            Self::ActivateFailed { .. } => "ActivateFailed",
            Self::Quarantined { .. } => "Quarantined",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Moved { node: Some(n), .. } => write!(f, "moved to node {n}"),
            Self::Moved { .. } => f.write_str("moved; ask the metadata store"),
            Self::Fenced => f.write_str("the activation lost its lease before the turn started"),
            Self::Unauthenticated => f.write_str("not authenticated; log in"),
            Self::PermissionDenied { method } => write!(f, "not allowed to call {method}; ask for the right"),
            Self::Unavailable { what } => write!(f, "unavailable: {what}; retry with back-off"),
            Self::Overloaded { retry_after, what } => {
                write!(f, "overloaded: {what}; retry after {retry_after:?}")
            }
            Self::DeadlineExceeded { blocker: Some(b) } => {
                write!(f, "deadline passed before the turn started, behind {b}")
            }
            Self::DeadlineExceeded { blocker: None } => {
                f.write_str("deadline passed before the turn started")
            }
            Self::Unknown { why } => write!(f, "outcome unknown: {why}; read back before repeating"),
            Self::CallCycle { chain } => write!(f, "the call would wait for itself: {chain}"),
            Self::NoSuchGrain { ty, known } if known.is_empty() => write!(f, "no grain type {ty:?}"),
            Self::NoSuchGrain { ty, known } => write!(f, "no grain type {ty:?}; known: {known}"),
            Self::NoSuchMethod { method } => write!(f, "no method {method}"),
            Self::BadKey { why } => write!(f, "bad key: {why}"),
            Self::BadArgument { why } => write!(f, "bad argument: {why}"),
            Self::TooLarge { what, limit } => {
                write!(f, "too large: {what} is over the limit of {limit} bytes")
            }
            Self::Panicked { id } => write!(f, "the grain panicked (id {id:016x} in the log)"),
            Self::ActivateFailed { why } => write!(f, "activation failed: {why}"),
            Self::Quarantined { retry_after } => {
                write!(f, "quarantined after repeated panics; retry after {retry_after:?}")
            }
        }
    }
}

impl std::error::Error for ErrorKind {}

/// A failed call, as the platform reports it: what, and which grain (the innermost that failed).
#[derive(Clone, PartialEq, Eq)]
pub struct PlatformError(Box<(ErrorKind, Option<GrainId>)>);

impl PlatformError {
    /// An error that names no grain yet.
    pub fn new(kind: ErrorKind) -> Self {
        Self(Box::new((kind, None)))
    }

    /// Names the grain, unless a more inner one is already named.
    #[must_use]
    pub fn at(mut self, grain: &GrainId) -> Self {
        self.0.1.get_or_insert_with(|| grain.clone());
        self
    }

    /// What went wrong.
    pub fn kind(&self) -> &ErrorKind {
        &self.0.0
    }

    /// The innermost grain that failed, where there is one.
    pub fn grain(&self) -> Option<&GrainId> {
        self.0.1.as_ref()
    }

    /// Whether the turn ran.
    pub fn ran(&self) -> Ran {
        self.kind().ran()
    }

    /// Takes it apart.
    pub fn into_parts(self) -> (ErrorKind, Option<GrainId>) {
        *self.0
    }
}

impl From<ErrorKind> for PlatformError {
    fn from(kind: ErrorKind) -> Self {
        Self::new(kind)
    }
}

impl fmt::Display for PlatformError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.grain() {
            Some(g) => write!(f, "{g}: {}", self.kind()),
            None => write!(f, "{}", self.kind()),
        }
    }
}
impl fmt::Debug for PlatformError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PlatformError({self})")
    }
}
impl std::error::Error for PlatformError {}

/// What a typed call returns when it fails.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CallError<E> {
    /// The grain ran and refused.
    #[error("refused: {0}")]
    App(E),
    /// The platform could not carry the call out.
    #[error(transparent)]
    Platform(#[from] PlatformError),
}

impl<E> CallError<E> {
    /// Whether the turn ran.
    pub fn ran(&self) -> Ran {
        match self {
            Self::App(_) => Ran::Yes,
            Self::Platform(p) => p.ran(),
        }
    }
}

/// The application error of contract-first grains.
#[derive(Clone, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Refusal {
    /// A gRPC status code (3 invalid argument, 5 not found, 9 failed precondition, …).
    pub code: i32,
    /// For the caller: lower case, names the thing.
    pub message: String,
    /// Anything else, by the application's own convention.
    pub details: Vec<u8>,
}

impl Refusal {
    /// A refusal without details.
    pub fn new(code: i32, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: Vec::new() }
    }
    /// The caller's argument is wrong (3).
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(3, message)
    }
    /// What was asked for is not there (5).
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(5, message)
    }
    /// Not in this state (9).
    pub fn failed_precondition(message: impl Into<String>) -> Self {
        Self::new(9, message)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
impl std::error::Error for Refusal {}

/// An application error in wire form.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AppError {
    /// Contract-first.
    Refusal(Refusal),
    /// Rust-first: the method's own error type, named-field MessagePack.
    Encoded(Bytes),
}

/// How a call ends, in wire form: the encoded result, the application's error, or the platform's.
pub type Outcome = Result<Bytes, CallError<AppError>>;

impl fmt::Display for AppError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refusal(r) => r.fmt(f),
            Self::Encoded(b) => write!(f, "an application error of {} bytes", b.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A new kind must be added to the match (or this does not compile) and to `one_of_each`.
    #[test]
    fn one_of_each_kind_is_one_of_each() {
        let number = |kind: &ErrorKind| match kind {
            ErrorKind::Moved { .. } => 0,
            ErrorKind::Fenced => 1,
            ErrorKind::Unauthenticated => 2,
            ErrorKind::PermissionDenied { .. } => 3,
            ErrorKind::Unavailable { .. } => 4,
            ErrorKind::Overloaded { .. } => 5,
            ErrorKind::DeadlineExceeded { .. } => 6,
            ErrorKind::Unknown { .. } => 7,
            ErrorKind::CallCycle { .. } => 8,
            ErrorKind::NoSuchGrain { .. } => 9,
            ErrorKind::NoSuchMethod { .. } => 10,
            ErrorKind::BadKey { .. } => 11,
            ErrorKind::BadArgument { .. } => 12,
            ErrorKind::TooLarge { .. } => 13,
            ErrorKind::Panicked { .. } => 14,
            ErrorKind::ActivateFailed { .. } => 15,
            ErrorKind::Quarantined { .. } => 16,
        };
        let numbers: Vec<i32> = ErrorKind::one_of_each().iter().map(number).collect();
        assert_eq!(numbers, (0..=16).collect::<Vec<_>>());
    }
}
