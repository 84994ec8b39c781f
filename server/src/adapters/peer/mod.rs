//! The transport between nodes (docs/architecture.md, listeners): one gRPC stream per lane per peer, each
//! frame carrying many envelopes.
//!
//! - `lane`, `bound`, `hello`: the rules; pure.
//! - `writer`: the owner of a lane's sending side.
//! - `link`: our side of the lanes to one peer session: calls go out, answers come back.
//! - `inbound`: the other side: calls come in and go to the runtime, answers go out.
//!
//! A link belongs to one session of ours and one of the peer's: a new session uses new connections (R12).

mod bound;
mod hello;
mod inbound;
mod lane;
mod link;
mod writer;

use std::{
    collections::HashMap,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use millet_core::{
    BootTime, BoxFuture, CallError, Envelope, ErrorKind, GrainId, NodeId, Outcome, PlatformError, SessionId,
    SessionLease,
};
use millet_directory::{PeerId, Peers, Residents};
use millet_proto::wire::peer_server::PeerServer;
use parking_lot::Mutex;

use crate::world::World;
use inbound::{Inbound, Service};
use link::Link;

/// Who this node is at the moment, and whom it believes: the directory's view of sessions.
pub trait Identity: Send + Sync + 'static {
    /// The newest session of this node, once it has one.
    fn session(&self) -> Option<Arc<SessionLease>>;
    /// Whether a session is known to have ended: nothing from it is accepted (G1c).
    fn has_ended(&self, session: SessionId) -> bool;
    /// Whether a session that says hello is alive; may wait a moment for news of a new one (R17).
    fn accepts_from(&self, session: SessionId) -> BoxFuture<'static, bool>;
}

/// What the transport needs to know of the node it serves.
#[derive(Clone, Debug)]
pub struct TransportConfig {
    /// This node.
    pub node: NodeId,
    /// Call lanes to each peer: `min(4, cores)`.
    pub lanes: u32,
    /// Calls under way to one peer; more are `Overloaded`.
    pub pending_per_peer: usize,
    /// Bytes of calls that wait to be written to one peer; more are `Overloaded`.
    pub queued_bytes_per_peer: usize,
}

impl TransportConfig {
    /// The defaults, on a machine with so many cores.
    pub fn new(node: NodeId, cores: usize) -> Self {
        Self {
            node,
            lanes: u32::try_from(cores.clamp(1, 4)).unwrap_or(4),
            pending_per_peer: millet_core::limits::PENDING_CALLS_PER_PEER,
            queued_bytes_per_peer: QUEUED_BYTES,
        }
    }
}

/// Sixteen maximal messages: enough to keep a fast link busy, little enough for a node with many peers.
const QUEUED_BYTES: usize = 64 * 1024 * 1024;
/// After a link failed before it was ready, calls to that peer are refused for this long instead of
/// dialling again: a dead peer costs twenty connects a second, whatever its callers do.
const REDIAL: Duration = Duration::from_millis(50);
/// Refusals are logged once per peer and reason in this time, for at most [`REFUSALS`] peers.
const REFUSAL_LOG: Duration = Duration::from_secs(60);
/// See [`REFUSAL_LOG`].
const REFUSALS: usize = 1024;

/// What the transport has seen; read by metrics and tests.
#[derive(Debug, Default)]
pub struct Counters {
    /// Frames written by our links.
    pub links_opened: AtomicU64,
    /// Links that ended, for whatever reason.
    pub links_closed: AtomicU64,
    /// Answers nobody waited for any more.
    pub late_replies: AtomicU64,
    /// Hellos refused by our listener.
    pub hellos_refused: AtomicU64,
    /// Frames dropped because their session has ended (G1c).
    pub frames_from_ended: AtomicU64,
}

/// For whom the transport works.
struct Seams {
    /// The cluster's id; checked in every hello.
    cluster: String,
    identity: Arc<dyn Identity>,
    residents: Weak<dyn Residents>,
}

/// The transport of one node: sends calls to peers and takes theirs.
pub struct Transport {
    me: Weak<Transport>,
    config: TransportConfig,
    world: World,
    seams: OnceLock<Seams>,
    links: Mutex<HashMap<(SessionId, SessionId), Arc<Link>>>,
    inbound: Mutex<HashMap<SessionId, Arc<Inbound>>>,
    refusals: Mutex<HashMap<String, BootTime>>,
    /// No more lanes are taken.
    leaving: AtomicBool,
    counters: Counters,
}

impl Transport {
    /// A transport; sends and takes calls once [`Transport::attach`] has told it for whom.
    pub fn new(world: World, config: TransportConfig) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            config,
            world,
            seams: OnceLock::new(),
            links: Mutex::default(),
            inbound: Mutex::default(),
            refusals: Mutex::default(),
            leaving: AtomicBool::new(false),
            counters: Counters::default(),
        })
    }

    /// Which cluster this is, who this node is, and where calls from peers go. The first call counts.
    pub fn attach(&self, cluster: String, identity: Arc<dyn Identity>, residents: Weak<dyn Residents>) {
        if self.seams.set(Seams { cluster, identity, residents }).is_err() {
            tracing::error!("the transport was attached twice; the first time counts");
        }
    }

    fn identity(&self) -> Option<&Arc<dyn Identity>> {
        self.seams.get().map(|s| &s.identity)
    }

    fn residents(&self) -> Option<Arc<dyn Residents>> {
        self.seams.get()?.residents.upgrade()
    }

    /// The cluster's id; empty before [`Transport::attach`], and then no hello is taken.
    fn cluster(&self) -> &str {
        self.seams.get().map_or("", |s| &s.cluster)
    }

    /// The gRPC service of the peer listener.
    pub fn service(self: &Arc<Self>) -> PeerServer<Service> {
        PeerServer::new(Service::new(self.clone()))
            .max_decoding_message_size(lane::FRAME_LIMIT)
            .max_encoding_message_size(lane::FRAME_LIMIT)
    }

    /// What it has seen.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Before a graceful end of the session: no peer sends calls here any more, and every peer has every
    /// answer, or is gone. Whoever calls gives it a limit: a peer may be frozen.
    ///
    /// Cancel safety: peers that were asked stay asked; calling again waits for those that are missing.
    pub async fn farewell(&self) {
        self.leaving.store(true, Ordering::Release);
        let peers: Vec<_> = self.inbound.lock().values().cloned().collect();
        futures::future::join_all(peers.iter().map(|peer| peer.farewell())).await;
    }

    /// Closes everything: on shutdown, after the session has ended.
    pub fn close(&self) {
        let links: Vec<_> = self.links.lock().drain().map(|(_, l)| l).collect();
        let inbound: Vec<_> = self.inbound.lock().drain().map(|(_, i)| i).collect();
        links.iter().for_each(|l| l.close("this node is shutting down"));
        inbound.iter().for_each(|i| i.close());
    }

    fn strong(&self) -> Option<Arc<Self>> {
        self.me.upgrade()
    }

    /// The link from our newest session to that peer, dialled if there is none.
    fn link(&self, to: &PeerId, envelope: &Envelope) -> Result<Arc<Link>, ErrorKind> {
        let unavailable = |what: String| ErrorKind::Unavailable { what };
        let identity = self.identity().ok_or_else(|| unavailable("this node is starting".into()))?;
        let lease = identity.session().ok_or_else(|| unavailable("this node has no session yet".into()))?;
        if lease.is_dead() || envelope.sender.is_some_and(|s| s.session != lease.id()) {
            return Err(unavailable("the session that sends has ended".into()));
        }
        if identity.has_ended(to.session) {
            return Err(unavailable(format!("session {} of {} has ended", to.session, to.node)));
        }
        let now = self.world.clock.boottime();
        let mut links = self.links.lock();
        let key = (lease.id(), to.session);
        match links.get(&key).map(|l| (l.clone(), l.failed())) {
            Some((link, None)) => return Ok(link),
            Some((_, Some((at, why)))) if now.since(at) < REDIAL => return Err(unavailable(why)),
            _ => {}
        }
        let me = self.strong().ok_or_else(|| unavailable("this node is shutting down".into()))?;
        let link = Link::dial(&me, to.clone(), lease);
        links.insert(key, link.clone());
        self.counters.links_opened.fetch_add(1, Ordering::Relaxed);
        Ok(link)
    }

    /// A warning that is logged once per peer and minute.
    fn log_refusal(&self, peer: &str, why: &str) {
        let now = self.world.clock.boottime();
        let mut seen = self.refusals.lock();
        seen.retain(|_, at| now.since(*at) < REFUSAL_LOG);
        let key = format!("{peer}: {why}");
        if seen.len() < REFUSALS && !seen.contains_key(&key) {
            tracing::warn!(peer, why, "a peer connection was refused");
            seen.insert(key, now);
        }
    }
}

impl Peers for Transport {
    fn call<'a>(&'a self, to: &'a PeerId, envelope: Envelope) -> BoxFuture<'a, Outcome> {
        Box::pin(async move {
            let grain = envelope.target.clone();
            match self.link(to, &envelope) {
                Ok(link) => link.call(envelope).await,
                Err(kind) => refuse(kind, &grain),
            }
        })
    }

    fn session_ended(&self, session: SessionId) {
        let links: Vec<_> = {
            let mut links = self.links.lock();
            let keys: Vec<_> = links
                .keys()
                .filter(|(ours, theirs)| *ours == session || *theirs == session)
                .copied()
                .collect();
            keys.iter().filter_map(|k| links.remove(k)).collect()
        };
        links.iter().for_each(|l| l.close(&format!("session {session} has ended")));
        let inbound: Vec<_> = {
            let mut inbound = self.inbound.lock();
            let ended: Vec<_> = inbound
                .iter()
                .filter(|(theirs, i)| **theirs == session || i.ours() == session)
                .map(|(k, _)| *k)
                .collect();
            ended.iter().filter_map(|k| inbound.remove(k)).collect()
        };
        inbound.iter().for_each(|i| i.close());
    }
}

/// An error of the transport's own.
fn refuse(kind: ErrorKind, grain: &GrainId) -> Outcome {
    Err(CallError::Platform(own_error(PlatformError::new(kind), grain)))
}

/// Names the grain that a call was meant for, except where the call surely was not sent: that the
/// directory tells from an answer of the callee by its naming nobody (see [`Peers::call`]).
fn own_error(error: PlatformError, grain: &GrainId) -> PlatformError {
    if matches!(error.kind(), ErrorKind::Unavailable { .. }) { error } else { error.at(grain) }
}
