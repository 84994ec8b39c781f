//! The graceful way out: not ready, drain grains, hand over shards, close the session, stop.

use std::time::Duration;

use millet_directory::{Left, Residents};

use super::Node;

/// After a drain, peers have this long to take the answers they wait for and to send no more calls, the
/// time that this node is frozen not counted. Two round trips do; a peer that is frozen or gone is not
/// waited for longer.
const FAREWELL: Duration = Duration::from_secs(2);
/// What is kept of the time for a leave to close the session in the store.
const CLOSE: Duration = Duration::from_secs(1);

/// A session that has been frozen for this long while leaving will not thaw in time: an election is over
/// by then.
const FROZEN: Duration = Duration::from_secs(3);
/// Between two looks at it.
const LOOK: Duration = Duration::from_millis(100);

/// How a graceful leave went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Departure {
    /// Activations that had not ended in time.
    pub activations: usize,
    /// Shards that were not handed over in time.
    pub shards: usize,
    /// The session was closed in the store, so that nobody waits for its end.
    pub closed: bool,
}

impl From<Left> for Departure {
    fn from(left: Left) -> Self {
        Self { activations: left.activations, shards: left.shards, closed: left.closed }
    }
}

impl Node {
    /// Leaves: takes no new grains, ends its activations (saving what is dirty), hands its shards over,
    /// closes its session, then stops. Bounded by `node.drain_limit_ms`; what is not done by then is
    /// left to the expiry of the session.
    ///
    /// Cancel safety: dropping the future drops the node, which is a crash.
    pub async fn shutdown(self) -> Departure {
        self.leaving.cancel();
        let limit = Duration::from_millis(self.config.node.drain_limit_ms);
        let now = self.world.clock.boottime();
        let until = now.after(limit);
        let drained_by = now.after(limit - (FAREWELL + CLOSE).min(limit / 2));
        let directory = self.directory.clone();
        let session = directory.session().map(|s| s.id());
        let leave = async {
            let drained = directory.drain(drained_by).await;
            let left = drained_by.since(self.world.clock.boottime());
            if tokio::time::timeout(left, self.api.close()).await.is_err() {
                tracing::warn!(node = %self.id(), "callers of the API listener still wait for answers");
            }
            tokio::select! {
                () = self.transport.farewell() => {}
                () = self.valid_for(FAREWELL) => {
                    tracing::warn!(node = %self.id(), "a peer did not say farewell within {FAREWELL:?}");
                }
            }
            directory.close(drained, until).await
        };
        let left = tokio::select! {
            left = leave => left,
            () = self.without_quorum() => {
                tracing::warn!(node = %self.id(), "no metadata quorum: leaving without closing the session");
                Left { activations: self.runtime.activations().try_into().unwrap_or(usize::MAX), shards: 0, closed: false }
            }
        };
        if let (true, Some(launcher), Some(session)) = (left.closed, &self.launcher, session) {
            launcher.ended(session);
        }
        self.plane.leave().await;
        self.stop.cancel();
        tracing::info!(node = %self.id(), ?left, "node left");
        left.into()
    }

    /// Waits until the session has been valid for so long.
    async fn valid_for(&self, long: Duration) {
        let mut valid = Duration::ZERO;
        while valid < long {
            tokio::time::sleep(LOOK).await;
            valid += if self.directory.valid_session().is_some() { LOOK } else { Duration::ZERO };
        }
    }

    /// Waits until the session has been frozen for a while: nothing can be saved or handed over any more,
    /// so a leave has nothing to wait for.
    async fn without_quorum(&self) {
        let mut frozen = Duration::ZERO;
        while frozen < FROZEN {
            tokio::time::sleep(LOOK).await;
            let renewable = self.directory.session().is_some_and(|s| !s.is_dead());
            let valid = self.directory.valid_session().is_some();
            frozen = if renewable && !valid { frozen + LOOK } else { Duration::ZERO };
        }
    }

    /// Runs until SIGTERM or SIGINT (Ctrl-C), then leaves gracefully.
    pub async fn until_signal(self) -> Result<Departure, std::io::Error> {
        use tokio::signal::unix::{SignalKind, signal};
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM: leaving"),
            _ = interrupt.recv() => tracing::info!("SIGINT: leaving"),
        }
        Ok(self.shutdown().await)
    }
}
