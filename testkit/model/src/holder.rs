//! The product's `SessionLease` as a value: states of a model are cloned, compared and hashed, the lease
//! itself is shared by reference and changes in place.

use std::{
    hash::{Hash, Hasher},
    time::Duration,
};

use millet_core::{BootTime, SessionId, SessionLease};

/// Whether outputs may leave, as `runtime::fence` tells it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Standing {
    /// They may.
    Valid,
    /// Past the local deadline: they wait (R4).
    Frozen,
    /// Never again.
    Ended,
}

/// One session as its holder sees it.
#[derive(Debug)]
pub struct Holder(SessionLease);

impl Holder {
    /// See [`SessionLease::opened`].
    pub fn opened(session: SessionId, ttl: Duration) -> Self {
        Self(SessionLease::opened(session, ttl))
    }

    /// The lease: every rule is its own code.
    pub fn lease(&self) -> &SessionLease {
        &self.0
    }

    /// As `Activation::standing_at` computes it from the session an activation was born under.
    pub fn standing(&self, now: BootTime) -> Standing {
        if self.0.is_dead() {
            Standing::Ended
        } else if self.0.valid_at(now) {
            Standing::Valid
        } else {
            Standing::Frozen
        }
    }

    fn picture(&self) -> (SessionId, Duration, BootTime, bool) {
        (self.0.id(), self.0.ttl(), self.0.valid_until(), self.0.is_dead())
    }
}

impl Clone for Holder {
    fn clone(&self) -> Self {
        let (id, ttl, until, dead) = self.picture();
        let copy = SessionLease::opened(id, ttl);
        if until > BootTime(0) {
            let validity = BootTime(0).after(SessionLease::validity(ttl)).0;
            copy.renewed(BootTime(until.0 - validity));
        }
        if dead {
            copy.end();
        }
        Self(copy)
    }
}
impl PartialEq for Holder {
    fn eq(&self, other: &Self) -> bool {
        self.picture() == other.picture()
    }
}
impl Eq for Holder {}
impl Hash for Holder {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.picture().hash(state);
    }
}
