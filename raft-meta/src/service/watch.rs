//! Watch streams from any member's applied state. Nothing is buffered per watcher: each reads the
//! machine's own ring at its own speed, and one that fell out of it starts anew.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use millet_core::{
    Revision,
    model::{WatchEvent, Watched},
};
use millet_proto::wire::WatchResponse;
use tonic::Status;

use crate::member::{Running, Tide};

/// A silent watch says how far it is this often; clients take thrice that for the loss of the member.
const PROGRESS: Duration = Duration::from_secs(1);

struct Watcher {
    running: Arc<Running>,
    tide: tokio::sync::watch::Receiver<Tide>,
    at: Revision,
    queue: VecDeque<Arc<WatchEvent>>,
    /// Nothing was sent yet: a resync is allowed.
    fresh: bool,
    /// How many snapshots this member had installed when the stream began.
    restores: u64,
}

/// A stream of everything after `from`.
pub(super) fn watch(
    running: Arc<Running>,
    from: Revision,
) -> BoxStream<'static, Result<WatchResponse, Status>> {
    let tide = running.tide.clone();
    let restores = tide.borrow().restores;
    let watcher = Watcher { running, tide, at: from, queue: VecDeque::new(), fresh: true, restores };
    stream::unfold(Some(watcher), |watcher| async move {
        let mut watcher = watcher?;
        match watcher.next().await {
            Ok(watched) => Some((Ok(watched.into()), Some(watcher))),
            Err(status) => Some((Err(status), None)),
        }
    })
    .boxed()
}

impl Watcher {
    async fn next(&mut self) -> Result<Watched, Status> {
        loop {
            if let Some(event) = self.queue.pop_front() {
                self.at = event.revision;
                return Ok(Watched::Event((*event).clone()));
            }
            let tide = *self.tide.borrow_and_update();
            // What was skipped by a snapshot is not in the ring: whoever is below it starts anew (R17).
            if tide.restores != self.restores && !self.fresh {
                return Err(Status::aborted(
                    "compacted: this member has installed a snapshot; watch again from the revision you hold",
                ));
            }
            self.restores = tide.restores;
            if tide.revision > self.at || (self.fresh && tide.revision == self.at) {
                if let Some(first) = self.look()? {
                    return Ok(first);
                }
                continue;
            }
            match tokio::time::timeout(PROGRESS, self.tide.changed()).await {
                // A member that lags behind the watcher says nothing: revisions never go back.
                Err(_) if self.fresh => {}
                Err(_) => return Ok(Watched::Progress(self.at)),
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(Status::unavailable("this member is stopping; watch another one")),
            }
        }
    }

    /// Reads what is new. `None`: it is in the queue.
    fn look(&mut self) -> Result<Option<Watched>, Status> {
        let machine = self.running.machine.read();
        let Some(events) = machine.events_since(self.at) else {
            if !self.fresh {
                return Err(Status::aborted(
                    "compacted: the watch was too slow; watch again from the revision you hold",
                ));
            }
            let view = machine.view();
            (self.at, self.fresh) = (view.revision, false);
            return Ok(Some(Watched::Resync(view)));
        };
        self.fresh = false;
        self.queue.extend(events);
        if self.queue.is_empty() {
            self.at = machine.revision();
            return Ok(Some(Watched::Progress(self.at)));
        }
        Ok(None)
    }
}
