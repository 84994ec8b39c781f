//! What the services and the member's handle share: the data directory, and the running part once there
//! is a cluster.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use millet_core::{NodeId, world::Threads};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{MemberError, MemberOptions, Running};
use crate::identity::{DataDir, Identity, IdentityError, Membership, is_named};

/// Between two attempts to note that this member has left, on a disk that fails.
const LEAVE_PAUSE: Duration = Duration::from_secs(10);

/// See the module.
pub(crate) struct Shared {
    pub(super) options: MemberOptions,
    /// `None` once stopped.
    dir: Mutex<Option<DataDir>>,
    identity: Mutex<Identity>,
    running: watch::Sender<Option<Arc<Running>>>,
    /// One start, adoption or init at a time.
    pub(super) changing: tokio::sync::Mutex<()>,
}

impl Shared {
    pub(super) fn open(options: MemberOptions) -> Result<Self, MemberError> {
        let wall_ms = options.clock.wall_ms();
        let dir = DataDir::open(
            Arc::clone(&options.disk),
            &options.dir,
            options.cluster.as_deref(),
            &*options.entropy,
            wall_ms,
        )?;
        dir.not_left()?;
        let identity = Mutex::new(dir.identity().clone());
        Ok(Self {
            options,
            dir: Mutex::new(Some(dir)),
            identity,
            running: watch::Sender::new(None),
            changing: tokio::sync::Mutex::default(),
        })
    }

    pub(crate) fn node(&self) -> NodeId {
        self.identity.lock().node
    }

    pub(crate) fn threads(&self) -> Arc<dyn Threads> {
        Arc::clone(&self.options.threads)
    }

    pub(crate) fn wall_ms(&self) -> u64 {
        self.options.clock.wall_ms()
    }

    pub(crate) fn membership(&self) -> Option<Membership> {
        self.identity.lock().membership.clone()
    }

    /// The running part.
    pub(crate) fn running(&self) -> Option<Arc<Running>> {
        self.running.borrow().clone()
    }

    /// Starts the groups, if they do not run. The caller holds `changing`, or is alone.
    pub(super) async fn run(self: &Arc<Self>, place: &Membership) -> Result<Arc<Running>, MemberError> {
        if let Some(running) = self.running() {
            return Ok(running);
        }
        let failed = |source| MemberError::Storage { dir: self.options.dir.clone(), source };
        let running = Arc::new(Running::start(&self.options, place).await.map_err(failed)?);
        // Before anybody can ask it for a vote.
        self.noted(DataDir::started)?;
        self.running.send_replace(Some(Arc::clone(&running)));
        // Not before its services find it.
        running.take_part().await.map_err(failed)?;
        running.core.spawn(super::carry::drive(Arc::downgrade(&running), place.clone()));
        running.core.spawn(leave_when_told(Arc::downgrade(self), running.left.clone()));
        Ok(running)
    }

    /// Takes the place, durably.
    pub(super) fn join(&self, place: Membership) -> Result<(), MemberError> {
        self.noted(|dir| dir.join(place))
    }

    /// Changes what the data directory says of itself.
    fn noted(
        &self,
        change: impl FnOnce(&mut DataDir) -> Result<(), IdentityError>,
    ) -> Result<(), MemberError> {
        let mut dir = self.dir.lock();
        let dir = dir.as_mut().ok_or_else(|| MemberError::Unavailable("this member is stopping".into()))?;
        change(dir)?;
        *self.identity.lock() = dir.identity().clone();
        Ok(())
    }

    /// Becomes part of a cluster that another member makes. `addr`: what that one calls this member; `node`:
    /// the data directory that it has seen there. A request may come late, and find another one.
    pub(crate) async fn adopt(
        self: &Arc<Self>,
        place: Membership,
        addr: &str,
        node: NodeId,
    ) -> Result<(), MemberError> {
        let _one = self.changing.lock().await;
        if node != self.node() {
            let text = format!(
                "member {} is meant for another data directory than the one at {} now: cancel, then begin anew",
                place.member, self.options.addr
            );
            return Err(MemberError::Refused(text));
        }
        if addr != self.options.addr {
            let text = format!(
                "this member calls itself {}, not {addr}; name it as it does (node.peer_advertise)",
                self.options.addr
            );
            return Err(MemberError::Refused(text));
        }
        if let Some(name) = self.options.cluster.as_ref().filter(|n| !is_named(&place.cluster, n)) {
            let text =
                format!("{} is meant for cluster {name}, not for {}", self.options.addr, place.cluster);
            return Err(MemberError::Refused(text));
        }
        self.join(place.clone())?;
        self.run(&place).await.map(|_| ())
    }

    /// Leaves for good: the groups stop, and the directory never takes part again.
    pub(crate) async fn retire(&self) -> Result<(), MemberError> {
        let _one = self.changing.lock().await;
        self.noted(DataDir::retire)?;
        tracing::warn!("this member has left its cluster for good; its data directory can be cleared");
        if let Some(running) = self.running.send_replace(None)
            && let Err(why) = running.stop(false).await
        {
            tracing::warn!(why, "this member failed while it left");
        }
        Ok(())
    }

    /// The member has failed for good.
    pub(super) fn failed_with(&self, why: String) -> MemberError {
        MemberError::Storage { dir: self.options.dir.clone(), source: std::io::Error::other(why) }
    }

    pub(super) async fn joined(&self) -> Membership {
        let mut running = self.running.subscribe();
        loop {
            if running.borrow_and_update().is_some()
                && let Some(place) = self.membership()
            {
                return place;
            }
            if running.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    pub(super) async fn failed(&self) -> String {
        self.joined().await;
        match self.running() {
            Some(running) => running.failed().await,
            None => std::future::pending().await,
        }
    }

    pub(super) async fn stop(&self, hand_over: bool) -> Result<(), MemberError> {
        let _one = self.changing.lock().await;
        // Still served while it hands over: its successor must reach it.
        let stopped = match self.running() {
            Some(running) => running.stop(hand_over).await,
            None => Ok(()),
        };
        self.running.send_replace(None);
        drop(self.dir.lock().take());
        stopped.map_err(|why| self.failed_with(why))
    }
}

/// Leaves when another member says that this one was taken out while it was away. Runs on the groups' core:
/// the last thing that [`Shared::retire`] does is to end it, and this with it.
async fn leave_when_told(shared: Weak<Shared>, mut left: watch::Receiver<bool>) {
    if left.wait_for(|left| *left).await.is_err() {
        return;
    }
    // For as long as its process runs: its disk may have room again.
    while let Some(shared) = shared.upgrade() {
        let Err(e) = shared.retire().await else { return };
        drop(shared);
        tracing::warn!(error = %e, "this member was told that it has left its cluster, and cannot note it; trying again");
        tokio::time::sleep(LEAVE_PAUSE).await;
    }
}
