//! One node's directory: its parts, what the keeper's events do to them, and the published view.
//!
//! The parts are pure (`leases`, `shards`, `view`, `cache`); this file and its siblings `claims`,
//! `handover`, `watch`, `forward` drive them. Locks are leaves, with two exceptions: the view is read
//! under the shard book's lock (`feed_shards`) and exchanged under the lock of its makers (`change_view`).

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use hashbrown::HashMap;
use millet_core::{
    Clock, GrainId, GrainType, Grant, NodeId, Revision, SessionId, SessionLease, limits,
    model::TypeDecl,
    store::StateStore,
    world::{Entropy, Spawner},
};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};

use crate::{
    cache::RouteCache,
    keeper_loop::{KeeperEvent, Vitals},
    leases::LeaseBook,
    meta::Meta,
    owners::{Placement, Residents},
    peer::Peers,
    shards::{ShardBook, ShardEffect, ShardKey},
    snowflake::{NoId, Snowflakes},
    view::{Delta, Standing, View},
};

/// How long [`Directory::accepts_from`] waits for the watch to hear of a new session.
const NEWS_WAIT: Duration = Duration::from_secs(1);
/// Between two probes of the async runtime (R26).
const PROBE_EVERY: Duration = Duration::from_millis(250);

/// What the directory works with.
#[derive(Clone)]
pub struct Deps {
    /// The metadata store.
    pub meta: Arc<dyn Meta>,
    /// The transport to other nodes.
    pub peers: Arc<dyn Peers>,
    /// Where shard floors are raised before a shard opens (R2).
    pub shard_store: Arc<dyn StateStore>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Where tasks start.
    pub spawner: Arc<dyn Spawner>,
    /// For jitter.
    pub entropy: Arc<dyn Entropy>,
}

/// A grain type that this node's build knows.
#[derive(Clone, Debug)]
pub struct TypeConfig {
    /// As declared to the cluster.
    pub decl: TypeDecl,
    /// Where its leased grains go; unused for sharded types.
    pub placement: Placement,
}

/// What a directory is told once.
#[derive(Clone, Debug)]
pub struct DirectoryConfig {
    /// This node.
    pub node: NodeId,
    /// The types it hosts.
    pub types: Vec<TypeConfig>,
}

/// Finds and follows owners for one node. Made once per node, shared by its runtime, gateway and
/// transport; implements [`crate::Owners`].
pub struct Directory {
    pub(crate) me: Weak<Self>,
    pub(crate) deps: Deps,
    pub(crate) node: NodeId,
    pub(crate) types: HashMap<GrainType, TypeConfig>,
    pub(crate) residents: RwLock<Option<Arc<dyn Residents>>>,
    pub(crate) session: RwLock<Option<Arc<SessionLease>>>,
    view: RwLock<Arc<View>>,
    /// Held while the next view is made.
    changing: Mutex<()>,
    /// Bumped when the view's tables, the own session or a shard's stage changed: wakes the parked (R26).
    changed: watch::Sender<u64>,
    pub(crate) leases: Mutex<LeaseBook>,
    pub(crate) shards: RwLock<ShardBook>,
    pub(crate) routes: RouteCache,
    /// Releases not yet sent; at most one per lease that this node held.
    pub(crate) releases: Mutex<VecDeque<(GrainId, SessionId, Grant)>>,
    pub(crate) release_queued: Notify,
    ids: Snowflakes,
    vitals: Arc<Vitals>,
    pub(crate) resync: Notify,
    leaving: AtomicBool,
    stopped: watch::Sender<bool>,
}

impl Directory {
    /// Puts a directory together. Nothing runs before [`Directory::start`].
    pub fn new(deps: Deps, config: DirectoryConfig) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            deps,
            node: config.node,
            types: config.types.into_iter().map(|t| (t.decl.ty.clone(), t)).collect(),
            residents: RwLock::default(),
            session: RwLock::default(),
            view: RwLock::default(),
            changing: Mutex::default(),
            changed: watch::Sender::new(0),
            leases: Mutex::default(),
            shards: RwLock::default(),
            routes: RouteCache::new(limits::ROUTES),
            releases: Mutex::default(),
            release_queued: Notify::new(),
            ids: Snowflakes::default(),
            vitals: Arc::default(),
            resync: Notify::new(),
            leaving: AtomicBool::new(false),
            stopped: watch::Sender::new(false),
        })
    }

    /// Gives the directory the runtime that it finds grains for. Once, before [`Directory::start`].
    pub fn attach(&self, residents: Arc<dyn Residents>) {
        *self.residents.write() = Some(residents);
    }

    /// Starts the watch, the release queue and the probe of the async runtime. Once.
    pub fn start(&self) {
        let Some(me) = self.me.upgrade() else { return };
        self.spawn("directory-watch", me.clone().watch_loop());
        self.spawn("directory-releases", me.clone().release_loop());
        self.spawn("directory-probe", me.probe_loop());
    }

    /// Ends the directory's tasks and its keeper, and lets the runtime go. After [`Directory::leave`], or
    /// to simulate a crash: nothing is said to anybody.
    pub fn stop(&self) {
        self.vitals.stop();
        self.stopped.send_replace(true);
        *self.residents.write() = None;
        self.bump();
    }

    /// What the keeper's thread reads: hand it to [`crate::keeper_loop`].
    pub fn vitals(&self) -> Arc<Vitals> {
        self.vitals.clone()
    }

    /// The cluster as last heard. Cheap; take it once per decision.
    pub fn view(&self) -> Arc<View> {
        self.view.read().clone()
    }

    /// The current session, frozen or not; compute validity from it, with a fresh clock read (R12).
    pub fn session(&self) -> Option<Arc<SessionLease>> {
        self.session.read().clone()
    }

    /// The current session if it is valid at this very moment.
    pub fn valid_session(&self) -> Option<Arc<SessionLease>> {
        self.session().filter(|s| s.valid_at(self.deps.clock.boottime()))
    }

    /// A cluster-wide unique id (R33).
    pub fn next_id(&self) -> Result<u64, NoId> {
        self.ids.next(self.deps.clock.boottime(), self.deps.clock.wall_ms())
    }

    /// Whether something decided under this session may be accepted (G1c): not if it has ended. Waits up
    /// to a second for the watch to hear of a newer one; then it is refused for now.
    ///
    /// Cancel safety: may be dropped at any time.
    pub async fn accepts_from(&self, session: SessionId) -> bool {
        let limit = self.deps.clock.boottime().after(NEWS_WAIT);
        let mut revision = tokio::time::interval(Duration::from_millis(20));
        loop {
            match self.view().session_state(session) {
                Standing::Alive(_) => return true,
                Standing::Ended => return false,
                Standing::Newer if self.deps.clock.boottime() >= limit => return false,
                Standing::Newer => {
                    revision.tick().await;
                }
            }
        }
    }

    /// Takes an event of the keeper. Quick: may be called on the keeper's thread.
    pub fn on_keeper_event(&self, event: KeeperEvent) {
        match event {
            KeeperEvent::Ready { session, worker } => {
                if let Some(old) = self.session().map(|s| s.id()) {
                    self.end_session(old);
                }
                self.ids.session_ready(session.clone(), worker);
                self.leases.lock().session(Some(session.id()));
                self.shards.write().session(Some(session.id()));
                let id = session.id();
                *self.session.write() = Some(session);
                tracing::info!(node = %self.node, session = %id, "session ready");
                let mine = self.view().shards_of(id);
                self.feed_shards(&mine);
                self.bump();
            }
            KeeperEvent::Renewed { session, reserved_ms } => self.ids.reserved(session, reserved_ms),
            KeeperEvent::Frozen(_) | KeeperEvent::Thawed(_) => self.bump(),
            KeeperEvent::Ended(session) => self.end_session(session),
            // Known before the renewal that rides on the same answer counts (R17); telling the others
            // about it is not for the keeper's thread.
            KeeperEvent::EndedElsewhere { sessions, revision } => {
                let delta = self.change_view(|view| view.apply_ended(&sessions, revision));
                if let Some(me) = self.me.upgrade().filter(|_| delta.changed) {
                    self.spawn("directory-ended-elsewhere", async move { me.announce(&delta) });
                }
            }
            KeeperEvent::Resync => self.resync.notify_one(),
            KeeperEvent::Alarm(text) => tracing::error!(node = %self.node, "{text}"),
        }
    }

    /// Drops everything done under a session of this node: its lease object first (R12), then what the
    /// books know, then, on a task, the runtime's activations (R4, R28). Once per session.
    pub(crate) fn end_session(&self, session: SessionId) {
        let ended = {
            let mut current = self.session.write();
            if current.as_ref().is_some_and(|s| s.id() == session) { current.take() } else { None }
        };
        let Some(lease) = ended else { return };
        lease.end();
        // Of this session only: the keeper may have made the next one ready meanwhile.
        self.leases.lock().ended(session);
        self.shards.write().ended(session);
        self.releases.lock().retain(|(_, s, _)| *s != session);
        tracing::warn!(node = %self.node, %session, "own session ended: everything under it is dropped");
        if let Some(residents) = self.residents() {
            self.spawn("directory-session-ended", async move { residents.session_ended(session) });
        }
        self.bump();
    }

    /// Replaces the published view, then tells everyone whom the change concerns.
    pub(crate) fn update_view(&self, change: impl FnOnce(&mut View) -> Delta) -> Delta {
        let delta = self.change_view(change);
        self.announce(&delta);
        delta
    }

    /// Replaces the published view. Readers are held up for the exchange of a pointer only.
    fn change_view(&self, change: impl FnOnce(&mut View) -> Delta) -> Delta {
        let one_at_a_time = self.changing.lock();
        let mut view = View::clone(&self.view());
        let delta = change(&mut view);
        self.vitals.set_revision(view.revision());
        *self.view.write() = Arc::new(view);
        drop(one_at_a_time);
        delta
    }

    fn announce(&self, delta: &Delta) {
        for &session in &delta.ended {
            self.deps.peers.session_ended(session);
            self.end_session(session); // if it is the own one
        }
        self.feed_shards(&delta.shards);
        if delta.changed {
            self.bump();
        }
    }

    /// Shows the shard book the rows as they are now. The view is read under the book's lock, so that the
    /// book sees rows in the order of their revisions whoever brings them (R8); nobody takes the book's
    /// lock while holding the view's.
    fn feed_shards(&self, keys: &[ShardKey]) {
        if keys.is_empty() {
            return;
        }
        let effects: Vec<ShardEffect> = {
            let mut book = self.shards.write();
            let view = self.view();
            // In an order of their own: maps give another one in every process, and effects are seen outside.
            let keys: BTreeSet<_> = keys.iter().collect();
            keys.into_iter().flat_map(|key| book.row(key, view.shard(&key.0, key.1))).collect()
        };
        self.perform_shards(effects);
    }

    async fn probe_loop(self: Arc<Self>) {
        let mut stopped = self.stopped();
        loop {
            let activations = self.residents().map_or(0, |r| r.activations());
            self.vitals.beat(activations, self.ids.wanted_ms(self.deps.clock.wall_ms()));
            tokio::select! {
                () = tokio::time::sleep(PROBE_EVERY) => {}
                _ = stopped.wait_for(|s| *s) => return,
            }
        }
    }

    pub(crate) fn residents(&self) -> Option<Arc<dyn Residents>> {
        self.residents.read().clone()
    }

    pub(crate) fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.deps.spawner.spawn(name, Box::pin(task));
    }

    /// Wakes whoever is parked.
    pub(crate) fn bump(&self) {
        self.changed.send_modify(|n| *n = n.wrapping_add(1));
    }

    /// Subscribe before looking, then wait.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub(crate) fn stopped(&self) -> watch::Receiver<bool> {
        self.stopped.subscribe()
    }

    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire)
    }

    pub(crate) fn set_leaving(&self) {
        self.leaving.store(true, Ordering::Release);
        self.bump();
    }

    pub(crate) fn revision(&self) -> Revision {
        self.view.read().revision()
    }
}
