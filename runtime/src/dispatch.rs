//! Messages in wire form: from an envelope to a mailbox, and the outcome back; and how a caller waits.

use std::sync::Arc;

use bytes::Bytes;
use millet_core::{
    BootTime, BoxFuture, CallError, Envelope, ErrorKind, GrainId, Outcome, PlatformError, Service,
};
use tokio::sync::oneshot;

use crate::{
    Grain, Hosted,
    deps::Deps,
    host::{Activate, AnyHost, Deliver, Host, NotDelivered},
    parcel::{Blocker, FirstPoll, Head, Parcel, check_chain},
};

/// Runs an envelope on this node. The message is in the mailbox (or refused) when this returns; the
/// future waits for the outcome.
pub(crate) fn dispatch<G: Grain>(host: Arc<Host<G>>, envelope: Envelope) -> BoxFuture<'static, Outcome> {
    let grain = envelope.target.clone();
    let (deadline, one_way) = (envelope.deadline, envelope.one_way);
    let pushed = host.deps.clock.boottime();
    match accept(&host, envelope) {
        Err(kind) => failed(kind, &grain),
        Ok(_) if one_way => Box::pin(std::future::ready(Ok(Bytes::new()))),
        Ok(mut rx) => Box::pin(async move {
            match hear(&host.deps, &mut rx, deadline).await {
                Heard::Answer(outcome) => outcome.map_err(|e| name(e, &grain)),
                Heard::Nothing => fail(unanswered(), &grain),
                Heard::Late => match too_late(&mut rx, || host.blocker(&grain.key), pushed) {
                    Ok(outcome) => outcome.map_err(|e| name(e, &grain)),
                    Err(kind) => fail(kind, &grain),
                },
            }
        }),
    }
}

fn accept<G: Grain>(
    host: &Arc<Host<G>>,
    envelope: Envelope,
) -> Result<oneshot::Receiver<Outcome>, ErrorKind> {
    let Envelope { target, method, args, request, deadline, chain, sender: _, grant, one_way, context } =
        envelope;
    let keys = <G::Service as Service>::KEYS;
    if target.key.kind() != keys {
        return Err(ErrorKind::BadKey {
            why: format!("{} has keys of kind {keys:?}, not {}", host.ty, target.key),
        });
    }
    let info = host
        .method(method)
        .ok_or_else(|| ErrorKind::NoSuchMethod { method: format!("{}.#{:08x}", host.ty, method.0) })?;
    check_chain(&chain, (&target.ty, &target.key), info.shared)?;
    if let Some(shown) = grant
        && let Some(act) = host.catalog.find(&target.key)
        && let Some(born) = act.born.get()
    {
        if shown > born.grant {
            // R30: someone has seen a higher grant; this activation is over.
            host.outranked(&target.key, shown);
            return Err(ErrorKind::Fenced);
        }
        if born.shard.is_some() && shown.generation < born.grant.generation {
            // R11: the sender computed the shard under another generation.
            return Err(ErrorKind::Moved {
                holder: Some(born.session.id()),
                node: None,
                grant: Some(born.grant),
            });
        }
    }
    let (tx, rx) = oneshot::channel();
    let msg = G::Service::decode(method, args, tx).map_err(|(kind, _)| kind)?;
    let context = (!context.is_empty()).then_some(context);
    let head = Head { deadline, request, chain, context, one_way, by_road: true };
    let parcel = Parcel { head, msg, bounce: <G::Service as Hosted>::reject };
    host.deliver(&target.key, parcel, FirstPoll::Spawned, Activate::Yes).map_err(|back| match back.0 {
        NotDelivered::Elsewhere => ErrorKind::Fenced,
        NotDelivered::Refused(kind) => kind,
    })?;
    Ok(rx)
}

pub(crate) fn failed(kind: ErrorKind, grain: &GrainId) -> BoxFuture<'static, Outcome> {
    Box::pin(std::future::ready(fail(kind, grain)))
}

fn fail(kind: ErrorKind, grain: &GrainId) -> Outcome {
    Err(CallError::Platform(PlatformError::new(kind).at(grain)))
}

/// Names the grain in a platform error that names none.
pub(crate) fn name<E>(error: CallError<E>, grain: &GrainId) -> CallError<E> {
    match error {
        CallError::App(e) => CallError::App(e),
        CallError::Platform(p) => CallError::Platform(p.at(grain)),
    }
}

/// What a waiting caller hears.
pub(crate) enum Heard<T> {
    /// The answer.
    Answer(T),
    /// The other side was dropped.
    Nothing,
    /// The deadline came first.
    Late,
}

/// Waits for an answer until `deadline` of the boot clock.
pub(crate) async fn hear<T>(deps: &Deps, rx: &mut oneshot::Receiver<T>, deadline: BootTime) -> Heard<T> {
    match rx.try_recv() {
        Ok(answer) => return Heard::Answer(answer),
        Err(oneshot::error::TryRecvError::Closed) => return Heard::Nothing,
        Err(oneshot::error::TryRecvError::Empty) => {}
    }
    loop {
        let now = deps.clock.boottime();
        if now >= deadline {
            return Heard::Late;
        }
        match tokio::time::timeout(deadline.since(now), &mut *rx).await {
            Ok(Ok(answer)) => return Heard::Answer(answer),
            Ok(Err(_)) => return Heard::Nothing,
            // The boot clock decides.
            Err(_) => {}
        }
    }
}

pub(crate) fn unanswered() -> ErrorKind {
    ErrorKind::Unknown { why: "the activation ended without an answer".into() }
}

/// What a caller hears whose deadline has passed. The answer is looked for after what keeps the grain
/// busy: a turn that had ended by then has answered, so it is never said not to have started (R13).
pub(crate) fn too_late<T>(
    rx: &mut oneshot::Receiver<T>,
    blocker: impl FnOnce() -> Option<Blocker>,
    pushed: BootTime,
) -> Result<T, ErrorKind> {
    let blocker = blocker();
    match rx.try_recv() {
        Ok(answer) => Ok(answer),
        Err(oneshot::error::TryRecvError::Closed) => Err(unanswered()),
        Err(oneshot::error::TryRecvError::Empty) => Err(late(blocker, pushed)),
    }
}

/// No answer by the deadline. If an exclusive turn that began before the call still runs, the call has
/// not started, and will not.
fn late(blocker: Option<Blocker>, pushed: BootTime) -> ErrorKind {
    match blocker {
        Some(b) if b.alone_since.is_some_and(|since| since <= pushed) => {
            ErrorKind::DeadlineExceeded { blocker: Some(b.to_string()) }
        }
        Some(b) => ErrorKind::Unknown { why: format!("no reply by the deadline; busy: {b}") },
        None => ErrorKind::Unknown { why: "no reply by the deadline".into() },
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use millet_core::GrainType;

    use super::*;

    /// R13: a turn ends just after its caller's deadline and its activation with it; the next one is being
    /// activated when the caller looks. The call has run: it is not said to have waited.
    #[test]
    fn r13_an_answer_at_the_deadline_is_not_taken_for_a_call_that_waited() {
        let (tx, mut rx) = oneshot::channel();
        let next = Blocker {
            grain: GrainId::new(GrainType::new("t.G").expect("a good name"), 1),
            what: "(being activated)",
            busy_for: Duration::ZERO,
            alone_since: Some(BootTime(0)),
        };
        let look = || {
            tx.send(7).expect("heard");
            Some(next.clone())
        };
        assert_eq!(too_late(&mut rx, look, BootTime(9)), Ok(7));
        let (_waits, mut rx) = oneshot::channel::<i32>();
        let waited = too_late(&mut rx, || Some(next), BootTime(9));
        assert!(matches!(waited, Err(ErrorKind::DeadlineExceeded { .. })), "{waited:?}");
    }
}
