//! One message on its way to a turn, what rides along with it, and the check that keeps call chains
//! from waiting for themselves.

use std::{fmt, sync::Arc, time::Duration};

use millet_core::{BootTime, Chain, ErrorKind, GrainId, GrainType, Key, PlatformError, RequestId, limits};

use crate::Hosted;

/// Request context.
pub(crate) type Context = Arc<Vec<(String, String)>>;

/// What rides along with a message.
#[derive(Clone)]
pub(crate) struct Head {
    /// No turn starts at or after this.
    pub(crate) deadline: BootTime,
    pub(crate) request: RequestId,
    pub(crate) chain: Chain,
    /// `None` where it is empty.
    pub(crate) context: Option<Context>,
    /// Nobody waits for a reply.
    pub(crate) one_way: bool,
    /// It came by the directory's road: a lane waits for the reply, not the caller.
    pub(crate) by_road: bool,
}

impl Head {
    /// Its reply wakes somebody whom others need, too.
    pub(crate) fn wakes_a_lane(&self) -> bool {
        self.by_road && !self.one_way
    }
}

impl Head {
    /// For work that nobody called for: timers, continuations, `activate`.
    pub(crate) fn background(now: BootTime, request: RequestId) -> Self {
        Self {
            deadline: now.after(limits::DEFAULT_DEADLINE),
            request,
            chain: Chain(None),
            context: None,
            one_way: true,
            by_road: false,
        }
    }
}

/// A message and its way back.
pub(crate) struct Parcel<S: Hosted> {
    pub(crate) head: Head,
    pub(crate) msg: S::Msg,
    /// Answers a message that will not run.
    pub(crate) bounce: fn(S::Msg, PlatformError),
}

impl<S: Hosted> Parcel<S> {
    pub(crate) fn reject(self, error: PlatformError) {
        (self.bounce)(self.msg, error);
    }
}

/// How a run that a message starts gets its first poll.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FirstPoll {
    /// On the caller's stack, if not too deep. The clock was read just before: a turn that starts at once
    /// is checked against that.
    Inline(BootTime),
    /// By the spawner: the caller is a transport, a timer, or someone else who must not run turns.
    Spawned,
}

/// What keeps an activation busy.
#[derive(Clone, Debug)]
pub(crate) struct Blocker {
    pub(crate) grain: GrainId,
    /// The method's name, or what else it does.
    pub(crate) what: &'static str,
    pub(crate) busy_for: Duration,
    /// Nothing else can have started since then.
    pub(crate) alone_since: Option<BootTime>,
}

impl fmt::Display for Blocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{} for {:?}", self.grain, self.what, self.busy_for)
    }
}

/// Refuses a call that would wait for itself: a grain that already waits in the chain may be called
/// again only if all its frames and the new turn are shared; and chains end at [`limits::CHAIN_FRAMES`].
pub(crate) fn check_chain(
    chain: &Chain,
    (ty, key): (&GrainType, &Key),
    shared: bool,
) -> Result<(), ErrorKind> {
    let frames = chain.frames();
    let waits = frames.iter().any(|f| f.grain.key == *key && f.grain.ty == *ty && !(f.shared && shared));
    if !waits && frames.len() < limits::CHAIN_FRAMES {
        return Ok(());
    }
    let mut shown: String = frames.iter().map(|f| format!("{} -> ", f.grain)).collect();
    shown += &GrainId::new(ty.clone(), key.clone()).to_string();
    if !waits {
        shown += &format!(" (deeper than {} calls)", limits::CHAIN_FRAMES);
    }
    Err(ErrorKind::CallCycle { chain: shown })
}

/// Whether this grain waits in the chain: a shared call that must not queue behind a waiting writer.
pub(crate) fn is_reentrant(chain: &Chain, ty: &str, key: &Key) -> bool {
    chain.frames().iter().any(|f| f.grain.key == *key && f.grain.ty.as_str() == ty)
}

#[cfg(test)]
mod tests {
    use super::*;
    use millet_core::Frame;

    fn grain(n: u64) -> GrainId {
        GrainId::new(GrainType::new("t.A").expect("a good name"), n)
    }

    fn check_chain(chain: &Chain, target: &GrainId, shared: bool) -> Result<(), ErrorKind> {
        super::check_chain(chain, (&target.ty, &target.key), shared)
    }

    /// Re-entry only among shared turns; the error shows the chain.
    #[test]
    fn a_grain_is_entered_again_only_by_shared_turns() {
        let one = Chain::default().with(Frame { grain: grain(1), shared: true });
        assert!(check_chain(&one, &grain(1), true).is_ok());
        assert!(check_chain(&one, &grain(2), false).is_ok());
        let e = check_chain(&one, &grain(1), false).expect_err("a writer would wait for the reader");
        assert_eq!(e, ErrorKind::CallCycle { chain: "t.A/1 -> t.A/1".into() });
        let two = one.with(Frame { grain: grain(1), shared: false });
        assert!(check_chain(&two, &grain(1), true).is_err());
    }

    /// Deep chains are loops.
    #[test]
    fn a_chain_ends_at_its_limit() {
        let mut chain = Chain::default();
        for n in 0..limits::CHAIN_FRAMES as u64 {
            assert!(check_chain(&chain, &grain(n), false).is_ok());
            chain = chain.with(Frame { grain: grain(n), shared: false });
        }
        assert!(check_chain(&chain, &grain(99), true).is_err());
    }
}
