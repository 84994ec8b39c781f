//! The one road: carries a call to wherever its grain is and follows it there.
//!
//! Only `Moved` and `Fenced` are resent (R13, R30): twice, then once more after asking the metadata
//! store. What was surely not sent, because the holder can not be reached, waits for the holder or for
//! the end of its session (R26). Everything ends at the caller's deadline (G5).

use std::{sync::Arc, time::Duration};

use millet_core::{
    BootTime, CallError, Envelope, ErrorKind, GrainId, Grant, Outcome, PlatformError, SessionId, limits,
    model::Ownership,
};
use tokio::sync::watch;

use crate::{
    cache::Route,
    claims::no_session,
    directory::Directory,
    locate::Target,
    meta::Holder,
    peer::PeerId,
    placement::{BACKOFF_MAX, BACKOFF_MIN},
    view::Standing,
};

/// A frozen node, this one or the callee's, may thaw: calls wait for one metadata failover (G3), then
/// answer `Unavailable` (R4).
const FROZEN_PATIENCE: Duration = Duration::from_millis(2500);
/// Runtime and transport end calls at their deadline themselves; this long after it the road does (G5).
const GRACE: Duration = Duration::from_millis(500);

/// Carries `envelope` to its grain; ends at the latest shortly after its deadline.
pub(crate) async fn call(directory: Arc<Directory>, envelope: Envelope) -> Outcome {
    let target = envelope.target.clone();
    let outcome = Trip::new(&directory, envelope).run().await;
    outcome.map_err(|error| match error {
        CallError::App(app) => CallError::App(app),
        CallError::Platform(error) => CallError::Platform(error.at(&target)),
    })
}

/// One call under way.
struct Trip<'d> {
    directory: &'d Directory,
    envelope: Envelope,
    changes: watch::Receiver<u64>,
    /// `Moved` and `Fenced` followed since the metadata store was last asked or the holder ended.
    hops: u32,
    /// The metadata store has been asked, and its answer is the last to be tried.
    asked: bool,
    /// A session that placement should not choose again.
    avoid: Option<SessionId>,
    /// Sessions that said they are leaving: they hold nothing any more, whatever others still say.
    leaving: Vec<SessionId>,
    backoff: Duration,
    /// Why the call has not been delivered yet.
    waiting_for: Option<String>,
    frozen_until: Option<BootTime>,
}

/// What follows from one try.
enum Next {
    Done(Outcome),
    /// Locate again at once.
    Again,
    /// Locate again after a change of the view or the backoff.
    Park(String),
    /// As `Park`, but only the end of this session cuts the backoff short.
    Unreachable(PeerId),
}

impl<'d> Trip<'d> {
    fn new(directory: &'d Directory, envelope: Envelope) -> Self {
        Self {
            directory,
            envelope,
            changes: directory.changes(),
            hops: 0,
            asked: false,
            avoid: None,
            leaving: Vec::new(),
            backoff: BACKOFF_MIN,
            waiting_for: None,
            frozen_until: None,
        }
    }

    async fn run(mut self) -> Outcome {
        loop {
            self.changes.mark_unchanged();
            if self.remaining().is_zero() {
                return fail(self.too_late());
            }
            if self.sender_has_ended() {
                return fail(ErrorKind::Unavailable { what: "the session that sends has ended".into() });
            }
            let next = match self.directory.locate(&self.envelope.target, self.avoid) {
                Target::Refuse(kind) => return fail(kind),
                Target::Wait(why) => Next::Park(why),
                Target::NoSession => self.frozen(no_session()),
                Target::Here { grant } => self.here(grant).await,
                Target::Peer { peer, grant } => self.peer(peer, grant).await,
            };
            match next {
                Next::Done(outcome) => return outcome,
                Next::Again => {}
                Next::Park(why) => {
                    self.waiting_for = Some(why);
                    self.park(None).await;
                }
                Next::Unreachable(peer) => {
                    self.waiting_for = Some(format!(
                        "node {} ({}), which holds or should hold it, is unreachable",
                        peer.node, peer.session
                    ));
                    self.park(Some(peer.session)).await;
                    if self.has_ended(peer.session) {
                        (self.hops, self.asked) = (0, false);
                    }
                }
            }
        }
    }

    async fn here(&mut self, grant: Option<Grant>) -> Next {
        let Some(residents) = self.directory.residents() else {
            return Next::Done(fail(ErrorKind::Unavailable { what: "this node runs no grains".into() }));
        };
        let dispatched = residents.dispatch(self.stamped(grant));
        let outcome = self.bounded(dispatched).await;
        match self.own_error(outcome) {
            Err(outcome) => Next::Done(outcome),
            Ok(ErrorKind::Unavailable { what }) if self.directory.valid_session().is_none() => {
                self.frozen(what)
            }
            Ok(kind) => self.follow(kind, grant, None).await,
        }
    }

    async fn peer(&mut self, peer: PeerId, grant: Option<Grant>) -> Next {
        let sent = self.directory.deps.peers.call(&peer, self.stamped(grant));
        let outcome = self.bounded(sent).await;
        let answered = named(&outcome);
        match self.own_error(outcome) {
            Err(outcome) => Next::Done(outcome),
            Ok(ErrorKind::Unavailable { .. }) if self.has_ended(peer.session) => {
                (self.hops, self.asked) = (0, false);
                Next::Again
            }
            // The callee itself says so: frozen, or its store is. Not for ever.
            Ok(ErrorKind::Unavailable { what }) if answered => self.frozen(what),
            Ok(ErrorKind::Unavailable { .. }) => {
                // Nobody is known to hold it there: placement may choose another node.
                self.avoid = if grant.is_none() { Some(peer.session) } else { self.avoid };
                Next::Unreachable(peer)
            }
            Ok(kind) => self.follow(kind, grant, Some(peer.session)).await,
        }
    }

    /// Follows `Moved` and `Fenced`; every other error is the caller's.
    async fn follow(&mut self, kind: ErrorKind, tried: Option<Grant>, at: Option<SessionId>) -> Next {
        // "Not here, and I know nobody": a node that is leaving.
        let adrift = matches!(kind, ErrorKind::Moved { holder: None, .. });
        let hint = match kind {
            ErrorKind::Moved { holder: Some(session), node, grant: Some(grant) } => {
                Some((session, node, grant))
            }
            ErrorKind::Moved { .. } | ErrorKind::Fenced => None,
            kind => return Next::Done(fail(kind)),
        };
        let grain = self.envelope.target.clone();
        if self.is_sharded() {
            // The shard table is the only truth: a change of it wakes the call, and each try backs off.
            return Next::Park(format!("the owner of the shard of {grain} is changing"));
        }
        let refused_by = at.or_else(|| self.directory.session().map(|mine| mine.id()));
        if adrift {
            // A leave ends by itself: it costs no resend.
            (self.hops, self.asked) = (0, false);
            self.leaving.extend(refused_by.filter(|by| !self.leaving.contains(by)));
            return self.ask(&grain, tried, at).await;
        }
        if let Some((session, ..)) = hint.filter(|(session, ..)| self.leaving.contains(session)) {
            return handing_back(&grain, session);
        }
        self.hops += 1;
        let higher =
            hint.filter(|(session, _, grant)| tried.is_none_or(|t| *grant > t) && !self.has_ended(*session));
        if self.asked {
            return Next::Done(fail(ErrorKind::Unavailable { what: format!("{grain} keeps moving") }));
        }
        if let Some((session, _, grant)) = higher.filter(|_| self.hops <= limits::RESENDS) {
            self.directory.routes.learn(&grain, Route { session, grant });
            return Next::Again;
        }
        self.ask(&grain, tried, at).await
    }

    /// Asks the metadata store who holds the grain.
    async fn ask(&mut self, grain: &GrainId, tried: Option<Grant>, at: Option<SessionId>) -> Next {
        let lookup = self.directory.deps.meta.lookup(grain);
        let found = tokio::time::timeout(self.remaining(), lookup).await;
        if let Some(grant) = tried {
            self.directory.routes.forget(grain, grant);
        }
        match found {
            Ok(Ok(Some(holder))) if self.leaving.contains(&holder.session) => {
                handing_back(grain, holder.session)
            }
            Ok(Ok(Some(Holder { session, grant, .. }))) => {
                self.asked = true;
                self.outrank(grain, session, grant);
                self.directory.routes.learn(grain, Route { session, grant });
                Next::Again
            }
            // Nobody holds it, and whoever was tried did not want it: placement chooses another.
            Ok(Ok(None)) => {
                let first = self.avoid.is_none() && at.is_some();
                self.avoid = at;
                self.hops = 0;
                if first { Next::Again } else { Next::Park(format!("no node accepts {grain} at the moment")) }
            }
            Ok(Err(error)) => Next::Park(error.to_string()),
            Err(_) => Next::Again, // the deadline has passed
        }
    }

    /// An activation here below a grant that the store has given to somebody else ends at once (R30).
    fn outrank(&self, grain: &GrainId, holder: SessionId, grant: Grant) {
        if self.directory.session().is_none_or(|mine| mine.id() != holder)
            && let Some(residents) = self.directory.residents()
        {
            residents.outranked(grain, grant);
        }
    }

    /// Waits for a thaw, within limits.
    fn frozen(&mut self, what: String) -> Next {
        let now = self.directory.deps.clock.boottime();
        let until = *self.frozen_until.get_or_insert(now.after(FROZEN_PATIENCE));
        if now < until { Next::Park(what) } else { Next::Done(fail(ErrorKind::Unavailable { what })) }
    }

    /// Waits for the backoff, or for the view to change (for `unreachable`: for the end of its session).
    async fn park(&mut self, unreachable: Option<SessionId>) {
        let wait = self.directory.jittered(self.backoff).min(self.remaining());
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
        let (directory, changes) = (self.directory, &mut self.changes);
        let woken = async {
            while changes.changed().await.is_ok() {
                if unreachable.is_none_or(|session| ended(directory, session)) {
                    return;
                }
            }
            std::future::pending().await
        };
        let _ = tokio::time::timeout(wait, woken).await;
    }

    /// The backstop of G5: what neither the runtime nor the transport ended.
    async fn bounded(&self, call: impl Future<Output = Outcome>) -> Outcome {
        match tokio::time::timeout(self.remaining() + GRACE, call).await {
            Ok(outcome) => outcome,
            Err(_) => fail(ErrorKind::Unknown { why: "no answer at the deadline".into() }),
        }
    }

    /// Splits off the errors of this very call, whose turn did not start. An error that names another
    /// grain comes from inside a turn that ran: it is the caller's, and nothing is resent (R13).
    fn own_error(&self, outcome: Outcome) -> Result<ErrorKind, Outcome> {
        match outcome {
            Err(CallError::Platform(error)) if error.grain().is_none_or(|g| *g == self.envelope.target) => {
                match error.kind() {
                    ErrorKind::Moved { .. } | ErrorKind::Fenced | ErrorKind::Unavailable { .. } => {
                        Ok(error.into_parts().0)
                    }
                    _ => Err(Err(CallError::Platform(error))), // ErrorKind is non-exhaustive
                }
            }
            outcome => Err(outcome),
        }
    }

    fn stamped(&self, grant: Option<Grant>) -> Envelope {
        Envelope { grant, ..self.envelope.clone() }
    }

    fn remaining(&self) -> Duration {
        self.envelope.deadline.since(self.directory.deps.clock.boottime())
    }

    fn too_late(&mut self) -> ErrorKind {
        match self.waiting_for.take() {
            Some(what) => ErrorKind::Unavailable { what },
            None => ErrorKind::DeadlineExceeded { blocker: None },
        }
    }

    fn is_sharded(&self) -> bool {
        let view = self.directory.view();
        view.type_row(&self.envelope.target.ty).is_some_and(|row| match row.ownership {
            Ownership::Sharded { .. } => true,
            Ownership::Leased => false,
        })
    }

    /// A call that is still here is an output of its sender: with the sender's session, one of this node's,
    /// it ends, however long it has waited (R12, G1c).
    fn sender_has_ended(&self) -> bool {
        let mine = || self.directory.session().map(|s| s.id());
        self.envelope.sender.is_some_and(|sender| mine() != Some(sender.session))
    }

    fn has_ended(&self, session: SessionId) -> bool {
        ended(self.directory, session)
    }
}

fn handing_back(grain: &GrainId, by: SessionId) -> Next {
    Next::Park(format!("{grain} is being handed back by {by}"))
}

fn ended(directory: &Directory, session: SessionId) -> bool {
    directory.view().session_state(session) == Standing::Ended
}

/// Whether somebody who looked at the call made the error: the transport's own errors name no grain.
fn named(outcome: &Outcome) -> bool {
    matches!(outcome, Err(CallError::Platform(error)) if error.grain().is_some())
}

fn fail(kind: ErrorKind) -> Outcome {
    Err(CallError::Platform(PlatformError::new(kind)))
}
