//! A node's side of its launcher: says which sessions the node uses, so that they can be closed at once when
//! the process is proven dead (R18). Nothing here decides or waits: without a launcher, or with one that is
//! gone, the node goes on and its session lives by its keepalives.

use std::{os::fd::OwnedFd, sync::Arc};

use millet_core::{SessionId, SessionLease};

use crate::{
    launcher::{Registration, Said},
    world::inherited,
};

/// The socket to the launcher that started this process.
pub struct Launcher(OwnedFd);

impl Launcher {
    /// The launcher of this process, if it has one. The first node of a process gets it.
    pub fn inherited() -> Option<Arc<Self>> {
        inherited::take().map(|socket| Arc::new(Self(socket)))
    }

    /// The node has closed this session itself: nothing is left to be closed.
    pub fn ended(&self, session: SessionId) {
        self.say(&Said::Ended { session: session.0 });
    }

    fn say(&self, said: &Said) {
        if let Err(e) = inherited::say(&self.0, &said.to_bytes()) {
            tracing::warn!(error = %e, "the launcher was not told; after a crash the session will expire by itself");
        }
    }
}

/// Tells the launcher of every session.
pub struct Reports {
    launcher: Arc<Launcher>,
    cluster: String,
    members: Vec<String>,
}

impl Reports {
    /// For a node of this cluster. A member that died with the node cannot close its session: `own`, this
    /// node's peer address, is asked last.
    pub fn new(launcher: Arc<Launcher>, cluster: String, members: &[String], own: &str) -> Self {
        let mut members = members.to_vec();
        members.sort_by_key(|member| member == own);
        Self { launcher, cluster, members }
    }

    /// The node begins to use this session. Returns at once: called on the keeper's thread, before anything is
    /// done under the session.
    pub fn begins(&self, session: &SessionLease) {
        self.launcher.say(&Said::Session(Registration {
            session: session.id().0,
            ttl_ms: u64::try_from(session.ttl().as_millis()).unwrap_or(u64::MAX),
            cluster: self.cluster.clone(),
            members: self.members.clone(),
        }));
    }
}
