//! Carries out what the shard book decides (open, close, ack), and the graceful leave of a node.

use std::{sync::Arc, time::Duration};

use millet_core::{
    BootTime, Grant, SessionId, SessionLease,
    control::{Point, reached},
    limits,
    store::StoreError,
};

use crate::{
    directory::Directory,
    meta::{MetaError, ShardAck},
    placement::{BACKOFF_MAX, BACKOFF_MIN},
    shards::{ShardEffect, ShardKey, Stage},
};

/// This long before its end a leave stops waiting for the leader to ask for shards, and gives them back
/// unasked.
const UNASKED: Duration = Duration::from_secs(2);
/// A leave looks at least this often whether its shards are gone.
const LOOK: Duration = Duration::from_millis(50);

/// What a graceful leave left behind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Left {
    /// Activations of leased grains that had not ended.
    pub activations: usize,
    /// Shards that were not handed over or closed.
    pub shards: usize,
    /// The session has been closed in the store. If not, it expires one TTL after its last renewal.
    pub closed: bool,
}

impl Directory {
    /// Leaves the cluster: chosen for nothing new, shards handed over, leased grains ended, then the
    /// session closed: [`Directory::drain`] and [`Directory::close`] in one.
    ///
    /// Cancel safety: dropping it leaves the node draining; calling it again goes on.
    pub async fn leave(&self, until: BootTime) -> Left {
        let drained = self.drain(until).await;
        self.close(drained, until).await
    }

    /// The first half of a leave: afterwards nothing runs here, but what has been decided may still be on
    /// its way through the transport, under a session that is still valid.
    pub async fn drain(&self, until: BootTime) -> Left {
        self.set_leaving();
        let Some(session) = self.session() else { return Left { activations: 0, shards: 0, closed: false } };
        self.say(until, || self.deps.meta.drain(session.id())).await;
        let residents = self.residents();
        let activations = async {
            match &residents {
                Some(residents) => residents.drain(until).await,
                None => 0,
            }
        };
        let (activations, shards) = futures::join!(activations, self.hand_over(&session, until));
        Left { activations, shards, closed: false }
    }

    /// The second half: ends the session early, only if nothing runs under it any more, and with its
    /// fence set before the store is told (R18). Otherwise the keeper just stops, and the session expires.
    pub async fn close(&self, drained: Left, until: BootTime) -> Left {
        self.vitals().stop();
        let Some(session) = self.session() else { return drained };
        if drained.activations > 0 || drained.shards > 0 {
            tracing::warn!(?drained, "not closing the session: turns still run; it will expire");
            return drained;
        }
        session.end();
        let closed = self.say(until, || self.deps.meta.close(session.id())).await;
        self.end_session(session.id());
        Left { closed, ..drained }
    }

    /// Repeats a request until it is answered, at the longest until `until`.
    async fn say<'a, F>(&'a self, until: BootTime, request: F) -> bool
    where
        F: Fn() -> millet_core::BoxFuture<'a, Result<(), MetaError>>,
    {
        let mut backoff = BACKOFF_MIN;
        loop {
            let left = until.since(self.deps.clock.boottime());
            if left.is_zero() {
                return false;
            }
            match tokio::time::timeout(left, request()).await {
                Ok(Ok(()) | Err(MetaError::SessionNotAlive(_))) => return true,
                Ok(Err(MetaError::Refused(why))) => {
                    tracing::warn!(why, "the metadata store refused a step of the leave");
                    return false;
                }
                Ok(Err(MetaError::Unavailable(_))) => tokio::time::sleep(self.jittered(backoff)).await,
                Err(_) => return false,
            }
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    /// Waits until the leader has asked for every shard and got it; what nobody else can take, and what
    /// is left near the end, is closed unasked. Returns how many remain.
    async fn hand_over(&self, session: &SessionLease, until: BootTime) -> usize {
        let mut changes = self.changes();
        loop {
            changes.mark_unchanged();
            let now = self.deps.clock.boottime();
            let view = self.view();
            let late = now.after(UNASKED) >= until;
            let held: Vec<(ShardKey, Stage)> =
                self.shards.read().all().map(|(key, stage, _)| (key.clone(), stage)).collect();
            if held.is_empty() || now >= until || session.is_dead() {
                return if session.is_dead() { 0 } else { held.len() };
            }
            for (key, stage) in held {
                let alone = !view.eligible(&key.0).any(|s| s.id != session.id());
                if (late || alone) && stage != Stage::Closing {
                    let effects = self.shards.write().close_now(&key);
                    self.perform_shards(effects);
                }
            }
            tokio::select! {
                _ = changes.changed() => {}
                () = tokio::time::sleep(LOOK.min(until.since(now))) => {}
            }
        }
    }

    /// Starts what the shard book asked for, each as a task of its own: a slow shard delays no other.
    pub(crate) fn perform_shards(&self, effects: Vec<ShardEffect>) {
        let changed = !effects.is_empty();
        for effect in effects {
            let Some(me) = self.me.upgrade() else { return };
            match effect {
                ShardEffect::Open { key, grant, session } => {
                    self.spawn("directory-open-shard", me.open_shard(key, grant, session));
                }
                ShardEffect::Close { key, grant } => {
                    self.spawn("directory-close-shard", me.close_shard(key, grant));
                }
                ShardEffect::Ack(ack) => self.spawn("directory-ack-shard", me.ack_shard(ack)),
            }
        }
        if changed {
            self.bump();
        }
    }

    async fn open_shard(self: Arc<Self>, key: ShardKey, grant: Grant, session: SessionId) {
        let mut backoff = BACKOFF_MIN;
        while self.shards.read().stage(&key) == Some((Stage::Opening, grant)) {
            let opened = self.deps.shard_store.open_shard(&key.0, key.1, grant, session).await;
            let ok = match opened {
                Ok(()) => true,
                Err(StoreError::Unavailable(_) | StoreError::Unknown(_)) => {
                    tokio::time::sleep(self.jittered(backoff)).await;
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                    continue; // raising a floor twice is raising it once
                }
                Err(error) => {
                    tracing::warn!(ty = %key.0, shard = %key.1, %grant, %error, "shard not opened");
                    false
                }
            };
            self.shards.write().opened(&key, grant, ok);
            self.bump();
        }
    }

    async fn close_shard(self: Arc<Self>, key: ShardKey, grant: Grant) {
        let until = self.deps.clock.boottime().after(limits::REVOKE_BOUND);
        let ended = match self.residents() {
            Some(residents) => residents.close_shard(&key.0, key.1, grant, until).await,
            None => true,
        };
        let effects = {
            let mut book = self.shards.write();
            let row = self.view().shard(&key.0, key.1); // under the book's lock, as in `feed_shards`
            book.closed(&key, grant, ended, row)
        };
        self.perform_shards(effects);
        self.bump();
    }

    async fn ack_shard(self: Arc<Self>, ack: ShardAck) {
        let mut backoff = BACKOFF_MIN;
        while self.session().is_some_and(|s| s.id() == ack.session) {
            reached(Point::BeforeAck);
            match self.deps.meta.ack_shard(ack.clone()).await {
                Ok(()) | Err(MetaError::SessionNotAlive(_)) => return,
                Err(MetaError::Refused(why)) => return tracing::warn!(?ack, why, "shard ack refused"),
                Err(MetaError::Unavailable(_)) => {
                    tokio::time::sleep(self.jittered(backoff)).await;
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                }
            }
        }
    }
}
