//! Time as Millet uses it: a boot clock that counts pauses for everything that decides, a wall clock
//! for people only.

use std::{fmt, time::Duration};

/// An instant of this machine's boot clock (CLOCK_BOOTTIME): nanoseconds since some fixed start.
/// Instants of two machines are never compared.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct BootTime(pub u64);

impl BootTime {
    /// The end of time: a deadline that never comes.
    pub const NEVER: Self = Self(u64::MAX);

    /// This instant plus `d`, at most [`BootTime::NEVER`].
    #[must_use]
    pub fn after(self, d: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// How long after `earlier` this is; zero if it is not.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Debug for BootTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}s", Duration::from_nanos(self.0).as_secs_f64())
    }
}

/// Where time comes from. Three clocks, apart on purpose.
pub trait Clock: Send + Sync + 'static {
    /// Counts suspend too; decides sessions and deadlines. One call is one fresh read.
    fn boottime(&self) -> BootTime;
    /// Stands still in suspend; for measuring only.
    fn monotonic(&self) -> Duration;
    /// Milliseconds since 1970; for people and snowflake ids, never for ownership.
    fn wall_ms(&self) -> u64;
}
