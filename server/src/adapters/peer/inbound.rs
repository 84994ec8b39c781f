//! The listener's side: checks the hello, takes calls, hands them to the runtime in the order they came,
//! and sends the answers back on the same lane. Turns belong to their activations: when a lane ends, only
//! the answers are lost.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::Poll,
    time::Duration,
};

use futures::{FutureExt, Stream, StreamExt, stream::FuturesUnordered};
use millet_core::{
    AppError, BoxFuture, CallError, ErrorKind, Outcome, PlatformError, SessionId, SessionLease, limits,
};
use millet_proto::{
    peer::{Hello, PROTOCOL, call_from_wire, reply_to_wire},
    wire::{self, PeerFrame, peer_server::Peer},
};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::{
    Transport,
    bound::ClockBound,
    hello::{Us, check},
    lane::FRAME_MESSAGES,
    link::{PING, SILENCE},
    writer::{Lane, Writer},
};

/// Calls a peer may have in flight on one lane, those included whose answers are not written. With [`limits::MESSAGE_BYTES`] not the bound on memory:
/// that is [`BYTES`].
const CREDIT: u32 = 16_384;
/// Bytes on one lane, of calls in flight and of answers not yet written; above this the lane is not
/// read, and HTTP/2 holds the peer back: one that reads no answers sends no more calls.
const BYTES: usize = 64 * 1024 * 1024;
/// The first frame must come within this, or the stream is closed (a silent connection holds memory).
const HELLO: Duration = Duration::from_secs(5);
/// How often a frozen writer is given another look at its session.
const TICK: Duration = Duration::from_millis(20);

/// One peer session that sends to us.
pub(super) struct Inbound {
    lease: Arc<SessionLease>,
    bound: Mutex<ClockBound>,
    ended: CancellationToken,
    /// Its call lanes, until they end; one of each number.
    lanes: Mutex<Vec<Taken>>,
}

/// A lane that was taken.
#[derive(Clone)]
struct Taken {
    number: u32,
    lane: Arc<InboundLane>,
    /// Ends it.
    ended: CancellationToken,
    /// The peer waits for no answer on it any more.
    done: CancellationToken,
}

impl Inbound {
    /// Our session, which the peer means.
    pub(super) fn ours(&self) -> SessionId {
        self.lease.id()
    }
    /// Asks the peer for no more calls, and waits until it has every answer or is gone.
    pub(super) async fn farewell(&self) {
        let lanes = self.lanes.lock().clone();
        for taken in &lanes {
            taken.lane.with(super::lane::LaneState::ask_farewell);
        }
        for taken in lanes {
            taken.done.cancelled().await;
        }
    }
    /// Closes its lanes.
    pub(super) fn close(&self) {
        self.ended.cancel();
    }
}

/// The gRPC service of the peer listener.
pub struct Service {
    transport: Arc<Transport>,
}

impl Service {
    pub(super) fn new(transport: Arc<Transport>) -> Self {
        Self { transport }
    }
}

type Frames = Pin<Box<dyn Stream<Item = Result<PeerFrame, Status>> + Send>>;
type InboundLane = Lane<()>;

#[tonic::async_trait]
impl Peer for Service {
    type LaneStream = Frames;

    async fn lane(&self, request: Request<Streaming<PeerFrame>>) -> Result<Response<Frames>, Status> {
        // Without the port: whoever connects again and again is one line in the log.
        let from = request.extensions().get::<std::net::SocketAddr>();
        let from = from.map_or_else(String::new, |addr| addr.ip().to_string());
        let mut incoming = request.into_inner();
        let first = tokio::time::timeout(HELLO, incoming.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded(format!("no hello within {HELLO:?}")))??;
        let hello = first
            .and_then(|f| f.hello)
            .ok_or_else(|| Status::invalid_argument("the first frame must be a hello"))?;
        let hello = Hello::try_from(hello).map_err(|e| Status::invalid_argument(e.to_string()))?;
        match self.transport.accept(&hello).await {
            Ok((peer, taken)) => {
                let frames = Writer::new(taken.lane.clone()).map(Ok);
                let number = hello.lane;
                let task = lane_task(self.transport.clone(), peer, taken, hello, incoming);
                let world = &self.transport.world;
                // Calls where their turns run; what keeps the link alive where no turn can hold it up.
                let spawner = if number == 0 { &world.io } else { &world.spawner };
                spawner.spawn("peer inbound lane", task);
                Ok(Response::new(Box::pin(frames)))
            }
            Err(why) => {
                self.transport.counters.hellos_refused.fetch_add(1, Ordering::Relaxed);
                self.transport.log_refusal(&format!("{} from {from}", hello.node), &why);
                let refused = PlatformError::new(ErrorKind::Unavailable { what: why });
                let mut answer = self.transport.hello(&hello);
                answer.refused = Some(refused.into());
                let frame = PeerFrame { hello: Some(answer), ..PeerFrame::default() };
                Ok(Response::new(Box::pin(futures::stream::once(async { Ok(frame) }))))
            }
        }
    }
}

fn lane_task(
    transport: Arc<Transport>,
    peer: Arc<Inbound>,
    taken: Taken,
    hello: Hello,
    incoming: Streaming<PeerFrame>,
) -> BoxFuture<'static, ()> {
    let (number, lane, ended) = (taken.number, taken.lane.clone(), taken.ended.clone());
    let (session, done) = (hello.session, taken.done.clone());
    let end = LaneEnd { transport: transport.clone(), peer: peer.clone(), taken, session };
    Box::pin(async move {
        let reader = Reader { transport, peer, lane, done, session };
        let why = tokio::select! {
            () = ended.cancelled() => "the session has ended, or has opened it anew".to_owned(),
            why = async { if number == 0 { reader.control(incoming).await } else { reader.calls(incoming).await } } => why,
        };
        tracing::debug!(peer = %hello.node, lane = number, why, "an inbound lane ended");
        drop(end);
    })
}

/// Dropped with a lane's task, however that ends: the peer hears that the lane has ended, and nobody waits
/// for it.
struct LaneEnd {
    transport: Arc<Transport>,
    peer: Arc<Inbound>,
    taken: Taken,
    session: SessionId,
}

impl Drop for LaneEnd {
    fn drop(&mut self) {
        let Self { transport, peer, taken, session } = self;
        drop(taken.lane.with(super::lane::LaneState::close));
        taken.done.cancel();
        peer.lanes.lock().retain(|other| !Arc::ptr_eq(&other.lane, &taken.lane));
        if taken.number == 0 {
            peer.close();
            let mut inbound = transport.inbound.lock();
            if inbound.get(session).is_some_and(|p| Arc::ptr_eq(p, peer)) {
                inbound.remove(session);
            }
        }
    }
}

impl Transport {
    /// Our hello in answer to theirs.
    fn hello(&self, theirs: &Hello) -> wire::Hello {
        Hello {
            cluster: self.cluster().to_owned(),
            protocol: PROTOCOL,
            node: self.config.node,
            session: theirs.target_session,
            target_node: theirs.node,
            target_session: theirs.session,
            lane: theirs.lane,
            features: Vec::new(),
            credit: CREDIT,
        }
        .into()
    }

    /// Takes or refuses a lane.
    async fn accept(&self, hello: &Hello) -> Result<(Arc<Inbound>, Taken), String> {
        const LEAVING: &str = "this node is leaving";
        if self.leaving.load(Ordering::Acquire) {
            return Err(LEAVING.into());
        }
        let identity = self.identity().ok_or("this node is starting; retry")?;
        let lease = identity.session();
        let us =
            Us { cluster: self.cluster(), node: self.config.node, session: lease.as_ref().map(|l| l.id()) };
        check(us, hello)?;
        let lease = lease.ok_or("this node has no session yet; retry")?;
        if !identity.accepts_from(hello.session).await {
            return Err(format!("session {} has ended, or is not known here yet; retry", hello.session));
        }
        let peer = if hello.lane == 0 {
            let peer = Arc::new(Inbound {
                lease: lease.clone(),
                bound: Mutex::default(),
                ended: CancellationToken::new(),
                lanes: Mutex::default(),
            });
            // A second control lane means that the peer has given the first one up.
            if let Some(old) = self.inbound.lock().insert(hello.session, peer.clone()) {
                old.close();
            }
            peer
        } else {
            self.inbound.lock().get(&hello.session).cloned().ok_or("open the control lane first")?
        };
        let taken = Taken {
            number: hello.lane,
            lane: Lane::new(self.hello(hello), lease, self.world.clock.clone()),
            ended: peer.ended.child_token(),
            done: CancellationToken::new(),
        };
        let mut lanes = peer.lanes.lock();
        // Looked at under the lock that `farewell` takes: a lane is either asked or refused.
        if self.leaving.load(Ordering::Acquire) {
            return Err(LEAVING.into());
        }
        if taken.number > 0 {
            // A second one means that the peer has given the first one up: no more than `LANES` at a time.
            for old in lanes.extract_if(.., |old| old.number == taken.number) {
                old.ended.cancel();
            }
            lanes.push(taken.clone());
        }
        drop(lanes);
        Ok((peer, taken))
    }
}

/// Reads one inbound lane; returns why it ended.
struct Reader {
    transport: Arc<Transport>,
    peer: Arc<Inbound>,
    lane: Arc<InboundLane>,
    /// The peer waits for no answer on this lane any more.
    done: CancellationToken,
    session: SessionId,
}

/// What a call keeps in memory until it is answered: its arguments, and the names it carries along.
fn held(call: &wire::Call) -> usize {
    let grain = |g: &Option<wire::GrainId>| {
        let key = g.as_ref().and_then(|g| g.key.as_ref()).and_then(|k| k.kind.as_ref());
        let text = if let Some(wire::key::Kind::Text(text)) = key { text.len() } else { 0 };
        CALL + g.as_ref().map_or(0, |g| g.r#type.len()) + text
    };
    let chain: usize = call.chain.iter().map(|f| grain(&f.grain)).sum();
    let context: usize = call.context.iter().map(|e| CALL + e.key.len() + e.value.len()).sum();
    call.args.len() + grain(&call.target) + chain + context
}
/// A call or a frame of its chain without its texts, about.
const CALL: usize = 128;

/// A call that has ended: its id, bytes that it held, its outcome.
type Ended = (u64, usize, Outcome);
/// An answer on its way back.
type Running = BoxFuture<'static, Ended>;

impl Reader {
    async fn control(&self, mut incoming: Streaming<PeerFrame>) -> String {
        let mut pings = tokio::time::interval(PING);
        let opened = self.transport.world.clock.boottime();
        loop {
            tokio::select! {
                frame = incoming.message() => match frame {
                    Ok(Some(frame)) => {
                        let mut bound = self.peer.bound.lock();
                        for pong in &frame.pongs {
                            bound.pong(pong.nonce, pong.now_ms);
                        }
                        drop(bound);
                        self.lane.with(|state| frame.pings.iter().for_each(|p| state.pong(p.nonce)));
                    }
                    Ok(None) => return "closed by the peer".into(),
                    Err(status) => return format!("lost: {}", status.message()),
                },
                _ = pings.tick() => {
                    let now = self.transport.world.clock.boottime();
                    let (nonce, heard) = {
                        let mut bound = self.peer.bound.lock();
                        (bound.ping(now), bound.heard())
                    };
                    if now.since(heard.unwrap_or(opened)) > SILENCE {
                        return format!("no answer to pings for {SILENCE:?}");
                    }
                    if let Some(nonce) = nonce {
                        self.lane.with(|state| state.ping(nonce));
                    }
                }
            }
        }
    }

    async fn calls(&self, mut incoming: Streaming<PeerFrame>) -> String {
        let mut running: FuturesUnordered<Running> = FuturesUnordered::new();
        let mut ended = Vec::new();
        // Bytes of calls in flight, and of answers that waited when last looked at.
        let (mut bytes, mut waiting) = (0, 0);
        let mut ticks = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                Some(first) = running.next(), if !running.is_empty() => {
                    ended.push(first);
                    // Who ends at the same time is answered with it.
                    once_more().await;
                    while ended.len() < FRAME_MESSAGES
                        && let Some(Some(next)) = running.next().now_or_never()
                    {
                        ended.push(next);
                    }
                }
                frame = incoming.message(), if bytes + waiting < BYTES => match frame {
                    Ok(Some(frame)) => {
                        if self.transport.identity().is_none_or(|i| i.has_ended(self.session)) {
                            self.transport.counters.frames_from_ended.fetch_add(1, Ordering::Relaxed);
                            return format!("session {} has ended", self.session);
                        }
                        let unsaid = self.lane.with(|state| state.unsaid());
                        if running.len() + unsaid + frame.calls.len() > CREDIT as usize {
                            return format!("more than {CREDIT} calls in flight");
                        }
                        if frame.farewell() == wire::Farewell::Done {
                            self.done.cancel();
                        }
                        for call in frame.calls {
                            let held = held(&call);
                            bytes += held;
                            running.push(self.take(call, held));
                        }
                        // Turns before the next frame, however many of those have come.
                        once_more().await;
                    }
                    Ok(None) => return "closed by the peer".into(),
                    Err(status) => return format!("lost: {}", status.message()),
                },
                _ = ticks.tick() => {}
            }
            bytes -= ended.iter().map(|(_, held, _)| held).sum::<usize>();
            waiting = self.answer(ended.drain(..));
        }
    }

    /// Gives one call to the runtime. New futures are polled in the order they were pushed, so that
    /// messages reach a mailbox in the order they were sent.
    fn take(&self, call: wire::Call, held: usize) -> Running {
        let id = call.id;
        let ready = |kind: ErrorKind| -> Running {
            Box::pin(std::future::ready((id, held, Err(PlatformError::new(kind).into()))))
        };
        let now = self.transport.world.clock.boottime();
        let Some(deadline) = self.peer.bound.lock().local_deadline(call.deadline_ms, now) else {
            return ready(ErrorKind::Unavailable {
                what: "the clocks of two nodes are not bounded by a fresh ping".into(),
            });
        };
        let envelope = match call_from_wire(call, self.session, deadline) {
            Ok(envelope) => envelope,
            Err(e) => return ready(e.into()),
        };
        if deadline <= now {
            return ready(ErrorKind::DeadlineExceeded { blocker: Some("the link".into()) });
        }
        match self.transport.residents() {
            Some(residents) => {
                let outcome = residents.dispatch(envelope);
                Box::pin(async move { (id, held, outcome.await) })
            }
            None => ready(ErrorKind::Unavailable { what: "this node is starting or stopping".into() }),
        }
    }

    /// Queues answers; returns how many bytes of them wait now.
    fn answer(&self, ended: impl Iterator<Item = Ended>) -> usize {
        let replies: Vec<_> = ended.map(|(id, _, outcome)| reply_to_wire(id, sayable(outcome))).collect();
        self.lane.with(|state| {
            replies.into_iter().for_each(|reply| state.reply(reply));
            state.reply_bytes()
        })
    }
}

/// What is not too large to be said.
fn sayable(outcome: Outcome) -> Outcome {
    let size = match &outcome {
        Ok(b) | Err(CallError::App(AppError::Encoded(b))) => b.len(),
        Err(CallError::App(AppError::Refusal(r))) => r.details.len() + r.message.len(),
        Err(CallError::Platform(_)) => 0,
    };
    if size <= limits::MESSAGE_BYTES {
        return outcome;
    }
    // The turn ran; what it said cannot be said.
    let why = format!("a result of {size} bytes is over the limit of {} bytes", limits::MESSAGE_BYTES);
    Err(PlatformError::new(ErrorKind::Unknown { why }).into())
}

/// Lets other tasks of this thread go first; other threads may take this one over.
async fn once_more() {
    let mut asked = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut asked, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
