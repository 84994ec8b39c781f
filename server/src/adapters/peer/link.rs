//! Our side of the lanes to one session of one peer: dials, says hello, carries calls out and answers
//! back, and ends everybody's wait when the link or a session ends (R26).

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use millet_core::{
    BootTime, BoxFuture, CallError, Envelope, ErrorKind, GrainId, Outcome, SessionLease, clock::Clock, hash,
    limits,
};
use millet_directory::PeerId;
use millet_proto::{
    peer::{Hello, PROTOCOL, call_to_wire, reply_from_wire},
    status::cut,
    wire::{self, peer_client::PeerClient},
};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tonic::{Streaming, transport::Channel};

use super::{
    Transport,
    bound::ClockBound,
    lane::{FRAME_LIMIT, Written},
    own_error, refuse,
    writer::{Lane, Writer},
};
use crate::world::Dial;

/// How often deadlines are looked at and a frozen writer is woken.
const TICK: Duration = Duration::from_millis(10);
/// Pings on the control lane.
pub(super) const PING: Duration = Duration::from_secs(1);
/// A peer that answers no ping for this long is not there.
pub(super) const SILENCE: Duration = Duration::from_secs(5);
/// Connecting, hello and first ping must be done by then.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// What a node that is leaving would say: it holds nothing any more, and the metadata store knows who does.
const PARTING: ErrorKind = ErrorKind::Moved { holder: None, node: None, grant: None };

type Waiter = oneshot::Sender<Outcome>;

/// A lane that was opened: what comes on it, its first frame, and the calls that the listener takes.
type Opened = (Streaming<wire::PeerFrame>, wire::PeerFrame, u32);

/// The lanes from one session of ours to one of a peer's.
pub(super) struct Link {
    to: PeerId,
    lanes: Vec<Arc<Lane<Waiter>>>,
    clock: Arc<dyn Clock>,
    in_flight: AtomicUsize,
    pending_limit: usize,
    queued_limit: usize,
    ended: CancellationToken,
    /// When and why it ended.
    failed: Mutex<Option<(BootTime, String)>>,
    transport: Weak<Transport>,
}

impl Link {
    /// Starts to connect. Calls may be given to it at once; they wait for the handshake.
    pub(super) fn dial(transport: &Arc<Transport>, to: PeerId, lease: Arc<SessionLease>) -> Arc<Self> {
        let (config, clock) = (&transport.config, transport.world.clock.clone());
        let hello = |lane| {
            wire::Hello::from(Hello {
                cluster: transport.cluster().to_owned(),
                protocol: PROTOCOL,
                node: config.node,
                session: lease.id(),
                target_node: to.node,
                target_session: to.session,
                lane,
                features: Vec::new(),
                credit: 0,
            })
        };
        let lanes = (0..=config.lanes).map(|n| Lane::new(hello(n), lease.clone(), clock.clone())).collect();
        let link = Arc::new(Self {
            to,
            lanes,
            clock,
            in_flight: AtomicUsize::new(0),
            pending_limit: config.pending_per_peer,
            queued_limit: config.queued_bytes_per_peer / config.lanes.max(1) as usize,
            ended: CancellationToken::new(),
            failed: Mutex::new(None),
            transport: Arc::downgrade(transport),
        });
        let dial = Dial::new(transport.world.net.clone());
        transport.world.io.spawn("peer link", Box::pin(link.clone().run(dial)));
        link
    }

    /// When and why it ended, if it has.
    pub(super) fn failed(&self) -> Option<(BootTime, String)> {
        self.failed.lock().clone()
    }

    /// Sends a call on its target's lane and waits for its end.
    pub(super) fn call(self: Arc<Self>, envelope: Envelope) -> BoxFuture<'static, Outcome> {
        let grain = envelope.target.clone();
        match self.submit(&envelope, &grain) {
            Ok((ticket, answer)) => Box::pin(async move {
                let outcome = answer.await;
                drop(ticket);
                match outcome {
                    Ok(Err(CallError::Platform(e))) => Err(CallError::Platform(own_error(e, &grain))),
                    Ok(outcome) => outcome,
                    Err(_) => refuse(ErrorKind::Unknown { why: "the link was dropped".into() }, &grain),
                }
            }),
            Err(kind) => Box::pin(std::future::ready(refuse(kind, &grain))),
        }
    }

    fn submit(
        self: &Arc<Self>,
        envelope: &Envelope,
        grain: &GrainId,
    ) -> Result<(Ticket, oneshot::Receiver<Outcome>), ErrorKind> {
        let overloaded = |what| ErrorKind::Overloaded { retry_after: Duration::from_millis(50), what };
        if envelope.args.len() > limits::MESSAGE_BYTES {
            let what = format!("arguments of {} bytes for {grain}", envelope.args.len());
            return Err(ErrorKind::TooLarge { what, limit: limits::MESSAGE_BYTES });
        }
        if envelope.deadline <= self.clock.boottime() {
            return Err(ErrorKind::DeadlineExceeded { blocker: None });
        }
        let lane_number = 1 + hash::shard_of(hash::grain_hash(grain), self.call_lanes()).0;
        let lane = self.lanes[lane_number as usize].clone();
        // The ticket gives its place back when it is dropped, on every path.
        let mut ticket = Ticket { link: self.clone(), lane, id: 0 };
        if self.in_flight.fetch_add(1, Ordering::AcqRel) >= self.pending_limit {
            return Err(overloaded(format!("{} calls under way to {}", self.pending_limit, self.to.node)));
        }
        let call = call_to_wire(0, envelope);
        let (waiter, answer) = oneshot::channel();
        let limit = self.queued_limit;
        let queued = ticket.lane.with(|state| {
            if state.queued_bytes() >= limit {
                None
            } else {
                Some(state.submit(call, envelope.deadline, waiter))
            }
        });
        match queued {
            None => Err(overloaded(format!("{limit} bytes wait to be written to {}", self.to.node))),
            Some(Err(_)) => Err(self.failed().map_or(PARTING, |(_, what)| ErrorKind::Unavailable { what })),
            Some(Ok(id)) => {
                ticket.id = id;
                Ok((ticket, answer))
            }
        }
    }

    fn call_lanes(&self) -> u32 {
        u32::try_from(self.lanes.len() - 1).unwrap_or(1)
    }

    /// Ends the link and everybody's wait: `Unknown` for what was written, not sent for the rest.
    pub(super) fn close(&self, why: &str) {
        {
            let mut failed = self.failed.lock();
            if failed.is_some() {
                return;
            }
            *failed =
                Some((self.clock.boottime(), format!("link to {} at {}: {why}", self.to.node, self.to.addr)));
        }
        self.ended.cancel();
        for lane in &self.lanes {
            for (waiter, written) in lane.with(super::lane::LaneState::close) {
                let why = format!("link to {}: {why}", self.to.node);
                let kind = match written {
                    Written::No => ErrorKind::Unavailable { what: why },
                    Written::Maybe => ErrorKind::Unknown { why },
                };
                drop(waiter.send(Err(millet_core::PlatformError::new(kind).into())));
            }
        }
        if let Some(t) = self.transport.upgrade() {
            t.counters.links_closed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The link's task: handshake, then pings, deadlines and answers until it ends.
    async fn run(self: Arc<Self>, dial: Dial) {
        let _ends = Ends(&self);
        let why = tokio::select! {
            () = self.ended.cancelled() => return,
            why = self.connection(dial) => why,
            () = self.ticking() => return,
        };
        self.close(&why);
    }

    /// Connects and keeps the control lane; returns why it ended.
    async fn connection(self: &Arc<Self>, dial: Dial) -> String {
        let open = async {
            let control = dial.connect(&self.to.addr).await.map_err(|e| e.to_string())?;
            self.open(control, dial).await
        };
        match tokio::time::timeout(HANDSHAKE, open).await {
            Ok(Ok(control)) => self.control(control).await,
            Ok(Err(why)) => why,
            Err(_) => format!("no handshake within {HANDSHAKE:?}"),
        }
    }

    async fn ticking(&self) {
        loop {
            self.tick();
            tokio::time::sleep(TICK).await;
        }
    }

    /// Opens the control lane, lets both sides bound each other's clock, then opens the call lanes.
    async fn open(
        self: &Arc<Self>,
        channel: Channel,
        dial: Dial,
    ) -> Result<(Streaming<wire::PeerFrame>, ClockBound), String> {
        let (mut control, mut frame, credit) = self.open_lane(&channel, 0).await?;
        let mut bound = ClockBound::default();
        // Our ping follows our answer to the listener's, so that its answer says: both are bounded (R15).
        loop {
            let asked = !frame.pings.is_empty();
            self.heard_control(frame, &mut bound);
            if bound.heard().is_some() {
                break;
            }
            if asked {
                self.ping(&mut bound);
            }
            frame = next_frame(&mut control).await?;
        }
        let transport = self.transport.upgrade().ok_or("this node is shutting down")?;
        let mut opening = std::pin::pin!(self.call_lanes_opened(&transport, dial));
        let lanes = loop {
            tokio::select! {
                lanes = &mut opening => break lanes?,
                // The listener bounds our clock meanwhile, too.
                frame = next_frame(&mut control) => self.heard_control(frame?, &mut bound),
            }
        };
        // No lane may send before all are open: what a half-open link has written would be lost with it.
        // The first frame may say more than hello.
        self.lanes[0].with(|state| state.add_credit(credit));
        for (n, (stream, first, credit)) in (1..).zip(lanes) {
            self.lanes[n].with(|state| state.add_credit(credit));
            self.answered(n, first);
            transport.world.spawner.spawn("peer lane", Box::pin(self.clone().answers(n, stream)));
        }
        Ok((control, bound))
    }

    /// Opens the call lanes over a connection of their own, which the grains' threads serve: a caller wakes
    /// nobody on another thread, and who calls at the same time gets into the same frame. What keeps the
    /// link alive stays where no turn can hold it up.
    async fn call_lanes_opened(
        self: &Arc<Self>,
        transport: &Arc<Transport>,
        dial: Dial,
    ) -> Result<Vec<Opened>, String> {
        let (opened, heard) = oneshot::channel();
        let link = self.clone();
        let open = async move {
            let channel = dial.connect_patiently(&link.to.addr).await.map_err(|e| e.to_string())?;
            futures::future::try_join_all((1..link.lanes.len()).map(|n| link.open_lane(&channel, n))).await
        };
        let open = async move {
            // Who asked may have gone: then the lanes are closed with what is dropped here.
            let _ = opened.send(tokio::time::timeout(HANDSHAKE, open).await);
        };
        transport.world.spawner.spawn("peer lanes", Box::pin(open));
        match heard.await {
            Ok(Ok(lanes)) => lanes,
            Ok(Err(_)) => Err(format!("no call lanes within {HANDSHAKE:?}")),
            Err(_) => Err("the task that opens call lanes has ended".into()),
        }
    }

    /// Opens one lane and reads the first frame; the listener's hello in it says how many calls it takes.
    async fn open_lane(&self, channel: &Channel, lane: usize) -> Result<Opened, String> {
        let mut client = PeerClient::new(channel.clone())
            .max_decoding_message_size(FRAME_LIMIT)
            .max_encoding_message_size(FRAME_LIMIT);
        let answer = client.lane(Writer::new(self.lanes[lane].clone())).await;
        let mut stream = answer.map_err(|s| format!("refused: {}", cut(s.message())))?.into_inner();
        let mut first = next_frame(&mut stream).await?;
        let hello = first.hello.take().ok_or("the listener did not say hello")?;
        if let Some(refused) = hello.refused {
            let why = format!("refused: {}", cut(&refused.text));
            if let Some(t) = self.transport.upgrade() {
                t.log_refusal(&format!("{} at {}", self.to.node, self.to.addr), &why);
            }
            return Err(why);
        }
        Ok((stream, first, hello.credit))
    }

    /// Pings, and watches for silence, until the control lane ends.
    async fn control(&self, (mut stream, mut bound): (Streaming<wire::PeerFrame>, ClockBound)) -> String {
        let mut pings = tokio::time::interval(PING);
        loop {
            tokio::select! {
                frame = next_frame(&mut stream) => match frame {
                    Ok(frame) => self.heard_control(frame, &mut bound),
                    Err(why) => {
                        // The peer closes the call lanes, too: what it has answered is read to its end, which
                        // ends the link; turns here may hold that up.
                        drop(tokio::time::timeout(SILENCE, self.ended.cancelled()).await);
                        return why;
                    }
                },
                _ = pings.tick() => {
                    self.ping(&mut bound);
                    if bound.heard().is_some_and(|at| self.clock.boottime().since(at) > SILENCE) {
                        return format!("no answer to pings for {SILENCE:?}");
                    }
                }
            }
        }
    }

    fn ping(&self, bound: &mut ClockBound) {
        if let Some(nonce) = bound.ping(self.clock.boottime()) {
            self.lanes[0].with(|state| state.ping(nonce));
        }
    }

    fn heard_control(&self, frame: wire::PeerFrame, bound: &mut ClockBound) {
        for pong in &frame.pongs {
            bound.pong(pong.nonce, pong.now_ms);
        }
        self.lanes[0].with(|state| frame.pings.iter().for_each(|p| state.pong(p.nonce)));
    }

    /// Reads one call lane's answers until it ends.
    async fn answers(self: Arc<Self>, lane: usize, mut stream: Streaming<wire::PeerFrame>) {
        // Also if this task is dropped half-way, with its runtime.
        let _ends = Ends(&self);
        let why = loop {
            tokio::select! {
                () = self.ended.cancelled() => return,
                frame = next_frame(&mut stream) => match frame {
                    Ok(frame) => self.answered(lane, frame),
                    Err(why) => break why,
                },
            }
        };
        self.close(&why);
    }

    fn answered(&self, lane: usize, frame: wire::PeerFrame) {
        if frame.farewell() == wire::Farewell::Asked {
            for waiter in self.lanes[lane].with(super::lane::LaneState::part) {
                drop(waiter.send(Err(millet_core::PlatformError::new(PARTING).into())));
            }
        }
        let ids: Vec<_> = frame.replies.iter().map(|r| r.id).collect();
        let waiters: Vec<_> = self.lanes[lane].with(|state| {
            state.add_credit(frame.credit);
            ids.into_iter().map(|id| state.answered(id)).collect()
        });
        for (waiter, reply) in waiters.into_iter().zip(frame.replies) {
            let Some(waiter) = waiter else {
                if let Some(t) = self.transport.upgrade() {
                    t.counters.late_replies.fetch_add(1, Ordering::Relaxed);
                }
                continue;
            };
            let outcome = reply_from_wire(reply).map_or_else(
                |e| {
                    let why = format!("{} sent an answer that cannot be read: {e}", self.to.node);
                    Err(millet_core::PlatformError::new(ErrorKind::Unknown { why }).into())
                },
                |(_, outcome)| outcome,
            );
            drop(waiter.send(outcome));
        }
    }

    /// Ends calls whose deadline has come, and gives a frozen writer another look at its session.
    fn tick(&self) {
        let now = self.clock.boottime();
        for lane in &self.lanes[1..] {
            for (waiter, written) in lane.with(|state| state.expire(now)) {
                let kind = match written {
                    Written::No => {
                        ErrorKind::DeadlineExceeded { blocker: Some(format!("the link to {}", self.to.node)) }
                    }
                    Written::Maybe => {
                        ErrorKind::Unknown { why: format!("no answer from {} in time", self.to.node) }
                    }
                };
                drop(waiter.send(Err(millet_core::PlatformError::new(kind).into())));
            }
        }
    }
}

/// The next frame, or why there is none.
async fn next_frame(stream: &mut Streaming<wire::PeerFrame>) -> Result<wire::PeerFrame, String> {
    match stream.message().await {
        Ok(Some(frame)) => Ok(frame),
        Ok(None) => Err("closed by the peer".into()),
        Err(status) => Err(format!("lost: {}", status.message())),
    }
}

/// Ends its link when dropped: also where the task that holds it is dropped half-way.
struct Ends<'l>(&'l Link);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.close("the task of a lane has ended");
    }
}

/// A call's place among those under way; gives it back when the caller is done or gone.
struct Ticket {
    link: Arc<Link>,
    lane: Arc<Lane<Waiter>>,
    id: u64,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.link.in_flight.fetch_sub(1, Ordering::AcqRel);
        if self.id != 0 {
            drop(self.lane.with(|state| state.abandon(self.id)));
        }
    }
}
