//! Where other members' messages enter a group: bytes in, bytes out, so that the tonic service above
//! knows nothing of openraft.

use std::{io, io::Write as _, sync::Arc};

use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use millet_core::{BoxFuture, world::Threads};
use millet_proto::wire::SnapshotChunk;
use openraft::{
    Raft, Snapshot,
    raft::{AppendEntriesRequest, TransferLeaderRequest, VoteRequest},
};
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

use super::{
    codec,
    files::{SnapshotFile, SnapshotFiles},
    machine::Machine,
    network::checksum,
    types::{Cfg, SnapshotMeta, Vote},
};
use crate::group::GroupMachine;

/// Pieces of an incoming snapshot that wait for the disk.
const PIECES: usize = 4;

/// One group's entrance. The envelope (cluster, member, group) has been checked.
pub(crate) trait Port: Send + Sync + 'static {
    /// A stream of append requests; answers in order. Ends at the first that does not fit.
    fn append(&self, input: BoxStream<'static, Bytes>) -> BoxStream<'static, Result<Bytes, Status>>;
    /// A vote or pre-vote request.
    fn vote(&self, payload: Bytes) -> BoxFuture<'_, Result<Bytes, Status>>;
    /// The leader hands its leadership over to this member.
    fn transfer(&self, payload: Bytes) -> BoxFuture<'_, Result<Bytes, Status>>;
    /// A snapshot: the header's payload, then the chunks after it.
    fn snapshot(
        &self,
        header: Bytes,
        chunks: BoxStream<'static, Result<SnapshotChunk, Status>>,
    ) -> BoxFuture<'_, Result<Bytes, Status>>;
}

pub(super) struct GroupPort<M: GroupMachine> {
    pub(super) raft: Raft<Cfg, Machine<M>>,
    pub(super) files: Arc<SnapshotFiles>,
    pub(super) threads: Arc<dyn Threads>,
}

fn unreadable(e: io::Error) -> Status {
    Status::invalid_argument(e.to_string())
}

fn stopped(e: impl std::fmt::Display) -> Status {
    Status::unavailable(format!("this member's Raft has stopped: {e}"))
}

impl<M: GroupMachine> Port for GroupPort<M> {
    fn append(&self, input: BoxStream<'static, Bytes>) -> BoxStream<'static, Result<Bytes, Status>> {
        // A request that cannot be read ends the stream: the leader sees it end and starts anew.
        let requests = input.map(|bytes| codec::read::<AppendEntriesRequest<Cfg>>(&bytes)).take_while(|r| {
            let good = r.is_ok();
            async move { good }
        });
        let answers = self.raft.stream_append(requests.filter_map(|r| async move { r.ok() }));
        answers.map(|answer| codec::put(&answer.map_err(stopped)?).map_err(unreadable)).boxed()
    }

    fn vote(&self, payload: Bytes) -> BoxFuture<'_, Result<Bytes, Status>> {
        Box::pin(async move {
            let (pre, request) = codec::read::<(bool, VoteRequest<Cfg>)>(&payload).map_err(unreadable)?;
            let answer = if pre { self.raft.pre_vote(request).await } else { self.raft.vote(request).await };
            codec::put(&answer.map_err(stopped)?).map_err(unreadable)
        })
    }

    fn transfer(&self, payload: Bytes) -> BoxFuture<'_, Result<Bytes, Status>> {
        Box::pin(async move {
            let request = codec::read::<TransferLeaderRequest<Cfg>>(&payload).map_err(unreadable)?;
            let answer = self.raft.handle_transfer_leader(request).await.map_err(stopped)?;
            codec::put(&answer).map_err(unreadable)
        })
    }

    fn snapshot(
        &self,
        header: Bytes,
        mut chunks: BoxStream<'static, Result<SnapshotChunk, Status>>,
    ) -> BoxFuture<'_, Result<Bytes, Status>> {
        Box::pin(async move {
            let (vote, meta) = codec::read::<(Vote, SnapshotMeta)>(&header).map_err(unreadable)?;
            let (pieces, done) = self.receive().map_err(|e| Status::internal(e.to_string()))?;
            let mut whole = false;
            while let Some(chunk) = chunks.next().await {
                let chunk = chunk?;
                if checksum(&chunk.data) != chunk.crc {
                    return Err(Status::data_loss("a piece of the snapshot was damaged on its way"));
                }
                whole = chunk.last;
                if pieces.send(chunk.data).await.is_err() {
                    break;
                }
            }
            if !whole {
                return Err(Status::aborted("the snapshot ended early"));
            }
            drop(pieces);
            let file = done.await.map_err(stopped)?.map_err(|e| Status::internal(e.to_string()))?;
            if super::machine::meta_of(file.applied()).map_err(unreadable)? != meta {
                return Err(Status::data_loss("the snapshot is not the one that was announced"));
            }
            let answer = self
                .raft
                .install_full_snapshot(vote, Snapshot { meta, snapshot: file })
                .await
                .map_err(stopped)?;
            codec::put(&answer).map_err(unreadable)
        })
    }
}

type Received = oneshot::Receiver<io::Result<SnapshotFile>>;

impl<M: GroupMachine> GroupPort<M> {
    /// A thread that writes pieces to a file until the sender is dropped. A sender dropped because the
    /// stream broke leaves a file that is not whole: it fails its check and is removed.
    fn receive(&self) -> io::Result<(mpsc::Sender<Bytes>, Received)> {
        let (pieces, mut incoming) = mpsc::channel::<Bytes>(PIECES);
        let (tx, rx) = oneshot::channel();
        let files = Arc::clone(&self.files);
        let body = async move {
            let mut out = files.incoming();
            while let (Ok(file), Some(piece)) = (&mut out, incoming.recv().await) {
                if let Err(e) = file.write_all(&piece) {
                    out = Err(e);
                }
            }
            drop(tx.send(out.and_then(|file| file.finish())));
        };
        self.threads.drive("snapshot-in", Box::pin(body))?;
        Ok((pieces, rx))
    }
}
