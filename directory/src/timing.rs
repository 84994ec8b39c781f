//! The numbers a session lives by, and the start-up check that they fit together.
//!
//! Pure. Config calls [`SessionTiming::check`]; the reasons stand in docs/config.md.

use std::time::Duration;

use millet_core::{SessionLease, limits};

/// Cluster-wide times that decide whether a metadata failover freezes nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct SessionTiming {
    /// Time to live of a session.
    pub ttl: Duration,
    /// Between two keepalives.
    pub keepalive: Duration,
    /// Between two Ticks of the leader.
    pub tick: Duration,
    /// Longest random election timeout.
    pub election_max: Duration,
    /// Between two Raft heartbeats.
    pub heartbeat: Duration,
}

impl Default for SessionTiming {
    fn default() -> Self {
        Self {
            ttl: limits::SESSION_TTL,
            keepalive: limits::SESSION_TTL / 8,
            tick: Duration::from_millis(100),
            election_max: Duration::from_millis(600),
            heartbeat: Duration::from_millis(100),
        }
    }
}

/// The settings contradict each other: a metadata failover would outlast every session's validity.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "0.8 x ttl must be at least keepalive + 2 x tick + 3 x election_max + heartbeat + 0.2 s, but \
     {has:?} (ttl {:?}) is less than {needs:?} ({:?} + 2 x {:?} + 3 x {:?} + {:?} + 200ms); raise the ttl or lower the others",
    timing.ttl, timing.keepalive, timing.tick, timing.election_max, timing.heartbeat
)]
pub struct TimingError {
    /// The settings refused.
    pub timing: SessionTiming,
    /// What 0.8 x ttl is.
    pub has: Duration,
    /// What it would have to be.
    pub needs: Duration,
}

impl SessionTiming {
    /// Refuses settings under which losing the metadata leader freezes nodes, naming the numbers.
    pub fn check(&self) -> Result<(), TimingError> {
        let has = SessionLease::validity(self.ttl);
        let needs = self.keepalive
            + self.tick * 2
            + self.election_max * 3
            + self.heartbeat
            + Duration::from_millis(200);
        if has >= needs { Ok(()) } else { Err(TimingError { timing: *self, has, needs }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The shipped numbers fit (2.8 s into 3.2 s), and so does the preset for slow machines.
    #[test]
    fn r4_the_default_timing_outlasts_a_metadata_failover() {
        assert_eq!(SessionTiming::default().check(), Ok(()));
        let slow = SessionTiming {
            ttl: Duration::from_secs(6),
            keepalive: Duration::from_millis(750),
            tick: Duration::from_millis(100),
            election_max: Duration::from_millis(1000),
            heartbeat: Duration::from_millis(100),
        };
        assert_eq!(slow.check(), Ok(()));
    }

    /// Contradicting settings are refused with both sides of the inequality in the message.
    #[test]
    fn r4_contradicting_timing_is_refused_with_the_numbers() {
        let bad = SessionTiming { election_max: Duration::from_millis(1500), ..SessionTiming::default() };
        let error = bad.check().expect_err("5.5 s do not fit into 3.2 s");
        assert_eq!(error.needs, Duration::from_millis(5500));
        let text = error.to_string();
        assert!(text.contains("3.2s") && text.contains("5.5s") && text.contains("1.5s"), "{text}");
    }
}
