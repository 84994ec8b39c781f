//! Whether the outputs of an activation may leave: computed on every exit from the activation's own
//! session and a fresh clock read, never stored (R12). And what ends its right for good.

use std::sync::{Arc, atomic::Ordering};

use millet_core::{
    BootTime, BoxFuture, SessionId,
    control::{Point, Rule, off, reached},
};

use crate::{Grain, activation::Activation};

/// Whether the outputs of an activation may leave now. Always computed, never stored (R12).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Standing {
    /// Its session is valid.
    Valid,
    /// Its session is past its local deadline and not known to be dead: wait (R4).
    Frozen,
    /// Its right has ended: outputs are dropped.
    Ended,
}

/// Its right has gone: nothing starts, nothing leaves, whatever its session says.
const REVOKED: u8 = 2;
/// A save failed (R3): it ends after this turn.
const BROKEN: u8 = 4;
/// It asked to end when idle.
const QUIT: u8 = 8;

impl<G: Grain> Activation<G> {
    /// The entry and exit check, with a fresh clock read against its own session (R12).
    pub(crate) fn standing(&self) -> Standing {
        self.standing_at(self.host.deps.clock.boottime())
    }

    /// As `standing`; `now` was read just before.
    pub(crate) fn standing_at(&self, now: BootTime) -> Standing {
        let Some(born) = self.born.get() else { return Standing::Ended };
        if off(Rule::R12) && self.host.deps.owners.own_session().is_some_and(|s| s.valid_at(now)) {
            return Standing::Valid;
        }
        if self.flags.load(Ordering::Acquire) & REVOKED != 0 || born.session.is_dead() {
            Standing::Ended
        } else if born.session.valid_at(now) {
            Standing::Valid
        } else {
            Standing::Frozen
        }
    }

    /// Waits until an output may leave: false if its right has ended, or at `until` (R4).
    pub(crate) async fn may_leave(&self, until: BootTime) -> bool {
        loop {
            match self.standing() {
                _ if off(Rule::Exit) => return true,
                Standing::Valid => {
                    reached(Point::ExitChecked);
                    return true;
                }
                Standing::Ended => return self.fenced(),
                Standing::Frozen => {}
            }
            if self.host.deps.clock.boottime() >= until {
                return self.fenced();
            }
            let Some(born) = self.born.get() else { return false };
            self.host.deps.owners.until_valid(&born.session, until).await;
        }
    }

    fn fenced(&self) -> bool {
        self.host.deps.counters.fenced_outputs.add(1);
        false
    }

    /// Its right has gone (dead session, higher grant seen): nothing of it starts or leaves from now on.
    pub(crate) fn revoke(&self) {
        self.flags.fetch_or(REVOKED, Ordering::AcqRel);
        self.stop_off_turn();
    }

    pub(crate) fn is_revoked(&self) -> bool {
        self.flags.load(Ordering::Acquire) & REVOKED != 0
    }
    pub(crate) fn break_down(&self) {
        self.flags.fetch_or(BROKEN, Ordering::AcqRel);
    }
    pub(crate) fn is_broken(&self) -> bool {
        self.flags.load(Ordering::Acquire) & BROKEN != 0
    }
    pub(crate) fn quit(&self) {
        self.flags.fetch_or(QUIT, Ordering::AcqRel);
    }
    pub(crate) fn wants_to_quit(&self) -> bool {
        self.flags.load(Ordering::Acquire) & QUIT != 0
    }
    pub(crate) fn session(&self) -> Option<SessionId> {
        self.born.get().map(|b| b.session.id())
    }
}

/// An activation without its type: what its outputs are checked against after they have left the turn.
pub(crate) trait Fence: Send + Sync {
    fn now(&self) -> Standing;
    fn leave(self: Arc<Self>, until: BootTime) -> BoxFuture<'static, bool>;
}

impl<G: Grain> Fence for Activation<G> {
    fn now(&self) -> Standing {
        self.standing()
    }
    fn leave(self: Arc<Self>, until: BootTime) -> BoxFuture<'static, bool> {
        Box::pin(async move { self.may_leave(until).await })
    }
}
