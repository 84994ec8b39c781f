//! A node's transport without a node: who it is is set by hand, and its grains echo.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use millet::{
    adapters::{
        listen,
        peer::{Identity, Transport, TransportConfig},
    },
    core::{
        BootTime, BoxFuture, Chain, Envelope, GrainId, GrainType, Grant, Key, MethodId, NodeId, Outcome,
        RequestId, Sender, SessionId, SessionLease, ShardId,
    },
    world::World,
};
use millet_directory::{PeerId, Residents};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// A node's identity, set by hand.
pub struct Who {
    pub lease: Arc<SessionLease>,
    pub ended: Mutex<Vec<SessionId>>,
}

impl Identity for Who {
    fn session(&self) -> Option<Arc<SessionLease>> {
        Some(self.lease.clone())
    }
    fn has_ended(&self, session: SessionId) -> bool {
        self.ended.lock().contains(&session)
    }
    fn accepts_from(&self, session: SessionId) -> BoxFuture<'static, bool> {
        Box::pin(std::future::ready(!self.has_ended(session)))
    }
}

/// Answers with the arguments; method 1 waits for `gate` first; keeps the order of arrival.
#[derive(Default)]
pub struct Echo {
    pub seen: Mutex<Vec<(Envelope, Bytes)>>,
    pub started: AtomicUsize,
    pub gate: Notify,
    pub me: std::sync::OnceLock<Weak<Echo>>,
}

impl Residents for Echo {
    fn session_ended(&self, _: SessionId) {}
    fn close_shard<'a>(&'a self, _: &'a GrainType, _: ShardId, _: Grant, _: BootTime) -> BoxFuture<'a, bool> {
        Box::pin(async { true })
    }
    fn outranked(&self, _: &GrainId, _: Grant) {}
    fn drain<'a>(&'a self, _: BootTime) -> BoxFuture<'a, usize> {
        Box::pin(async { 0 })
    }
    fn activations(&self) -> u64 {
        0
    }
    fn dispatch(&self, envelope: Envelope) -> BoxFuture<'static, Outcome> {
        let me = self.me.get().and_then(Weak::upgrade).expect("attached");
        Box::pin(async move {
            me.started.fetch_add(1, Ordering::SeqCst);
            let (method, args) = (envelope.method, envelope.args.clone());
            me.seen.lock().push((envelope, args.clone()));
            if method == MethodId(1) {
                me.gate.notified().await;
            }
            Ok(args)
        })
    }
}

pub struct Node {
    pub transport: Arc<Transport>,
    pub who: Arc<Who>,
    pub echo: Arc<Echo>,
    pub peer: PeerId,
    pub world: World,
    pub stop: CancellationToken,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop.cancel();
        self.transport.close();
    }
}

pub async fn node(id: u64, change: impl FnOnce(&mut TransportConfig)) -> Node {
    node_of("test", id, change).await
}

pub async fn node_of(cluster: &str, id: u64, change: impl FnOnce(&mut TransportConfig)) -> Node {
    node_in(World::here(), cluster, id, change).await
}

pub async fn node_in(
    world: World,
    cluster: &str,
    id: u64,
    change: impl FnOnce(&mut TransportConfig),
) -> Node {
    let lease = Arc::new(SessionLease::opened(SessionId(id * 10), Duration::from_secs(3600)));
    lease.renewed(world.clock.boottime());
    let who = Arc::new(Who { lease, ended: Mutex::default() });
    let mut config = TransportConfig::new(NodeId(id), 2);
    change(&mut config);
    let transport = Transport::new(world.clone(), config);
    let echo = Arc::new(Echo::default());
    echo.me.set(Arc::downgrade(&echo)).expect("once");
    let residents: Arc<dyn Residents> = echo.clone();
    transport.attach(cluster.into(), who.clone(), Arc::downgrade(&residents));
    let (listener, addr) = listen::bind(&*world.net, "test", "127.0.0.1:0").await.expect("a free port");
    let stop = CancellationToken::new();
    let router = listen::inner_server().add_service(transport.service());
    tokio::spawn(listen::serve("peer", router, listener, stop.clone().cancelled_owned(), Duration::ZERO));
    let peer = PeerId { node: NodeId(id), session: SessionId(id * 10), addr: addr.to_string() };
    Node { transport, who, echo, peer, world, stop }
}

impl Node {
    pub fn call_in(&self, key: u64, method: u32, args: impl Into<Bytes>, left: Duration) -> Envelope {
        Envelope {
            target: GrainId::new(GrainType::new("Echo").expect("ok"), Key::Int(key)),
            method: MethodId(method),
            args: args.into(),
            request: RequestId(1),
            deadline: self.world.clock.boottime().after(left),
            chain: Chain::default(),
            sender: Some(Sender { session: self.peer.session, epoch: None }),
            grant: None,
            one_way: false,
            context: Arc::default(),
        }
    }
    pub fn envelope(&self, key: u64, method: u32, args: impl Into<Bytes>) -> Envelope {
        self.call_in(key, method, args, Duration::from_secs(10))
    }
}
