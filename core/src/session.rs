//! The holder's side of a session: one object per session, whose validity is computed, never stored
//! (R12). Activations keep the `Arc` of the session they were born under.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use crate::{
    BootTime, SessionId,
    control::{Rule, off},
};

/// A session as its holder sees it. The keeper alone renews and ends it.
#[derive(Debug)]
pub struct SessionLease {
    id: SessionId,
    ttl: Duration,
    /// Valid strictly before this instant (nanoseconds of the boot clock); 0 until first renewed (R7).
    until_ns: AtomicU64,
    /// Dead is final.
    dead: AtomicBool,
}

impl SessionLease {
    /// A session that has been opened but not yet renewed: not valid for anything (R7).
    pub fn opened(id: SessionId, ttl: Duration) -> Self {
        Self { id, ttl, until_ns: AtomicU64::new(0), dead: AtomicBool::new(false) }
    }

    /// The session's id.
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// The time to live fixed when it was opened.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Part of the TTL that a holder may use: 0.8, because clock rates may differ by the kernel's own
    /// limit of ±10 % ((1−ρ)/(1+ρ) = 0.817 at ρ = 10.05 %; R9).
    pub fn validity(ttl: Duration) -> Duration {
        if off(Rule::R9) { ttl * 98 / 100 } else { ttl * 4 / 5 }
    }

    /// Records that the keepalive first sent at `sent` was renewed. Never moves the deadline back.
    pub fn renewed(&self, sent: BootTime) {
        self.until_ns.fetch_max(sent.after(Self::validity(self.ttl)).0, Ordering::AcqRel);
    }

    /// Ends it for ever.
    pub fn end(&self) {
        self.dead.store(true, Ordering::Release);
    }

    /// Whether the store (or its own process) has ended it.
    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    /// Whether anything may start or leave under this session at `now`, a clock read made just before.
    pub fn valid_at(&self, now: BootTime) -> bool {
        !self.is_dead() && (off(Rule::Lease) || now.0 < self.until_ns.load(Ordering::Acquire))
    }

    /// The end of validity as known now.
    pub fn valid_until(&self) -> BootTime {
        BootTime(self.until_ns.load(Ordering::Acquire))
    }

    /// Whether at least a third of the validity is left: below that placement no longer chooses this node.
    pub fn is_fresh_at(&self, now: BootTime) -> bool {
        self.valid_at(now.after(Self::validity(self.ttl) / 3))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r7_an_opened_session_is_not_valid_before_its_first_renewal() {
        let s = SessionLease::opened(SessionId(7), Duration::from_secs(4));
        assert!(!s.valid_at(BootTime(0)));
        s.renewed(BootTime(1_000));
        assert!(s.valid_at(BootTime(1_001)));
    }

    #[test]
    fn r9_a_session_is_valid_for_four_fifths_of_its_ttl_from_the_first_send() {
        let s = SessionLease::opened(SessionId(7), Duration::from_secs(5));
        s.renewed(BootTime(0));
        assert!(s.valid_at(BootTime(3_999_999_999)));
        assert!(!s.valid_at(BootTime(4_000_000_000)));
    }

    #[test]
    fn r6_a_renewal_never_moves_a_deadline_back_and_dead_is_final() {
        let s = SessionLease::opened(SessionId(7), Duration::from_secs(5));
        s.renewed(BootTime(2_000_000_000));
        s.renewed(BootTime(1_000_000_000));
        assert!(s.valid_at(BootTime(5_999_999_999)));
        s.end();
        s.renewed(BootTime(3_000_000_000));
        assert!(!s.valid_at(BootTime(3_000_000_001)));
    }
}
