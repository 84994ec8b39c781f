//! The runtime's side of ownership: claims, giving up, waiting through a freeze. Drives `leases`.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt, stream::FuturesUnordered};
use millet_core::{
    BootTime, BoxFuture, Envelope, ErrorKind, GrainId, Grant, Outcome, SessionId, SessionLease, hash, limits,
    model::Ownership,
};

use crate::{
    cache::Route,
    directory::Directory,
    leases::{AcquireId, Acquisition},
    locate::Target,
    meta::{Holder, MetaError},
    owners::{Claim, Owners, Placement},
    placement::BACKOFF_MAX,
    shards::{ShardKey, Stage},
    view::Standing,
};

/// A claim waits this long for the metadata store or for its shard to open: a metadata failover (2.5 s)
/// and then some. After that the callers' retry is better than a longer queue.
const CLAIM_PATIENCE: Duration = Duration::from_secs(5);
const ASK_AGAIN_MIN: Duration = Duration::from_millis(2);

impl Owners for Directory {
    fn claim<'a>(&'a self, grain: &'a GrainId) -> BoxFuture<'a, Result<Claim, ErrorKind>> {
        Box::pin(async move {
            match self.shard_key(grain) {
                Some(key) => self.claim_shard(&key).await,
                None => self.claim_lease(grain).await,
            }
        })
    }

    fn claim_now(&self, grain: &GrainId) -> Option<Claim> {
        let key = self.shard_key(grain)?;
        let session = self.valid_session()?;
        self.open_claim(&key, session)
    }

    fn own_session(&self) -> Option<Arc<SessionLease>> {
        self.session()
    }

    fn give_up(&self, grain: &GrainId, claim: &Claim) {
        if claim.shard.is_none() {
            self.release(grain, claim.session.id(), claim.grant);
        }
    }

    fn until_valid(&self, session: &Arc<SessionLease>, until: BootTime) -> BoxFuture<'static, bool> {
        let (session, clock, mut changes) = (session.clone(), self.deps.clock.clone(), self.changes());
        Box::pin(async move {
            loop {
                changes.mark_unchanged();
                let now = clock.boottime();
                if session.valid_at(now) {
                    return true;
                }
                if session.is_dead() || now >= until {
                    return false;
                }
                tokio::select! {
                    changed = changes.changed() => if changed.is_err() { return false },
                    () = tokio::time::sleep(until.since(now)) => {}
                }
            }
        })
    }

    fn call(&self, envelope: Envelope) -> BoxFuture<'static, Outcome> {
        match self.me.upgrade() {
            Some(me) => Box::pin(crate::forward::call(me, envelope)),
            None => Box::pin(async {
                let what = "the node has stopped".to_owned();
                Err(millet_core::PlatformError::new(ErrorKind::Unavailable { what }).into())
            }),
        }
    }

    fn prefers_here(&self, grain: &GrainId) -> bool {
        matches!(self.locate(grain, None), Target::Here { .. })
    }
}

impl Directory {
    /// The shard of a grain of a sharded type, by the cluster's row, else by this build's declaration.
    pub(crate) fn shard_key(&self, grain: &GrainId) -> Option<ShardKey> {
        let declared = self.types.get(&grain.ty).map(|t| t.decl.ownership);
        let ownership = self.view().type_row(&grain.ty).map(|row| row.ownership).or(declared)?;
        match ownership {
            Ownership::Leased => None,
            Ownership::Sharded { shards } => {
                Some((grain.ty.clone(), hash::shard_of(hash::grain_hash(grain), shards.max(1))))
            }
        }
    }

    fn open_claim(&self, key: &ShardKey, session: Arc<SessionLease>) -> Option<Claim> {
        match self.shards.read().stage(key)? {
            (Stage::Open, grant) => Some(Claim { session, grant, shard: Some(key.1), previous: None }),
            (Stage::Opening | Stage::Closing, _) => None,
        }
    }

    async fn claim_shard(&self, key: &ShardKey) -> Result<Claim, ErrorKind> {
        let limit = self.deps.clock.boottime().after(CLAIM_PATIENCE);
        let mut changes = self.changes();
        loop {
            changes.mark_unchanged();
            let session = self.require_session()?;
            if let Some(claim) = self.open_claim(key, session.clone()) {
                return Ok(claim);
            }
            let stage = self.shards.read().stage(key).map(|(stage, _)| stage);
            let now = self.deps.clock.boottime();
            match stage {
                Some(Stage::Opening) if now < limit => tokio::select! {
                    _ = changes.changed() => {}
                    () = tokio::time::sleep(limit.since(now)) => {}
                },
                Some(Stage::Opening) => {
                    let what = format!("shard {} of {} could not be opened in the state store", key.1, key.0);
                    return Err(ErrorKind::Unavailable { what });
                }
                Some(Stage::Closing | Stage::Open) | None => {
                    return Err(self.shard_elsewhere(key, session.id()));
                }
            }
        }
    }

    fn shard_elsewhere(&self, key: &ShardKey, mine: SessionId) -> ErrorKind {
        let view = self.view();
        match view.shard_holder(&key.0, key.1).filter(|(s, _)| s.id != mine) {
            Some((s, grant)) => moved(Some(Holder { session: s.id, node: s.node.id, grant })),
            None => moved(None),
        }
    }

    async fn claim_lease(&self, grain: &GrainId) -> Result<Claim, ErrorKind> {
        let limit = self.deps.clock.boottime().after(CLAIM_PATIENCE);
        let mut backoff = ASK_AGAIN_MIN;
        loop {
            let session = self.require_session()?;
            if self.is_leaving() {
                return Err(moved(None));
            }
            let why = if self.leases.lock().is_handing_back(grain) {
                "its lease is being handed back".to_owned()
            } else {
                match self.ask(grain, &session).await {
                    Asked::Claimed(claim) => return Ok(claim),
                    Asked::Failed(error) => return Err(error),
                    Asked::Again(why) => why,
                }
            };
            if self.deps.clock.boottime() >= limit {
                return Err(ErrorKind::Unavailable { what: format!("no lease for {grain}: {why}") });
            }
            tokio::time::sleep(self.jittered(backoff)).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    /// One acquire.
    async fn ask(&self, grain: &GrainId, session: &Arc<SessionLease>) -> Asked {
        let under_way = UnderWay::new(self, grain);
        let answer = match self.deps.meta.acquire(grain, session.id()).await {
            Ok(answer) => answer,
            Err(error @ MetaError::Unavailable(_)) => return Asked::Again(error.to_string()),
            Err(error @ (MetaError::SessionNotAlive(_) | MetaError::Refused(_))) => {
                return Asked::Failed(ErrorKind::Unavailable { what: error.to_string() });
            }
        };
        let meaning = self.leases.lock().acquire_answered(grain, under_way.id, session.id(), answer);
        match meaning {
            Acquisition::Use(grant) if self.is_leaving() => {
                self.release(grain, session.id(), grant); // R30: adopt or release
                Asked::Failed(moved(None))
            }
            Acquisition::Use(grant) => {
                self.remember_own(grain, session.id(), grant);
                Asked::Claimed(Claim { session: session.clone(), grant, shard: None, previous: None })
            }
            Acquisition::AskAgain => {
                Asked::Again("the lease was just given up or granted; asked again".into())
            }
            Acquisition::SessionOver => {
                Asked::Failed(ErrorKind::Unavailable { what: format!("{} has ended", session.id()) })
            }
            Acquisition::Held(holder) => match self.view().session_state(holder.session) {
                Standing::Ended => Asked::Again(format!("{} holds it and has just ended", holder.session)),
                Standing::Alive(_) | Standing::Newer => {
                    self.routes.learn(grain, Route { session: holder.session, grant: holder.grant });
                    Asked::Failed(moved(Some(holder)))
                }
            },
        }
    }

    /// Where placement alone would not lead callers here, the route does.
    fn remember_own(&self, grain: &GrainId, session: SessionId, grant: Grant) {
        if self.types.get(&grain.ty).is_some_and(|t| t.placement == Placement::Hash) {
            self.routes.learn(grain, Route { session, grant });
        }
    }

    fn require_session(&self) -> Result<Arc<SessionLease>, ErrorKind> {
        self.valid_session().ok_or_else(|| ErrorKind::Unavailable { what: no_session() })
    }

    /// Marks the grant dead, then queues its release (R1).
    fn release(&self, grain: &GrainId, session: SessionId, grant: Grant) {
        let queue = self.leases.lock().give_up(grain, session, grant);
        self.routes.forget(grain, grant);
        if queue {
            self.releases.lock().push_back((grain.clone(), session, grant));
            self.release_queued.notify_one();
        }
    }

    /// Sends queued releases, as many at once as one batch of the adapter takes.
    pub(crate) async fn release_loop(self: Arc<Self>) {
        let mut stopped = self.stopped();
        let mut sending = FuturesUnordered::new();
        loop {
            while sending.len() < limits::BATCH_OPS {
                let Some((grain, session, grant)) = self.releases.lock().pop_front() else { break };
                sending.push(self.send_release(grain, session, grant));
            }
            tokio::select! {
                Some(()) = sending.next(), if !sending.is_empty() => {}
                () = self.release_queued.notified() => {}
                _ = stopped.wait_for(|s| *s) => return,
            }
        }
    }

    /// Repeats one release until it is answered, or its session is over.
    async fn send_release(&self, grain: GrainId, session: SessionId, grant: Grant) {
        let mut backoff = ASK_AGAIN_MIN;
        while self.session().is_some_and(|s| s.id() == session) {
            match self.deps.meta.release(&grain, session, grant).await {
                Ok(()) | Err(MetaError::SessionNotAlive(_)) => break,
                Err(MetaError::Refused(why)) => {
                    tracing::warn!(%grain, %grant, why, "release refused");
                    break;
                }
                Err(MetaError::Unavailable(_)) => {
                    tokio::time::sleep(self.jittered(backoff)).await;
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                }
            }
        }
        self.leases.lock().hand_back_answered(&grain, session);
    }
}

/// What one acquire led to.
enum Asked {
    Claimed(Claim),
    Failed(ErrorKind),
    Again(String),
}

/// Registers an acquire for as long as its answer may still come, dropped futures included (R1).
struct UnderWay<'a> {
    directory: &'a Directory,
    grain: &'a GrainId,
    id: AcquireId,
}

impl<'a> UnderWay<'a> {
    fn new(directory: &'a Directory, grain: &'a GrainId) -> Self {
        let id = directory.leases.lock().acquire_sent(grain);
        Self { directory, grain, id }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.directory.leases.lock().acquire_ended(self.grain, self.id);
    }
}

pub(crate) fn moved(holder: Option<Holder>) -> ErrorKind {
    ErrorKind::Moved {
        holder: holder.map(|h| h.session),
        node: holder.map(|h| h.node),
        grant: holder.map(|h| h.grant),
    }
}

pub(crate) fn no_session() -> String {
    "this node has no valid session with the metadata store".to_owned()
}
