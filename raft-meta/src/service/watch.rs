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
use parking_lot::RwLock;
use tokio::sync::watch;
use tonic::Status;

use crate::{machine::Machine, member::Tide};

/// A silent watch says how far it is this often; clients take thrice that for the loss of the member.
const PROGRESS: Duration = Duration::from_secs(1);

struct Watcher {
    machine: Arc<RwLock<Machine>>,
    tide: watch::Receiver<Tide>,
    at: Revision,
    queue: VecDeque<Arc<WatchEvent>>,
    /// Nothing was sent yet: a resync is allowed.
    fresh: bool,
    /// How many snapshots this member had installed when the stream began.
    restores: u64,
}

/// A stream of everything after `from`.
pub(super) fn watch(
    machine: Arc<RwLock<Machine>>,
    tide: watch::Receiver<Tide>,
    from: Revision,
) -> BoxStream<'static, Result<WatchResponse, Status>> {
    let restores = tide.borrow().restores;
    let watcher = Watcher { machine, tide, at: from, queue: VecDeque::new(), fresh: true, restores };
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
        let machine = self.machine.read();
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures::FutureExt;
    use millet_core::{
        NodeId,
        model::{Change, NodeInfo},
    };

    use super::*;
    use crate::{
        group::{ApplyEntry, GroupMachine},
        machine::{Command, Init, MetaGroup, Open, Secret},
        member::meta_group,
    };

    fn apply(meta: &mut MetaGroup, index: u64, command: &Command) {
        let command = Some(command.encode().into());
        meta.apply(vec![ApplyEntry { index, log_id: Bytes::new(), membership: None, command }]).unwrap();
    }

    fn open(node: u64) -> Command {
        let (name, peer_addr, api_addr) = (format!("n{node}"), "h:1".into(), String::new());
        let node_info = NodeInfo { id: NodeId(node), name, peer_addr, api_addr, types: vec![] };
        Command::OpenSession(Open { incarnation: node.into(), attempt: 1, node: node_info, ttl_ms: 4_000 })
    }

    fn made() -> (MetaGroup, watch::Receiver<Tide>) {
        let (mut meta, tide) = meta_group();
        let init = Init { cluster: "c".into(), secret: Secret([1; 16]), generation: 1 };
        apply(&mut meta, 1, &Command::Init(init));
        (meta, tide)
    }

    async fn next(stream: &mut BoxStream<'static, Result<WatchResponse, Status>>) -> Result<Watched, Status> {
        let item = tokio::time::timeout(Duration::from_secs(10), stream.next()).await.unwrap().unwrap();
        item.map(|w| Watched::try_from(w).unwrap())
    }

    /// R17: a member that installs a snapshot does not know what its watchers missed. It ends their
    /// streams; whoever comes back gets the whole view, in which the ended are missing.
    #[tokio::test]
    async fn r17_an_installed_snapshot_ends_older_streams_and_a_new_one_starts_with_the_view() {
        let (mut behind, tide) = made();
        apply(&mut behind, 2, &open(7));
        let mut stream = watch(behind.machine(), tide.clone(), Revision(1));
        let Ok(Watched::Event(e)) = next(&mut stream).await else { panic!("the session that opened") };
        assert!(matches!(&e.changes[..], [Change::Session(s)] if s.id.0 == 2), "{e:?}");
        let (mut ahead, _) = made();
        apply(&mut ahead, 5, &open(8));
        let (mut source, mut content) = (ahead.snapshot().unwrap(), Vec::new());
        source.write_to(&mut content).unwrap();
        behind.restore(source.applied(), Box::new(std::io::Cursor::new(content))).unwrap();
        let ended = next(&mut stream).await.unwrap_err();
        assert!(ended.message().starts_with("compacted"), "{ended}");
        let mut again = watch(behind.machine(), tide, Revision(2));
        let Ok(Watched::Resync(view)) = next(&mut again).await else { panic!("the whole view") };
        assert_eq!((view.revision, view.sessions.len(), view.sessions[0].id.0), (Revision(5), 1, 5));
    }

    /// R8: a member that lags behind the watcher says nothing until it has caught up.
    #[tokio::test]
    async fn r8_a_lagging_member_never_takes_a_watcher_back() {
        let (mut meta, tide) = made();
        let mut stream = watch(meta.machine(), tide, Revision(3));
        apply(&mut meta, 2, &open(7));
        assert!(stream.next().now_or_never().is_none(), "revision 2 is behind the watcher");
        apply(&mut meta, 4, &open(8));
        let Ok(Watched::Event(e)) = next(&mut stream).await else { panic!("the second session") };
        assert_eq!(e.revision, Revision(4));
    }
}
