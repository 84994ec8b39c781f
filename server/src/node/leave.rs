//! The graceful way out: not ready, drain grains, hand over shards, close the session, stop.

use std::time::Duration;

use millet_directory::Left;

use super::Node;

/// After a drain, answers that are already decided have this long to reach their callers before the
/// session is closed.
const FLUSH: Duration = Duration::from_millis(200);

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
    pub async fn shutdown(mut self) -> Departure {
        self.leaving.cancel();
        let limit = Duration::from_millis(self.config.node.drain_limit_ms);
        let until = self.world.clock.boottime().after(limit);
        let drained = self.directory.drain(until).await;
        tokio::time::sleep(FLUSH).await;
        let left = self.directory.close(drained, until).await;
        self.stop.cancel();
        self.plane.leave().await;
        tracing::info!(node = %self.id, ?left, "node left");
        left.into()
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
