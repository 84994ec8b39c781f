//! A directory in memory for one node: grants in order, one session at a time, and the rules the real
//! one keeps (a given-up grant is dead, R1; `Moved` and `Fenced` are resent twice, R13).

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use millet_core::{
    BootTime, BoxFuture, CallError, Clock, Envelope, ErrorKind, GrainId, Grant, Outcome, SessionId,
    SessionLease, ShardId, limits,
};
use millet_directory::{Claim, Owners, Residents};
use millet_runtime::Runtime;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::LiveClock;

pub const TTL: Duration = Duration::from_secs(50);

pub struct FakeOwners {
    clock: Arc<LiveClock>,
    session: Mutex<Arc<SessionLease>>,
    pub next: AtomicU64,
    held: Mutex<HashMap<GrainId, Grant>>,
    dead: Mutex<HashSet<(GrainId, Grant)>>,
    pub given_up: Mutex<Vec<(GrainId, Grant)>>,
    /// Claims made of the metadata store, so to speak.
    pub claims: AtomicU64,
    /// What `claim` answers instead, per grain.
    pub refuse: Mutex<HashMap<GrainId, ErrorKind>>,
    /// Names of types that are sharded here: every grain is in shard 0 under this grant.
    pub sharded: Mutex<HashMap<String, Grant>>,
    pub prefers_here: AtomicBool,
    here: Mutex<Weak<Runtime>>,
    /// Where calls go that are not for here.
    pub elsewhere: Mutex<Option<Arc<Runtime>>>,
    pub remote_calls: AtomicU64,
    /// Calls that leave are not answered.
    pub stuck: AtomicBool,
    held_claims: Mutex<Option<(Arc<Notify>, Arc<Notify>)>>,
}

impl FakeOwners {
    pub fn new(clock: Arc<LiveClock>) -> Arc<Self> {
        let session = SessionLease::opened(SessionId(1), TTL);
        session.renewed(clock.boottime());
        Arc::new(Self {
            clock,
            session: Mutex::new(Arc::new(session)),
            next: AtomicU64::new(100),
            held: Mutex::default(),
            dead: Mutex::default(),
            given_up: Mutex::default(),
            claims: AtomicU64::new(0),
            refuse: Mutex::default(),
            sharded: Mutex::default(),
            prefers_here: AtomicBool::new(true),
            here: Mutex::default(),
            elsewhere: Mutex::default(),
            remote_calls: AtomicU64::new(0),
            stuck: AtomicBool::new(false),
            held_claims: Mutex::default(),
        })
    }
    pub fn serve(&self, runtime: &Arc<Runtime>) {
        *self.here.lock() = Arc::downgrade(runtime);
    }
    pub fn session(&self) -> Arc<SessionLease> {
        self.session.lock().clone()
    }
    /// Time passes without renewal: the session is past its local deadline.
    pub fn freeze(&self) {
        self.clock.skip(TTL * 9 / 10);
    }
    /// Claims wait: the first notify tells that one does, the second lets it go on.
    pub fn hold_claims(&self) -> (Arc<Notify>, Arc<Notify>) {
        let pair = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        *self.held_claims.lock() = Some(pair.clone());
        pair
    }
    pub fn now(&self) -> BootTime {
        self.clock.boottime()
    }
    pub fn thaw(&self) {
        self.session().renewed(self.clock.boottime());
    }
    /// The metadata store has ended the session; the node opens the next one.
    pub fn die(&self) -> SessionId {
        let mut session = self.session.lock();
        session.end();
        let old = session.id();
        let next = SessionLease::opened(SessionId(old.0 + 1), TTL);
        next.renewed(self.clock.boottime());
        *session = Arc::new(next);
        self.held.lock().clear();
        old
    }
    pub fn grant_of(&self, grain: &GrainId) -> Option<Grant> {
        self.held.lock().get(grain).copied()
    }
    fn fresh(&self) -> Grant {
        Grant { generation: 1, index: self.next.fetch_add(1, Ordering::SeqCst) }
    }
}

impl Owners for FakeOwners {
    fn claim<'a>(&'a self, grain: &'a GrainId) -> BoxFuture<'a, Result<Claim, ErrorKind>> {
        Box::pin(async move {
            // A round trip: another task may run.
            tokio::task::yield_now().await;
            self.claims.fetch_add(1, Ordering::SeqCst);
            let held = self.held_claims.lock().clone();
            if let Some((claimed, go)) = held {
                claimed.notify_one();
                go.notified().await;
            }
            if let Some(kind) = self.refuse.lock().get(grain) {
                return Err(kind.clone());
            }
            let session = self.session();
            if !session.valid_at(self.clock.boottime()) {
                return Err(ErrorKind::Unavailable { what: "no session".into() });
            }
            let grant = *self.held.lock().entry(grain.clone()).or_insert_with(|| self.fresh());
            assert!(!self.dead.lock().contains(&(grain.clone(), grant)), "R1: {grain} {grant} was given up");
            let shard = (grain.ty.as_str() == "t.Stub").then_some(ShardId(0));
            Ok(Claim { session, grant, shard, previous: None })
        })
    }
    fn claim_now(&self, grain: &GrainId) -> Option<Claim> {
        let grant = *self.sharded.lock().get(grain.ty.as_str())?;
        Some(Claim { session: self.session(), grant, shard: Some(ShardId(0)), previous: None })
    }
    fn give_up(&self, grain: &GrainId, claim: &Claim) {
        self.dead.lock().insert((grain.clone(), claim.grant));
        self.given_up.lock().push((grain.clone(), claim.grant));
        let mut held = self.held.lock();
        if held.get(grain) == Some(&claim.grant) {
            held.remove(grain);
        }
    }
    fn until_valid(&self, session: &Arc<SessionLease>, until: BootTime) -> BoxFuture<'static, bool> {
        let (session, clock) = (session.clone(), self.clock.clone());
        Box::pin(async move {
            loop {
                let now = clock.boottime();
                if session.is_dead() || now >= until {
                    return false;
                }
                if session.valid_at(now) {
                    return true;
                }
                // tidy: sleep: this fake looks instead of being told
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
    }
    fn call(&self, envelope: Envelope) -> BoxFuture<'static, Outcome> {
        self.remote_calls.fetch_add(1, Ordering::SeqCst);
        if self.stuck.load(Ordering::SeqCst) {
            return Box::pin(std::future::pending());
        }
        let to = self.elsewhere.lock().clone().or_else(|| self.here.lock().upgrade());
        let Some(to) = to else {
            return Box::pin(async {
                Err(CallError::Platform(ErrorKind::Unavailable { what: "stopped".into() }.into()))
            });
        };
        Box::pin(async move {
            let mut tries = 0;
            loop {
                let outcome = to.dispatch(envelope.clone()).await;
                tries += 1;
                match &outcome {
                    Err(CallError::Platform(p)) if p.kind().is_followed() && tries <= limits::RESENDS => {}
                    _ => return outcome,
                }
            }
        })
    }
    fn prefers_here(&self, _: &GrainId) -> bool {
        self.prefers_here.load(Ordering::SeqCst)
    }
}
