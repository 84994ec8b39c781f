//! Grains that fail: how long the next try waits, and when a grain is quarantined.
//!
//! Pure: every input carries `now`. One table per grain type, kept small: it holds only grains that
//! failed lately.

use std::{collections::HashMap, time::Duration};

use millet_core::{BootTime, ErrorKind, Key, limits};

/// Grains remembered per type; beyond it the ones whose trouble ends first are forgotten.
const REMEMBERED: usize = 16_384;
/// Wait after the first failed activation; doubles up to [`LONGEST`].
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);

#[derive(Default)]
pub(crate) struct Troubles(HashMap<Key, Trouble>);

#[derive(Default)]
struct Trouble {
    failures: u32,
    why: String,
    retry_at: BootTime,
    panics: Vec<BootTime>,
    quarantined_until: BootTime,
}

impl Troubles {
    /// Whether a grain may be activated now.
    pub(crate) fn check(&self, key: &Key, now: BootTime) -> Result<(), ErrorKind> {
        let Some(t) = self.0.get(key) else { return Ok(()) };
        if now < t.quarantined_until {
            return Err(ErrorKind::Quarantined { retry_after: t.quarantined_until.since(now) });
        }
        if now < t.retry_at {
            let why =
                format!("{} (tried {} times, next try in {:?})", t.why, t.failures, t.retry_at.since(now));
            return Err(ErrorKind::ActivateFailed { why });
        }
        Ok(())
    }

    /// Its activation failed.
    pub(crate) fn failed(&mut self, key: &Key, why: &str, now: BootTime) {
        let t = self.entry(key, now);
        let wait = SHORTEST.saturating_mul(1 << t.failures.min(8)).min(LONGEST);
        t.failures += 1;
        why.clone_into(&mut t.why);
        t.retry_at = now.after(wait);
    }

    /// It has been activated: failures are over, panics still count.
    pub(crate) fn activated(&mut self, key: &Key) {
        if let Some(t) = self.0.get_mut(key) {
            t.failures = 0;
            if t.panics.is_empty() {
                self.0.remove(key);
            }
        }
    }

    /// It panicked. True if that was once too often.
    pub(crate) fn panicked(&mut self, key: &Key, now: BootTime) -> bool {
        let t = self.entry(key, now);
        t.panics.retain(|p| now.since(*p) < limits::PANIC_WINDOW);
        t.panics.push(now);
        let too_often = t.panics.len() >= limits::PANICS as usize;
        if too_often {
            t.panics.clear();
            t.quarantined_until = now.after(limits::PANIC_WINDOW);
        }
        too_often
    }

    /// Grains remembered.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Grains in quarantine.
    pub(crate) fn quarantined(&self, now: BootTime) -> usize {
        self.0.values().filter(|t| now < t.quarantined_until).count()
    }

    /// Forgets what is over.
    pub(crate) fn forget(&mut self, now: BootTime) {
        self.0.retain(|_, t| now < t.over_at());
    }

    fn entry(&mut self, key: &Key, now: BootTime) -> &mut Trouble {
        if self.0.len() >= REMEMBERED && !self.0.contains_key(key) {
            self.forget(now);
            if self.0.len() >= REMEMBERED
                && let Some(first) = self.0.iter().min_by_key(|(_, t)| t.over_at()).map(|(k, _)| k.clone())
            {
                self.0.remove(&first);
            }
        }
        self.0.entry(key.clone()).or_default()
    }
}

impl Trouble {
    /// When nothing is left to remember. A failed activation is kept for a while after its wait, so that
    /// the next failure waits longer.
    fn over_at(&self) -> BootTime {
        let panics = self.panics.last().map_or(BootTime(0), |p| p.after(limits::PANIC_WINDOW));
        let failures = if self.failures == 0 { BootTime(0) } else { self.retry_at.after(LONGEST * 2) };
        self.quarantined_until.max(panics).max(failures)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> BootTime = |s| BootTime(s * 1_000_000_000);

    /// 1, 2, 4 … 30 s, and a success starts over.
    #[test]
    fn failed_activations_wait_longer_each_time() {
        let (mut t, key) = (Troubles::default(), Key::Int(7));
        let mut now = S(100);
        let mut waits = Vec::new();
        for _ in 0..7 {
            t.failed(&key, "no table", now);
            let e = t.check(&key, now).expect_err("waits");
            assert!(matches!(&e, ErrorKind::ActivateFailed { why } if why.contains("no table")), "{e}");
            let retry = (0..).map(|s| now.after(Duration::from_secs(s))).find(|n| t.check(&key, *n).is_ok());
            let retry = retry.expect("the wait ends");
            waits.push(retry.since(now).as_secs());
            now = retry;
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
        t.activated(&key);
        assert_eq!(t.len(), 0);
    }

    /// Two panics and a pause are forgiven, three within the window are not.
    #[test]
    fn three_panics_within_a_minute_quarantine_a_grain() {
        let (mut t, key) = (Troubles::default(), Key::Int(7));
        assert!(!t.panicked(&key, S(0)));
        assert!(!t.panicked(&key, S(10)));
        assert!(!t.panicked(&key, S(65)));
        assert!(t.check(&key, S(65)).is_ok());
        assert!(t.panicked(&key, S(66)));
        assert!(
            matches!(t.check(&key, S(70)), Err(ErrorKind::Quarantined { retry_after }) if retry_after.as_secs() == 56)
        );
        assert_eq!(t.quarantined(S(70)), 1);
        assert!(t.check(&key, S(126)).is_ok());
    }

    /// The table does not grow with the number of grains that ever failed.
    #[test]
    fn what_is_remembered_is_bounded() {
        let mut t = Troubles::default();
        for n in 0..20_000 {
            t.failed(&Key::Int(n), "x", S(1));
        }
        assert_eq!(t.len(), REMEMBERED);
        t.forget(S(200));
        assert_eq!(t.len(), 0);
    }
}
