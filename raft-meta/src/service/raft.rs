//! The `Raft` service: checks the envelope, then hands the payload to the group it is for.

use std::sync::Arc;

use bytes::Bytes;
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use millet_proto::wire::{RaftMessage, SnapshotChunk, raft_server::Raft};
use tonic::{Request, Response, Status, Streaming};

use super::running;
use crate::{
    member::{Running, Shared},
    raft::{LEFT_HEADER, Port},
};

/// See the module.
pub(super) struct Service(pub(super) Arc<Shared>);

/// The envelope, apart from its payload.
#[derive(Clone, PartialEq, Eq)]
struct Envelope {
    cluster: String,
    from: u64,
    to: u64,
    group: u32,
}

impl Envelope {
    fn split(message: RaftMessage) -> (Self, Bytes) {
        let RaftMessage { cluster, from, to, group, payload } = message;
        (Self { cluster, from, to, group }, payload)
    }

    fn answer(&self, payload: Bytes) -> RaftMessage {
        RaftMessage {
            cluster: self.cluster.clone(),
            from: self.to,
            to: self.from,
            group: self.group,
            payload,
        }
    }
}

fn entrance(shared: &Shared, envelope: &Envelope) -> Result<Arc<dyn Port>, Status> {
    let running: Arc<Running> = running(shared, &envelope.cluster)?;
    if envelope.to != running.member {
        let text = format!(
            "this is member {}, the message is for member {}; its address has moved",
            running.member, envelope.to
        );
        return Err(Status::failed_precondition(text));
    }
    if running.machine.read().has_left(envelope.from) {
        return Err(has_left(envelope));
    }
    running
        .port(envelope.group)
        .ok_or_else(|| Status::failed_precondition(format!("no group {} here", envelope.group)))
}

/// Tells a member that was away while it was taken out: it stops asking for votes.
fn has_left(envelope: &Envelope) -> Status {
    let text = format!("member {} has left cluster {} for good", envelope.from, envelope.cluster);
    let mut status = Status::failed_precondition(text);
    status.metadata_mut().insert(LEFT_HEADER, envelope.from.into());
    status
}

async fn appends(
    shared: Arc<Shared>,
    mut input: Streaming<RaftMessage>,
) -> BoxStream<'static, Result<RaftMessage, Status>> {
    let one = |status: Status| stream::iter([Err(status)]).boxed();
    let (envelope, first) = match input.next().await {
        None => return stream::empty().boxed(),
        Some(Err(status)) => return one(status),
        Some(Ok(message)) => Envelope::split(message),
    };
    let port = match entrance(&shared, &envelope) {
        Ok(port) => port,
        Err(status) => return one(status),
    };
    // A message with another envelope, or a broken link, ends the stream.
    let same = envelope.clone();
    let rest = input
        .map_while(move |m| m.ok())
        .map(Envelope::split)
        .take_while(move |(e, _)| std::future::ready(*e == same));
    let payloads = stream::iter([first]).chain(rest.map(|(_, payload)| payload));
    port.append(payloads.boxed()).map(move |answer| answer.map(|payload| envelope.answer(payload))).boxed()
}

trait MapWhile: StreamExt + Sized {
    /// Items while `f` gives some.
    fn map_while<T>(self, f: impl FnMut(Self::Item) -> Option<T>) -> impl futures::Stream<Item = T> {
        self.map(f).take_while(|item| std::future::ready(item.is_some())).filter_map(std::future::ready)
    }
}
impl<S: StreamExt> MapWhile for S {}

#[tonic::async_trait]
impl Raft for Service {
    type AppendStream = BoxStream<'static, Result<RaftMessage, Status>>;

    async fn append(
        &self,
        request: Request<Streaming<RaftMessage>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        let answers = stream::once(appends(Arc::clone(&self.0), request.into_inner())).flatten();
        Ok(Response::new(answers.boxed()))
    }

    async fn vote(&self, request: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        let (envelope, payload) = Envelope::split(request.into_inner());
        let answer = entrance(&self.0, &envelope)?.vote(payload).await?;
        Ok(Response::new(envelope.answer(answer)))
    }

    async fn transfer_leader(&self, request: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        let (envelope, payload) = Envelope::split(request.into_inner());
        let answer = entrance(&self.0, &envelope)?.transfer(payload).await?;
        Ok(Response::new(envelope.answer(answer)))
    }

    async fn snapshot(
        &self,
        request: Request<Streaming<SnapshotChunk>>,
    ) -> Result<Response<RaftMessage>, Status> {
        let mut chunks = request.into_inner();
        let header =
            chunks.next().await.ok_or_else(|| Status::invalid_argument("a snapshot without a header"))??;
        let header = header.header.ok_or_else(|| Status::invalid_argument("a snapshot without a header"))?;
        let (envelope, payload) = Envelope::split(header);
        let answer = entrance(&self.0, &envelope)?.snapshot(payload, chunks.boxed()).await?;
        Ok(Response::new(envelope.answer(answer)))
    }
}
