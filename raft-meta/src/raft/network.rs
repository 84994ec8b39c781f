//! Raft between members over tonic: one bidirectional call per append stream, chunked snapshots. Every
//! message names cluster, group and the member it is meant for; `port.rs` is the other end.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use millet_proto::wire::{RaftMessage, SnapshotChunk, raft_client::RaftClient};
use openraft::{
    AnyError, BasicNode, OptionalSend,
    base::{BoxFuture, BoxStream},
    errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable},
    network::{RPCOption, RPCTypes, RaftNetworkFactory, RaftNetworkV2},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
        TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
    },
};
use tokio::sync::watch;
use tonic::{Code, Status, transport::Channel};

use super::{
    codec,
    files::SnapshotFile,
    machine::OurSnapshot,
    types::{Cfg, Vote},
};
use crate::{Dial, log::GroupId};

/// Bytes in one piece of a snapshot.
const PIECE: usize = 256 * 1024;
/// A follower that has not answered an append for so long is taken for gone; the stream starts anew.
const APPEND_ANSWER: Duration = Duration::from_secs(2);
/// Messages of a stream may be this long: a batch of entries, the longest of which is one state value.
pub(crate) const MESSAGE_BYTES: usize = 16 * 1024 * 1024;

/// On a refusal: the sender, by id, has left the cluster for good.
pub(crate) const LEFT_HEADER: &str = "millet-left";

/// Set when another member says that this one has left.
pub(crate) type Left = Arc<watch::Sender<bool>>;

/// Who sends: the part of the envelope that never changes.
#[derive(Clone)]
pub(crate) struct Origin {
    pub(crate) cluster: Arc<str>,
    pub(crate) member: u64,
    pub(crate) group: GroupId,
}

impl Origin {
    pub(crate) fn message(&self, to: u64, payload: Bytes) -> RaftMessage {
        RaftMessage { cluster: self.cluster.to_string(), from: self.member, to, group: self.group.0, payload }
    }
}

/// Makes the connections of one group.
pub(crate) struct Factory {
    pub(crate) origin: Origin,
    pub(crate) dial: Dial,
    pub(crate) left: Left,
}

impl RaftNetworkFactory<Cfg> for Factory {
    type Network = Link;

    async fn new_client(&mut self, target: u64, node: &BasicNode) -> Link {
        let client = RaftClient::new((self.dial)(&node.addr))
            .max_decoding_message_size(MESSAGE_BYTES)
            .max_encoding_message_size(MESSAGE_BYTES);
        Link { origin: self.origin.clone(), to: target, client, refused: 0, left: Arc::clone(&self.left) }
    }
}

/// The road to one member.
pub(crate) struct Link {
    origin: Origin,
    to: u64,
    client: RaftClient<Channel>,
    /// Append streams in a row that could not be opened.
    refused: u32,
    left: Left,
}

/// The longest pause before an append stream is opened again.
const REOPEN_MS: u64 = 200;

type Rpc<T> = Result<T, RPCError<Cfg>>;

fn failed(status: &Status) -> RPCError<Cfg> {
    match status.code() {
        // openraft backs off before it tries an unreachable member again.
        Code::Unavailable | Code::FailedPrecondition | Code::Unimplemented => {
            RPCError::Unreachable(Unreachable::new(status))
        }
        _ => RPCError::Network(NetworkError::new(status)),
    }
}

/// The same, and hears it when this member has left.
fn heard(left: &Left, member: u64, status: &Status) -> RPCError<Cfg> {
    let who = status.metadata().get(LEFT_HEADER).and_then(|who| who.to_str().ok());
    if who.and_then(|who| who.parse().ok()) == Some(member) {
        left.send_replace(true);
    }
    failed(status)
}

fn broken(error: &std::io::Error) -> RPCError<Cfg> {
    RPCError::Network(NetworkError::new(error))
}

impl Link {
    fn late(&self, action: RPCTypes, timeout: Duration) -> RPCError<Cfg> {
        RPCError::Timeout(Timeout { action, id: self.origin.member, target: self.to, timeout })
    }

    /// Waits after a stream that could not be opened: 10 ms, doubling to [`REOPEN_MS`]. openraft's own
    /// back-off sits in the stream of requests, which a stream that never opens does not ask for: without
    /// this a leader tries a dead member some 50,000 times a second.
    async fn pause(&mut self) {
        let ms = (10 << self.refused.min(10)).min(REOPEN_MS);
        self.refused = self.refused.saturating_add(1);
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }

    async fn ask_vote(
        &mut self,
        pre: bool,
        rpc: VoteRequest<Cfg>,
        option: RPCOption,
    ) -> Rpc<VoteResponse<Cfg>> {
        let payload = codec::put(&(pre, rpc)).map_err(|e| broken(&e))?;
        let message = self.origin.message(self.to, payload);
        let answer = tokio::time::timeout(option.hard_ttl(), self.client.vote(message)).await;
        let answer = answer
            .map_err(|_| self.late(RPCTypes::Vote, option.hard_ttl()))?
            .map_err(|s| heard(&self.left, self.origin.member, &s))?;
        codec::read(&answer.into_inner().payload).map_err(|e| broken(&e))
    }

    /// The chunks of a snapshot: a header, then pieces read as the stream asks for them.
    fn pieces(
        &self,
        header: Bytes,
        file: SnapshotFile,
    ) -> impl Stream<Item = SnapshotChunk> + Send + 'static {
        let header = self.origin.message(self.to, header);
        let rest = stream::unfold((file, 0), |(file, offset)| async move {
            // A read error ends the stream early; the receiver sees no last piece and refuses.
            let piece = if offset < file.len() { file.piece(offset, PIECE).ok()? } else { return None };
            let next = offset + piece.len() as u64;
            let chunk = SnapshotChunk {
                header: None,
                crc: checksum(&piece),
                data: piece.into(),
                last: next >= file.len(),
            };
            Some((chunk, (file, next)))
        });
        stream::iter([SnapshotChunk { header: Some(header), data: Bytes::new(), last: false, crc: 0 }])
            .chain(rest)
    }
}

/// The checksum of a snapshot piece on the wire: the low half of xxh3-64.
#[expect(clippy::cast_possible_truncation, reason = "the low half is the checksum")]
pub(crate) fn checksum(piece: &[u8]) -> u32 {
    xxhash_rust::xxh3::xxh3_64(piece) as u32
}

impl RaftNetworkV2<Cfg> for Link {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Cfg>,
        option: RPCOption,
    ) -> Rpc<AppendEntriesResponse<Cfg>> {
        let mut answers = self.stream_append(stream::iter([rpc]), option).await?;
        match answers.next().await {
            Some(answer) => answer.map(AppendEntriesResponse::from),
            None => {
                Err(RPCError::Network(NetworkError::from_string("the append stream ended without an answer")))
            }
        }
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Rpc<BoxStream<'s, Rpc<StreamAppendResult<Cfg>>>>>
    where
        S: Stream<Item = AppendEntriesRequest<Cfg>> + OptionalSend + Unpin + 'static,
    {
        let (origin, to, waiting) = (self.origin.clone(), self.to, Arc::new(AtomicU64::new(0)));
        let (left, own) = (Arc::clone(&self.left), self.origin.member);
        let sent = Arc::clone(&waiting);
        let requests = input.map(move |rpc| {
            sent.fetch_add(1, Ordering::Relaxed);
            // An empty payload is refused by the receiver; encoding to memory does not fail.
            origin.message(to, codec::put(&rpc).unwrap_or_default())
        });
        Box::pin(async move {
            let setup = option.hard_ttl().max(Duration::from_millis(500));
            let call = tokio::time::timeout(setup, self.client.append(requests)).await;
            let opened = match call {
                Ok(Ok(answer)) => Ok(answer.into_inner()),
                Ok(Err(status)) => Err(heard(&left, own, &status)),
                Err(_) => Err(self.late(RPCTypes::AppendEntries, setup)),
            };
            if opened.is_err() {
                self.pause().await;
            } else {
                self.refused = 0;
            }
            let answers = opened?;
            let late = self.late(RPCTypes::AppendEntries, APPEND_ANSWER);
            let out = stream::unfold(Some((answers, waiting, late, left)), move |state| async move {
                let (mut answers, waiting, late, left) = state?;
                let answer = loop {
                    match tokio::time::timeout(APPEND_ANSWER, answers.next()).await {
                        Ok(answer) => break answer?,
                        // Nothing was asked: a stream may be silent.
                        Err(_) if waiting.load(Ordering::Relaxed) == 0 => {}
                        Err(_) => return Some((Err(late), None)),
                    }
                };
                waiting.fetch_sub(1, Ordering::Relaxed);
                let result = match answer {
                    Ok(message) => {
                        codec::read::<StreamAppendResult<Cfg>>(&message.payload).map_err(|e| broken(&e))
                    }
                    Err(status) => Err(heard(&left, own, &status)),
                };
                let go_on = matches!(&result, Ok(Ok(_)));
                Some((result, go_on.then_some((answers, waiting, late, left))))
            });
            let out: BoxStream<'s, _> = Box::pin(out);
            Ok(out)
        })
    }

    async fn vote(&mut self, rpc: VoteRequest<Cfg>, option: RPCOption) -> Rpc<VoteResponse<Cfg>> {
        self.ask_vote(false, rpc, option).await
    }

    async fn pre_vote(&mut self, rpc: VoteRequest<Cfg>, option: RPCOption) -> Rpc<VoteResponse<Cfg>> {
        self.ask_vote(true, rpc, option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: OurSnapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<Cfg>, StreamingError<Cfg>> {
        let unreachable = |e: AnyError| StreamingError::Unreachable(Unreachable::new(&e));
        let header = codec::put(&(vote, snapshot.meta)).map_err(|e| unreachable(AnyError::new(&e)))?;
        let pieces = self.pieces(header, snapshot.snapshot);
        let sending = tokio::time::timeout(option.hard_ttl(), self.client.snapshot(pieces));
        let answer = tokio::select! {
            closed = cancel => return Err(closed.into()),
            answer = sending => answer,
        };
        let answer =
            answer.map_err(|_| unreachable(AnyError::error("the snapshot was not taken in time")))?;
        let answer = answer.map_err(|s| unreachable(AnyError::new(&s)))?;
        codec::read(&answer.into_inner().payload).map_err(|e| unreachable(AnyError::new(&e)))
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<Cfg>,
        option: RPCOption,
    ) -> Rpc<TransferLeaderResponse<Cfg>> {
        let payload = codec::put(&req).map_err(|e| broken(&e))?;
        let message = self.origin.message(self.to, payload);
        let answer = tokio::time::timeout(option.hard_ttl(), self.client.transfer_leader(message)).await;
        let answer = answer
            .map_err(|_| self.late(RPCTypes::TransferLeader, option.hard_ttl()))?
            .map_err(|s| failed(&s))?;
        codec::read(&answer.into_inner().payload).map_err(|e| broken(&e))
    }
}
