//! Connections to the members, which of them is thought to lead, and what a failed attempt means.

use std::{
    error::Error as _,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tonic::{Code, Status, metadata::MetadataMap, transport::Channel};

use super::ClientError;
use crate::{
    Dial,
    service::{LEADER_HEADER, NOT_DONE_HEADER},
};

/// The first attempt ends after this: the member may be gone, or have lost its quorum.
pub(super) const ATTEMPT: Duration = Duration::from_secs(1);
/// Later attempts wait longer: a store that is merely slow must not be asked ever faster.
const ATTEMPT_MAX: Duration = Duration::from_secs(4);
/// Waits between attempts: short enough to find a new leader at once, then no storm.
const BACKOFF_MIN: Duration = Duration::from_millis(20);
/// See [`BACKOFF_MIN`].
const BACKOFF_MAX: Duration = Duration::from_millis(250);

/// Why an attempt did not give an answer.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    /// Nothing was done, for sure.
    NotDone(String),
    /// Something may have been done.
    Maybe(String),
    /// Repeating will not help.
    Refused(String),
}

impl Failure {
    pub(super) fn of(status: &Status) -> Self {
        let text = status.message().to_owned();
        if status.metadata().contains_key(NOT_DONE_HEADER) || never_connected(status) {
            return Self::NotDone(text);
        }
        match status.code() {
            Code::InvalidArgument
            | Code::FailedPrecondition
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::Unimplemented => Self::Refused(text),
            _ => Self::Maybe(text),
        }
    }

    pub(super) fn late() -> Self {
        Self::Maybe("no answer in time".into())
    }

    pub(super) fn unreadable(e: impl std::fmt::Display) -> Self {
        Self::Refused(format!("an answer that cannot be read: {e}"))
    }
}

impl From<Failure> for ClientError {
    fn from(f: Failure) -> Self {
        match f {
            Failure::NotDone(text) | Failure::Maybe(text) => {
                Self::Unavailable(format!("metadata store: {text}"))
            }
            Failure::Refused(text) => Self::Refused(text),
        }
    }
}

/// Whether the status comes from a connection that was never made: then nothing was sent.
fn never_connected(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(e) = cause {
        if e.is::<tonic::ConnectError>() {
            return true;
        }
        cause = e.source();
    }
    false
}

/// The wait before attempt `n` (counted from 1).
pub(super) fn backoff(n: u32) -> Duration {
    (BACKOFF_MIN * 2u32.saturating_pow(n.saturating_sub(1).min(8))).min(BACKOFF_MAX)
}

/// How long attempt `n` (counted from 1) waits for its answer.
pub(super) fn patience(n: u32) -> Duration {
    (ATTEMPT * 2u32.saturating_pow(n.saturating_sub(1).min(4))).min(ATTEMPT_MAX)
}

/// The members.
pub(super) struct Road {
    pub(super) cluster: Arc<str>,
    dial: Dial,
    members: Vec<(String, OnceLock<Channel>)>,
    leader: AtomicUsize,
}

impl Road {
    pub(super) fn new(cluster: &str, members: &[String], dial: Dial) -> Self {
        let members = members.iter().map(|addr| (addr.clone(), OnceLock::new())).collect();
        Self { cluster: cluster.into(), dial, members, leader: AtomicUsize::new(0) }
    }

    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    /// The connection to a member (any number; counted round). Made at its first use, on the runtime
    /// that uses it.
    pub(super) fn channel(&self, member: usize) -> Result<Channel, Failure> {
        let (addr, channel) = self
            .members
            .get(member % self.members.len().max(1))
            .ok_or_else(|| Failure::Refused("no metadata members are configured".into()))?;
        Ok(channel.get_or_init(|| (self.dial)(addr)).clone())
    }

    /// Whom to ask first.
    pub(super) fn leader(&self) -> usize {
        self.leader.load(Ordering::Relaxed)
    }

    /// Takes up a member's hint where the leader is; without one, it leads itself or does not matter.
    pub(super) fn hint(&self, from: usize, answer: &MetadataMap) {
        let at = answer
            .get(LEADER_HEADER)
            .and_then(|h| h.to_str().ok())
            .and_then(|addr| self.members.iter().position(|(a, _)| a == addr));
        self.leader.store(at.unwrap_or(from), Ordering::Relaxed);
    }

    /// After a failure: the hint if there is one, else the next member.
    pub(super) fn failed(&self, from: usize, status: Option<&Status>) {
        let hint = status.and_then(|s| s.metadata().get(LEADER_HEADER)).and_then(|h| h.to_str().ok());
        let at =
            hint.and_then(|addr| self.members.iter().position(|(a, _)| a == addr)).filter(|at| *at != from);
        self.leader.store(at.unwrap_or((from + 1) % self.members.len().max(1)), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_grows_and_is_bounded() {
        assert_eq!(backoff(1), BACKOFF_MIN);
        assert_eq!(backoff(2), BACKOFF_MIN * 2);
        assert_eq!(backoff(u32::MAX), BACKOFF_MAX);
    }

    #[test]
    fn only_a_member_that_says_so_has_surely_not_done_it() {
        assert!(matches!(Failure::of(&Status::unavailable("x")), Failure::Maybe(_)));
        let mut s = Status::unavailable("x");
        s.metadata_mut().insert(NOT_DONE_HEADER, "1".parse().unwrap());
        assert!(matches!(Failure::of(&s), Failure::NotDone(_)));
        assert!(matches!(Failure::of(&Status::failed_precondition("x")), Failure::Refused(_)));
    }
}
