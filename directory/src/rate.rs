//! How fast cluster time runs beside this machine's clock (R9), from the answers to keepalives. Pure.

use std::time::Duration;

use millet_core::BootTime;

/// The rate of cluster time is judged over this long, so that answer delays stay far below 2 %.
const RATE_WINDOW: Duration = Duration::from_secs(60);
/// No answer for this long (an election, a pause): cluster time stood still, judge anew.
const RATE_GAP: Duration = Duration::from_secs(1);

/// Judges the rate once a window.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Default)]
pub(crate) struct Rate(Option<Base>);

#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
struct Base {
    own: BootTime,
    cluster_ms: u64,
    last: BootTime,
}

impl Rate {
    /// Compares the advance of cluster time with the own clock (R9); speaks above 2 %.
    pub(crate) fn judge(&mut self, now: BootTime, cluster_ms: u64) -> Option<String> {
        if cluster_ms == 0 {
            return None; // a store that has no clock yet
        }
        let base = match self.0 {
            Some(base) if now.since(base.last) <= RATE_GAP && cluster_ms >= base.cluster_ms => base,
            Some(_) | None => {
                self.0 = Some(Base { own: now, cluster_ms, last: now });
                return None;
            }
        };
        self.0 = Some(Base { last: now, ..base });
        let own = now.since(base.own);
        if own < RATE_WINDOW {
            return None;
        }
        self.0 = Some(Base { own: now, cluster_ms, last: now });
        let cluster = Duration::from_millis(cluster_ms - base.cluster_ms);
        (own.abs_diff(cluster) > own / 50).then(|| {
            format!("clocks run apart: cluster time advanced {cluster:?} while this machine's clock advanced {own:?}; check time synchronisation (R9: above 10 % ownership is unsafe)")
        })
    }
}
