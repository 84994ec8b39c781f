//! How late it may be at the peer (R15): pure. Clocks of two machines are never compared; a ping bounds
//! the peer's clock from above, and a deadline on that clock becomes one on ours.

use std::time::Duration;

use millet_core::BootTime;

/// Bounds one peer's boot clock from our pings.
#[derive(Clone, Debug, Default)]
pub struct ClockBound {
    /// Pings without an answer yet, oldest first.
    waiting: Vec<(u64, BootTime)>,
    next: u64,
    /// Of the newest answered ping: when it was sent (ours), and what the peer's clock said (theirs).
    sample: Option<(BootTime, u64)>,
}

/// Pings that are not answered; more are not sent.
const WAITING: usize = 16;
/// Older bounds are not used: at clock rates 10 % apart they would be off by more than half a second.
pub const FRESH: Duration = Duration::from_secs(5);

impl ClockBound {
    /// A ping is about to be sent; `None` if too many wait for an answer.
    pub fn ping(&mut self, now: BootTime) -> Option<u64> {
        if self.waiting.len() >= WAITING {
            return None;
        }
        self.next += 1;
        self.waiting.push((self.next, now));
        Some(self.next)
    }

    /// The answer to a ping, with the peer's clock in whole milliseconds, rounded down. False if it
    /// answers none of ours.
    pub fn pong(&mut self, nonce: u64, peer_ms: u64) -> bool {
        let Some(at) = self.waiting.iter().position(|(n, _)| *n == nonce) else { return false };
        let (_, sent) = self.waiting[at];
        self.waiting.drain(..=at);
        // The peer read its clock after we sent, so peer_now ≤ stamp + (now − sent). Rounding down hid
        // up to a millisecond.
        self.sample = Some((sent, peer_ms.saturating_add(1)));
        true
    }

    /// When the newest answered ping was sent.
    pub fn heard(&self) -> Option<BootTime> {
        self.sample.map(|(sent, _)| sent)
    }

    /// The instant on our clock before which the peer's clock cannot have reached `deadline_ms`. `None`
    /// without a fresh bound: then nothing may be started.
    pub fn local_deadline(&self, deadline_ms: u64, now: BootTime) -> Option<BootTime> {
        let (sent, stamp_ms) = self.sample?;
        if now.since(sent) > FRESH {
            return None;
        }
        Some(match deadline_ms.checked_sub(stamp_ms) {
            Some(left) => sent.after(Duration::from_millis(left)),
            None => BootTime(0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn r15_time_in_a_buffer_counts_against_the_deadline() {
        let mut b = ClockBound::default();
        let n = b.ping(BootTime(1_000 * MS)).expect("room");
        // The peer's clock is far ahead of ours; that does not matter.
        assert!(b.pong(n, 77_000));
        let local = b.local_deadline(82_001, BootTime(1_010 * MS)).expect("fresh");
        assert_eq!(local, BootTime(6_000 * MS));
        // The same call read 4.5 s later has the same local deadline: it has half a second left, not five.
        assert_eq!(b.local_deadline(82_001, BootTime(5_500 * MS)), Some(local));
    }

    #[test]
    fn r15_without_a_fresh_bound_there_is_no_deadline() {
        let mut b = ClockBound::default();
        assert_eq!(b.local_deadline(1, BootTime(0)), None);
        let n = b.ping(BootTime(0)).expect("room");
        assert!(b.pong(n, 10));
        assert_eq!(b.local_deadline(1_000, BootTime(5_001 * MS)), None);
    }

    #[test]
    fn r15_the_bound_holds_whatever_the_transit_times_are() {
        for (there, back, skew) in [(0, 0, 0), (5, 900, 10_000), (900, 5, 1), (300, 300, 123_456)] {
            let mut b = ClockBound::default();
            let n = b.ping(BootTime(50_000 * MS)).expect("room");
            let peer_at = |ours_ms: u64| ours_ms + skew;
            assert!(b.pong(n, peer_at(50_000 + there)));
            let now = 50_000 + there + back;
            let deadline = peer_at(now) + 1_000;
            let local = b.local_deadline(deadline, BootTime(now * MS)).expect("fresh");
            assert!(peer_at(local.0 / MS) <= deadline, "a turn could start after the caller gave up");
        }
    }

    #[test]
    fn a_foreign_or_repeated_pong_is_not_taken() {
        let mut b = ClockBound::default();
        assert!(!b.pong(9, 1));
        let n = b.ping(BootTime(0)).expect("room");
        assert!(b.pong(n, 1));
        assert!(!b.pong(n, 2));
    }

    #[test]
    fn unanswered_pings_are_bounded() {
        let mut b = ClockBound::default();
        assert_eq!((0..100).filter(|_| b.ping(BootTime(0)).is_some()).count(), WAITING);
    }
}
