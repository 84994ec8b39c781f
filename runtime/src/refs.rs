//! A reference to a grain: the short road where it is active here, the directory's road elsewhere.
//!
//! Local calls move the value; remote calls encode it once. Which one is taken shows only in speed.

use std::{sync::Arc, time::Duration};

use millet_core::{
    BootTime, CallError, Envelope, ErrorKind, GrainId, GrainType, Key, PlatformError, Service, limits,
};
use tokio::sync::oneshot;

use crate::{
    Hosted, HostedMethod, Reply,
    dispatch::{Heard, hear, name, too_late, unanswered},
    fence::Standing,
    host::{Activate, NotDelivered},
    origin::Origin,
    parcel::{Context, FirstPoll, Head, Parcel, check_chain},
    road::Road,
    service::{Answer, bounce},
};

/// A reference to one grain of service `S`: what generated references wrap.
pub struct GrainRef<S: Hosted> {
    road: Arc<Road<S>>,
    /// The grain's key, or why there can be no such grain.
    key: Result<Key, ErrorKind>,
    origin: Option<Arc<Origin>>,
    limit: Duration,
    context: Vec<(String, String)>,
}

impl<S: Hosted> Clone for GrainRef<S> {
    fn clone(&self) -> Self {
        Self {
            road: self.road.clone(),
            key: self.key.clone(),
            origin: self.origin.clone(),
            limit: self.limit,
            context: self.context.clone(),
        }
    }
}

impl<S: Hosted> GrainRef<S> {
    pub(crate) fn new(road: Arc<Road<S>>, key: Key, origin: Option<Arc<Origin>>) -> Self {
        let key = match &road.ty {
            Err(kind) => Err(kind.clone()),
            Ok(_) if key.kind() == <S as Service>::KEYS => Ok(key),
            Ok(_) => Err(ErrorKind::BadKey {
                why: format!("{} has keys of kind {:?}, not {key}", S::NAME, S::KEYS),
            }),
        };
        Self { road, key, origin, limit: limits::DEFAULT_DEADLINE, context: Vec::new() }
    }

    /// Calls made through the result end after `d` (at most [`limits::MAX_DEADLINE`], and at most what is
    /// left to the turn they are made in).
    #[must_use]
    pub fn with_deadline(mut self, d: Duration) -> Self {
        self.limit = d.min(limits::MAX_DEADLINE);
        self
    }

    /// Adds an entry to the request context of calls made through the result.
    #[must_use]
    pub fn with_context(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.context.push((name.into(), value.into()));
        self
    }

    /// A reference that belongs to no turn, for grain fields and spawned work: default deadline, no chain.
    /// What it sends from an activation is still fenced by that activation's lease.
    #[must_use]
    pub fn detached(mut self) -> Self {
        self.origin = self.origin.map(|o| {
            Arc::new(Origin {
                grain: o.grain.clone(),
                deadline: BootTime::NEVER,
                request: self.road.deps.fresh_request(),
                chain: millet_core::Chain(None),
                context: o.context.clone(),
                session: o.session,
                epoch: o.epoch,
                fence: o.fence.clone(),
                calls: std::sync::atomic::AtomicU32::new(0),
            })
        });
        self
    }

    /// The grain's key; `BadKey` if it is not one of this type's.
    pub fn key(&self) -> Result<&Key, PlatformError> {
        self.key.as_ref().map_err(|kind| kind.clone().into())
    }

    /// What is called, or why it cannot be.
    fn target(&self) -> Result<Target<'_>, PlatformError> {
        match (&self.road.ty, &self.key) {
            (Ok(ty), Ok(key)) => Ok(Target { ty, key }),
            (Err(kind), _) | (_, Err(kind)) => Err(kind.clone().into()),
        }
    }

    /// Calls a method and waits for its end, at the latest at the deadline.
    ///
    /// # Errors
    /// Every kind of docs/errors.md except `Moved` and `Fenced`, which are followed. `Unknown` and
    /// `DeadlineExceeded` name what was in the way.
    ///
    /// Cancel safety: dropping the future abandons the reply; a turn that has started runs to its end.
    pub async fn call<M: HostedMethod<Service = S>>(
        &self,
        args: M::Args,
    ) -> Result<M::Res, CallError<M::Error>> {
        let to = self.target()?;
        let now = self.road.deps.clock.boottime();
        let head = self.head::<M>(to, now, false).map_err(|kind| to.refused(kind))?;
        let now = self.exit_check(head.deadline, now).await?;
        let args = match self.call_here::<M>(to, args, &head, now).await {
            Ok(answer) => return answer.map_err(|e| name(e, &to.id())),
            Err(args) => args,
        };
        self.call_elsewhere::<M>(to, args, head).await.map_err(|e| name(e, &to.id()))
    }

    /// The short road. The arguments come back where the grain is to be looked for elsewhere.
    async fn call_here<M: HostedMethod<Service = S>>(
        &self,
        to: Target<'_>,
        args: M::Args,
        head: &Head,
        now: BootTime,
    ) -> Result<Result<M::Res, CallError<M::Error>>, M::Args> {
        let Some(host) = &self.road.host else { return Err(args) };
        let (tx, mut rx) = oneshot::channel();
        let parcel =
            Parcel { head: head.clone(), msg: M::into_msg(args, Reply::caller(tx)), bounce: bounce::<M> };
        if let Err(back) = host.deliver(to.key, parcel, FirstPoll::Inline(now), Activate::IfPreferred) {
            let (not, parcel) = *back;
            return match (not, M::from_msg(parcel.msg)) {
                (NotDelivered::Elsewhere, Ok((args, _reply))) => Err(args),
                (NotDelivered::Refused(kind), _) => Ok(Err(PlatformError::new(kind).into())),
                (NotDelivered::Elsewhere, Err(_)) => Ok(Err(PlatformError::new(unanswered()).into())),
            };
        }
        let heard = match hear(&self.road.deps, &mut rx, head.deadline).await {
            Heard::Answer(answer) => Ok(answer),
            Heard::Nothing => Err(unanswered()),
            Heard::Late => too_late(&mut rx, || host.blocker(to.key), now),
        };
        match heard {
            Ok(Answer::Done(result)) => Ok(result),
            Ok(Answer::Back(args)) => Err(args),
            Err(kind) => Ok(Err(PlatformError::new(kind).into())),
        }
    }

    /// The directory's road, which ends the call at its deadline.
    async fn call_elsewhere<M: HostedMethod<Service = S>>(
        &self,
        to: Target<'_>,
        args: M::Args,
        head: Head,
    ) -> Result<M::Res, CallError<M::Error>> {
        let envelope = self.envelope::<M>(to, &args, head).map_err(PlatformError::new)?;
        drop(args);
        M::decode_result(self.road.deps.owners.call(envelope).await)
    }

    /// Sends without waiting for a reply: at most once. `Ok` means that it was accepted here or is on its
    /// way; what is lost later is counted and logged (R29). To a grain that is active here, tells and calls of
    /// one sender come in their order; elsewhere a later call may overtake a tell.
    ///
    /// # Errors
    /// What refused it before it left: it will not run.
    pub fn tell<M: HostedMethod<Service = S>>(&self, args: M::Args) -> Result<(), PlatformError> {
        let to = self.target()?;
        let now = self.road.deps.clock.boottime();
        let head = self.head::<M>(to, now, true).map_err(|kind| to.refused(kind))?;
        match self.origin.as_ref().map_or(Standing::Valid, |o| o.standing()) {
            Standing::Valid => {}
            Standing::Frozen => {
                let what = "this node's session is frozen".into();
                return Err(to.refused(ErrorKind::Unavailable { what }));
            }
            Standing::Ended => return Err(self.fenced()),
        }
        let args = match &self.road.host {
            None => args,
            Some(host) => {
                let parcel = Parcel {
                    head: head.clone(),
                    msg: M::into_msg(args, Reply::nobody()),
                    bounce: <S as Hosted>::reject,
                };
                match host.deliver(to.key, parcel, FirstPoll::Spawned, Activate::IfPreferred) {
                    Ok(()) => return Ok(()),
                    Err(back) => match *back {
                        (NotDelivered::Refused(kind), _) => return Err(to.refused(kind)),
                        (NotDelivered::Elsewhere, parcel) => match M::from_msg(parcel.msg) {
                            Ok((args, _)) => args,
                            Err(_) => return Err(to.refused(unanswered())),
                        },
                    },
                }
            }
        };
        self.envelope::<M>(to, &args, head)
            .and_then(|envelope| self.send_away(to.id(), envelope))
            .map_err(|kind| to.refused(kind))
    }

    /// A task per tell that is on its way, so many and no more (G6): nobody waits for one, so nothing else
    /// slows its sender down.
    fn send_away(&self, grain: GrainId, envelope: Envelope) -> Result<(), ErrorKind> {
        let deps = &self.road.deps;
        let Ok(place) = deps.tells.clone().try_acquire_owned() else {
            deps.counters.overloaded.add(1);
            let what = format!("{} tells are on their way to other nodes", limits::TELLS);
            return Err(ErrorKind::Overloaded { retry_after: Duration::from_millis(100), what });
        };
        let (sent, mine) = (deps.owners.call(envelope), deps.clone());
        deps.spawner.spawn(
            "tell",
            Box::pin(async move {
                if let Err(error) = sent.await {
                    mine.counters.tells_lost.add(1);
                    tracing::warn!(%grain, %error, "tell lost");
                }
                drop(place);
            }),
        );
        Ok(())
    }

    /// What rides along: deadline, request, chain, context. Refuses cycles and too much context.
    fn head<M: HostedMethod<Service = S>>(
        &self,
        to: Target<'_>,
        now: BootTime,
        one_way: bool,
    ) -> Result<Head, ErrorKind> {
        let own = now.after(self.limit);
        let head = |deadline, request, chain, context| Head {
            deadline,
            request,
            chain,
            context,
            one_way,
            by_road: false,
        };
        let Some(origin) = &self.origin else {
            let context = merged(None, &self.context)?;
            let request = self.road.deps.fresh_request();
            return Ok(head(own, request, millet_core::Chain(None), context));
        };
        let context = merged(origin.context.as_ref(), &self.context)?;
        if one_way {
            // Nobody waits for a tell, so it cannot close a cycle and has a deadline of its own.
            let request = origin.next_request();
            return Ok(head(own, request, millet_core::Chain(None), context));
        }
        check_chain(&origin.chain, (to.ty, to.key), M::INFO.shared)?;
        let deadline = own.min(origin.deadline);
        if deadline <= now {
            return Err(ErrorKind::DeadlineExceeded { blocker: None });
        }
        Ok(head(deadline, origin.next_request(), origin.chain.clone(), context))
    }

    /// A call made by an activation is an output of it: it leaves only under a valid lease.
    /// Returns the time: `now`, if it was not waited for.
    async fn exit_check(&self, until: BootTime, now: BootTime) -> Result<BootTime, PlatformError> {
        let Some(origin) = &self.origin else { return Ok(now) };
        if origin.standing() == Standing::Valid {
            return Ok(now);
        }
        if Box::pin(origin.leave(until)).await {
            return Ok(self.road.deps.clock.boottime());
        }
        Err(self.fenced())
    }

    fn fenced(&self) -> PlatformError {
        let error = PlatformError::new(ErrorKind::Fenced);
        match &self.origin {
            Some(o) => error.at(&o.grain),
            None => error,
        }
    }

    fn envelope<M: HostedMethod<Service = S>>(
        &self,
        to: Target<'_>,
        args: &M::Args,
        head: Head,
    ) -> Result<Envelope, ErrorKind> {
        Ok(Envelope {
            target: to.id(),
            method: M::INFO.id,
            args: M::encode_args(args)?,
            request: head.request,
            deadline: head.deadline,
            chain: head.chain,
            sender: self.origin.as_ref().map(|o| o.sender()),
            grant: None,
            one_way: head.one_way,
            context: head.context.unwrap_or_default(),
        })
    }
}

/// A grain, as far as a call needs it: its name is put together only to be said.
#[derive(Clone, Copy)]
struct Target<'a> {
    ty: &'a GrainType,
    key: &'a Key,
}

impl Target<'_> {
    fn id(self) -> GrainId {
        GrainId::new(self.ty.clone(), self.key.clone())
    }
    fn refused(self, kind: ErrorKind) -> PlatformError {
        PlatformError::new(kind).at(&self.id())
    }
}

/// The caller's context with this reference's entries over it, within the limits.
fn merged(inherited: Option<&Context>, own: &[(String, String)]) -> Result<Option<Context>, ErrorKind> {
    if own.is_empty() {
        return Ok(inherited.cloned());
    }
    let mut all: Vec<_> = inherited.map(|i| i.to_vec()).unwrap_or_default();
    all.retain(|(name, _)| own.iter().all(|(n, _)| n != name));
    all.extend_from_slice(own);
    let bytes: usize = all.iter().map(|(n, v)| n.len() + v.len()).sum();
    if all.len() > limits::CONTEXT_ENTRIES || bytes > limits::CONTEXT_BYTES {
        let what = format!("request context of {} entries and {bytes} bytes", all.len());
        return Err(ErrorKind::TooLarge { what, limit: limits::CONTEXT_BYTES });
    }
    Ok(Some(Arc::new(all)))
}
