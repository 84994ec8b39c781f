//! One node: a real directory and keeper, and a runtime in miniature that an oracle watches.

use std::{
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use millet_core::{
    BootTime, BoxFuture, Clock, Envelope, ErrorKind, GrainId, GrainType, Grant, NodeId, Outcome,
    PlatformError, SessionId, ShardId, model::NodeInfo,
};
use millet_directory::{
    Claim, Deps, Directory, DirectoryConfig, Keeper, KeeperIdentity, KeeperSettings, Owners, PeerId, Peers,
    Residents, keeper_loop,
};
use millet_testkit::{SeededEntropy, TokioSpawner};
use parking_lot::Mutex;

use super::{TTL, TestLink, World, pass, types};

/// What a node's runtime does instead of running the turn, for tests of the road.
#[derive(Clone, Debug, Default)]
pub enum Behaviour {
    /// Runs it.
    #[default]
    Run,
    /// Answers so, without running it.
    Answer(ErrorKind),
    /// Runs it, then says that a call inside it failed.
    FailInside(ErrorKind, GrainId),
}

pub struct TestNode {
    pub n: u64,
    pub directory: Arc<Directory>,
    pub link: Arc<TestLink>,
    pub residents: Arc<MiniRuntime>,
    down: AtomicBool,
    /// Cut off from the other nodes.
    pub isolated: AtomicBool,
}

impl TestNode {
    pub fn start(world: &Arc<World>, n: u64) -> Arc<Self> {
        let link = TestLink::new(world.store.clone());
        let clock = Arc::new(world.clock.clone());
        let peers = Arc::new(TestPeers { world: Arc::downgrade(world), from: n });
        let deps = Deps {
            meta: link.clone(),
            peers,
            shard_store: world.shard_store.clone(),
            clock: clock.clone(),
            spawner: Arc::new(TokioSpawner::current()),
            entropy: Arc::new(SeededEntropy::new(n)),
        };
        let directory = Directory::new(deps, DirectoryConfig { node: NodeId(n), types: types() });
        let residents = Arc::new(MiniRuntime {
            n,
            world: Arc::downgrade(world),
            owners: Arc::downgrade(&directory),
            active: Mutex::default(),
            activating: tokio::sync::Mutex::default(),
            behaviour: Mutex::default(),
            dispatched: AtomicU32::new(0),
        });
        directory.attach(residents.clone());
        directory.start();
        let node = NodeInfo {
            id: NodeId(n),
            name: format!("node-{n}"),
            peer_addr: n.to_string(),
            api_addr: String::new(),
            types: types().into_iter().map(|t| t.decl).collect(),
        };
        let incarnation = u128::from(n) << 64 | u128::from(world.clock.boottime().0);
        let told = directory.clone();
        tokio::spawn(keeper_loop(
            Keeper::new(KeeperSettings { ttl: TTL }),
            KeeperIdentity { incarnation, node },
            link.clone(),
            clock,
            directory.vitals(),
            move |event| told.on_keeper_event(event),
            |why| panic!("{why}"),
        ));
        Arc::new(Self {
            n,
            directory,
            link,
            residents,
            down: AtomicBool::new(false),
            isolated: AtomicBool::new(false),
        })
    }

    /// kill -9: says nothing to anybody.
    pub fn crash(&self) {
        self.down.store(true, Ordering::Release);
        self.directory.stop();
    }

    pub fn is_down(&self) -> bool {
        self.down.load(Ordering::Acquire)
    }

    /// Cut off from the metadata store and from the other nodes, or joined again.
    pub fn partition(&self, cut: bool) {
        self.link.cut.store(cut, Ordering::Release);
        self.isolated.store(cut, Ordering::Release);
    }

    pub fn session(&self) -> SessionId {
        self.directory.session().expect("a session").id()
    }
}

/// Activations without mailboxes: a turn takes 1 ms, everything overlaps.
pub struct MiniRuntime {
    n: u64,
    world: Weak<World>,
    owners: Weak<Directory>,
    active: Mutex<HashMap<GrainId, Claim>>,
    /// One claim at a time: a catalog in miniature.
    activating: tokio::sync::Mutex<()>,
    pub behaviour: Mutex<Behaviour>,
    pub dispatched: AtomicU32,
}

impl MiniRuntime {
    pub fn claim_of(&self, grain: &GrainId) -> Option<Claim> {
        self.active.lock().get(grain).cloned()
    }

    /// The activation goes idle: its lease is given up.
    pub fn idle(&self, grain: &GrainId) {
        let claim = self.active.lock().remove(grain).expect("active");
        self.owners.upgrade().expect("running").give_up(grain, &claim);
    }

    async fn activation(&self, grain: &GrainId) -> Result<Claim, ErrorKind> {
        let _one = self.activating.lock().await;
        if let Some(claim) = self.claim_of(grain).filter(|c| !c.session.is_dead()) {
            return Ok(claim);
        }
        let owners = self.owners.upgrade().expect("running");
        let claim = match owners.claim_now(grain) {
            Some(claim) => claim,
            None => owners.claim(grain).await?,
        };
        self.active.lock().insert(grain.clone(), claim.clone());
        Ok(claim)
    }

    async fn run(&self, envelope: Envelope) -> Outcome {
        self.dispatched.fetch_add(1, Ordering::Relaxed);
        let fail = |kind| Err(PlatformError::new(kind).at(&envelope.target).into());
        let behaviour = self.behaviour.lock().clone();
        if let Behaviour::Answer(kind) = behaviour {
            pass(Duration::from_millis(1)).await;
            return fail(kind);
        }
        let claim = match self.activation(&envelope.target).await {
            Ok(claim) => claim,
            Err(kind) => return fail(kind),
        };
        let Some(world) = self.world.upgrade() else { return fail(ErrorKind::Fenced) };
        let now = world.clock.boottime();
        if now >= envelope.deadline {
            return fail(ErrorKind::DeadlineExceeded { blocker: None });
        }
        if !claim.session.valid_at(now) {
            return fail(ErrorKind::Unavailable { what: "frozen".into() });
        }
        if self.claim_of(&envelope.target).map(|c| c.grant) != Some(claim.grant) {
            return fail(ErrorKind::Fenced);
        }
        world.observe_turn(self.n, &envelope, now);
        pass(Duration::from_millis(1)).await;
        if let Behaviour::FailInside(kind, inner) = behaviour {
            return Err(PlatformError::new(kind).at(&inner).into());
        }
        if !claim.session.valid_at(world.clock.boottime()) {
            return fail(ErrorKind::Unknown { why: "fenced at exit".into() });
        }
        Ok(Bytes::from(vec![u8::try_from(self.n).expect("in the test world")]))
    }
}

impl World {
    /// G1b: while this turn starts, no other node may hold an activation of the grain it believes in.
    fn observe_turn(&self, n: u64, envelope: &Envelope, now: BootTime) {
        *self.turns.lock().entry(envelope.request.0).or_default() += 1;
        for other in self.nodes.lock().values().filter(|o| o.n != n && !o.is_down()) {
            if let Some(claim) = other.residents.claim_of(&envelope.target) {
                assert!(
                    !claim.session.valid_at(now),
                    "{} runs on node {n} while node {} holds it validly under {}",
                    envelope.target,
                    other.n,
                    claim.grant
                );
            }
        }
    }
}

impl Residents for MiniRuntime {
    fn session_ended(&self, session: SessionId) {
        self.active.lock().retain(|_, c| c.session.id() != session);
    }
    fn close_shard<'a>(
        &'a self,
        ty: &'a GrainType,
        shard: ShardId,
        grant: Grant,
        _: BootTime,
    ) -> BoxFuture<'a, bool> {
        self.active.lock().retain(|g, c| (&g.ty, c.shard, c.grant) != (ty, Some(shard), grant));
        Box::pin(async { true })
    }
    fn outranked(&self, grain: &GrainId, grant: Grant) {
        self.active.lock().retain(|g, c| g != grain || c.grant >= grant);
    }
    fn drain<'a>(&'a self, _: BootTime) -> BoxFuture<'a, usize> {
        let leased: Vec<_> = {
            let active = self.active.lock();
            active.iter().filter(|(_, c)| c.shard.is_none()).map(|(g, _)| g.clone()).collect()
        };
        leased.iter().for_each(|grain| self.idle(grain));
        Box::pin(async { 0 })
    }
    fn activations(&self) -> u64 {
        self.active.lock().len() as u64
    }
    fn dispatch(&self, envelope: Envelope) -> BoxFuture<'static, Outcome> {
        let world = self.world.upgrade().expect("a world");
        let me = world.node(self.n).residents.clone();
        Box::pin(async move { me.run(envelope).await })
    }
}

/// The transport: 1 ms each way, a hello that names the session, no answer from those who are gone.
struct TestPeers {
    world: Weak<World>,
    from: u64,
}

impl Peers for TestPeers {
    fn call<'a>(&'a self, to: &'a PeerId, envelope: Envelope) -> BoxFuture<'a, Outcome> {
        Box::pin(async move {
            let world = self.world.upgrade().expect("a world");
            let not_sent = || {
                let what = format!("no connection to {}", to.addr);
                Err(PlatformError::new(ErrorKind::Unavailable { what }).into())
            };
            pass(Duration::from_millis(1)).await;
            let callee = world.node(to.node.0);
            let linked = || {
                let cut = |n: u64| world.node(n).isolated.load(Ordering::Acquire);
                !callee.is_down() && !cut(self.from) && !cut(to.node.0)
            };
            if !linked() || callee.directory.session().is_none_or(|s| s.id() != to.session) {
                pass(Duration::from_millis(20)).await; // connection refused or timed out
                return not_sent();
            }
            let outcome = callee.residents.dispatch(envelope).await;
            pass(Duration::from_millis(1)).await;
            if linked() {
                outcome
            } else {
                Err(PlatformError::new(ErrorKind::Unknown { why: "link lost".into() }).into())
            }
        })
    }
    fn session_ended(&self, _: SessionId) {}
}
