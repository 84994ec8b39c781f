//! When a node says that it is ready. Never a cluster-wide reflex: a frozen node stays ready for ten
//! seconds, so that a metadata failover takes no node out of service (R4).

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use millet_core::clock::Clock;
use millet_directory::{Directory, Standing};
use tokio_util::sync::CancellationToken;
use tonic_health::{ServingStatus, server::HealthReporter};

/// How long a frozen node still counts as ready.
const FROZEN_READY: Duration = Duration::from_secs(10);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(250);

/// Whether the node has a valid session that its own view knows.
pub(super) fn is_ready(directory: &Directory) -> bool {
    directory
        .valid_session()
        .is_some_and(|s| matches!(directory.view().session_state(s.id()), Standing::Alive(_)))
}

/// Where readiness is told.
pub(super) enum Reporter {
    /// The API listener: the node and every interface.
    Api(millet_gateway::Health),
    /// The admin listener: the node.
    Admin(HealthReporter),
}

impl Reporter {
    async fn say(&self, ready: bool) {
        match self {
            Self::Api(health) => health.set_serving(ready).await,
            Self::Admin(reporter) => {
                let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
                reporter.set_service_status("", status).await;
            }
        }
    }
}

/// Keeps the health service's answer right until the node is gone or leaves.
pub(super) async fn report(
    directory: Weak<Directory>,
    clock: Arc<dyn Clock>,
    reporters: Vec<Reporter>,
    leaving: CancellationToken,
) {
    let mut readiness = Readiness::default();
    loop {
        let Some(directory) = directory.upgrade() else { return };
        let now = clock.boottime();
        let ready = readiness.look(is_ready(&directory), now) && !leaving.is_cancelled();
        drop(directory);
        for reporter in &reporters {
            reporter.say(ready).await;
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = leaving.cancelled(), if !leaving.is_cancelled() => {}
        }
    }
}

/// Readiness over time; pure.
#[derive(Default)]
struct Readiness {
    /// When the node was last seen with a valid session.
    valid: Option<millet_core::BootTime>,
}

impl Readiness {
    fn look(&mut self, valid: bool, now: millet_core::BootTime) -> bool {
        if valid {
            self.valid = Some(now);
        }
        self.valid.is_some_and(|at| now.since(at) < FROZEN_READY)
    }
}

#[cfg(test)]
mod tests {
    use millet_core::BootTime;

    use super::*;

    #[test]
    fn r4_a_frozen_node_stays_ready_for_ten_seconds() {
        let at = |s: u64| BootTime(s * 1_000_000_000);
        let mut r = Readiness::default();
        assert!(!r.look(false, at(1)), "never had a session");
        assert!(r.look(true, at(2)));
        assert!(r.look(false, at(11)), "a metadata failover must not take nodes out of service");
        assert!(!r.look(false, at(12)));
        assert!(r.look(true, at(13)), "thawed");
    }
}
