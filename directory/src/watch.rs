//! The watch: follows the metadata store's events into the view, for ever, with reconnects.
//!
//! The view itself refuses to go back (R8, R17); this loop only decides when to connect again.

use std::{sync::Arc, time::Duration};

use futures::{FutureExt, StreamExt};

use millet_core::{
    Revision,
    control::{Rule, off},
};

use crate::{directory::Directory, meta::MetaError};

/// A stream that says nothing for this long is taken for half-open: the store's Ticks alone make it
/// speak ten times a second.
const SILENCE: Duration = Duration::from_millis(1500);
const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_millis(500);

impl Directory {
    pub(crate) async fn watch_loop(self: Arc<Self>) {
        let mut stopped = self.stopped();
        let follow = async {
            let mut backoff = BACKOFF_MIN;
            loop {
                let before = self.revision();
                match self.follow().await {
                    Ok(()) => tracing::debug!(node = %self.node, "watch ended"),
                    Err(error) => tracing::debug!(node = %self.node, %error, "watch lost"),
                }
                backoff = if self.revision() > before { BACKOFF_MIN } else { (backoff * 2).min(BACKOFF_MAX) };
                tokio::time::sleep(self.jittered(backoff)).await;
            }
        };
        tokio::select! {
            () = follow => {}
            _ = stopped.wait_for(|s| *s) => {}
        }
    }

    /// One connection's worth of events. Ends when the stream does, is silent, starts over below the
    /// view, or the keeper wants a resync.
    async fn follow(&self) -> Result<(), MetaError> {
        let late = || MetaError::Unavailable(format!("nothing heard for {SILENCE:?}"));
        // Beginning anew is what was asked for; and until the first word has come there is nothing to
        // begin anew for: whoever asks again and again must not keep it from coming.
        let _asked = self.resync.notified().now_or_never();
        let mut heard = false;
        let from = if off(Rule::R17) { Revision(0) } else { self.revision() };
        let connect = self.deps.meta.watch(from);
        let mut events = tokio::time::timeout(SILENCE, connect).await.map_err(|_| late())??;
        loop {
            let next = tokio::select! {
                next = tokio::time::timeout(SILENCE, events.next()) => next.map_err(|_| late())?,
                () = self.resync.notified(), if heard => return Ok(()),
            };
            let Some(watched) = next else { return Ok(()) };
            let watched = watched?;
            if !std::mem::replace(&mut heard, true) {
                let _asked_meanwhile = self.resync.notified().now_or_never();
            }
            let delta = self.update_view(|view| view.apply(&watched));
            if delta.stale && matches!(watched, millet_core::model::Watched::Resync(_)) {
                // This member is behind what we know; another connection may reach one that is not.
                return Ok(());
            }
        }
    }

    /// Between a half and the whole of `d`, so that nodes do not return in step.
    pub(crate) fn jittered(&self, d: Duration) -> Duration {
        d / 2 + (d / 2).mul_f64((self.deps.entropy.next_u64() % 1024) as f64 / 1024.0)
    }
}
