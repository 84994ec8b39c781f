//! What a turn knows and can do beside its grain.
//!
//! Every output (reply, call, save) passes the exit check on its way out: a fresh clock read against the
//! activation's own session (R12). A frozen session makes it wait, a dead one drops it (R4, R13).

use std::{
    fmt,
    future::Future,
    sync::{Arc, OnceLock, Weak, atomic::AtomicU32},
    time::Duration,
};

use futures::future::{AbortHandle, Abortable};
use millet_core::{
    BootTime, BoxFuture, CallError, Epoch, ErrorKind, Frame, GrainId, Key, Method, PlatformError, RequestId,
    SessionId,
};

use crate::{
    Grain, GrainRef, Hosted, Reply,
    activation::{Activation, Born, System, Work},
    create::find_resource,
    fence::{Fence, Standing},
    origin::Origin,
    parcel::Head,
    saving,
    service::{caught, caught_now},
};

/// The context of one turn.
pub struct Ctx<G: Grain> {
    act: Arc<Activation<G>>,
    head: Head,
    shared: bool,
    origin: OnceLock<Arc<Origin>>,
}

/// Names one outside effect of one request: the same whenever the request is retried, so that receivers
/// can tell a repetition (R14).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct EffectKey {
    /// Whose effect.
    pub grain: GrainId,
    /// The request, as its first caller numbered it.
    pub request: RequestId,
    /// Which effect of the turn.
    pub n: u32,
}

impl fmt::Display for EffectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{:032x}:{}", self.grain, self.request.0, self.n)
    }
}

/// A timer of an activation. Dropping the handle leaves it running; it ends with the activation.
pub struct TimerHandle(Option<Box<dyn FnOnce() + Send>>);

impl TimerHandle {
    /// Stops the timer. A firing that is already queued does not run.
    pub fn cancel(mut self) {
        if let Some(cancel) = self.0.take() {
            cancel();
        }
    }

    /// False if the timer was refused: the activation has too many, or is ending.
    pub fn is_set(&self) -> bool {
        self.0.is_some()
    }
}

impl<G: Grain> Ctx<G> {
    pub(crate) fn new(act: Arc<Activation<G>>, head: Head, shared: bool) -> Self {
        Self { act, head, shared, origin: OnceLock::new() }
    }

    /// The same activation's next turn.
    pub(crate) fn next(&mut self, head: Head) {
        self.head = head;
        self.origin.take();
    }

    pub(crate) fn activation(&self) -> &Arc<Activation<G>> {
        &self.act
    }

    fn born(&self) -> &Born {
        self.act.born.get().expect("turns run only on activations that were born")
    }

    /// The grain's key.
    pub fn key(&self) -> &Key {
        &self.act.key
    }

    /// The grain's full name.
    pub fn grain(&self) -> GrainId {
        self.act.id()
    }

    /// This activation's token: for receivers that can refuse lower ones.
    pub fn epoch(&self) -> Epoch {
        self.born().epoch()
    }

    /// The session this activation lives under.
    pub fn session(&self) -> SessionId {
        self.born().session.id()
    }

    /// When the caller stops waiting, on this process's boot clock.
    pub fn deadline(&self) -> BootTime {
        self.head.deadline
    }

    /// How long the caller still waits.
    pub fn deadline_left(&self) -> Duration {
        self.head.deadline.since(self.act.host.deps.clock.boottime())
    }

    /// The request this turn serves, as its first caller numbered it.
    pub fn request_id(&self) -> RequestId {
        self.head.request
    }

    /// Request context: small pairs that travel with the chain of calls.
    pub fn context(&self) -> &[(String, String)] {
        self.head.context.as_ref().map_or(&[], |c| c.as_slice())
    }

    /// Names the `n`-th outside effect of this turn (R14).
    pub fn effect_key(&self, n: u32) -> EffectKey {
        EffectKey { grain: self.grain(), request: self.head.request, n }
    }

    /// A resource given to the builder; `Unavailable` names its type if there is none.
    pub fn resource<T: Send + Sync + 'static>(&self) -> Result<Arc<T>, PlatformError> {
        find_resource(&*self.act.host).map_err(|what| ErrorKind::Unavailable { what }.into())
    }

    /// A reference to another grain. Its calls inherit what is left of this turn's deadline and carry its
    /// chain, so it is for this turn: for a field or for spawned work take `.detached()`.
    pub fn get<S: Hosted>(&self, key: impl Into<Key>) -> S::Ref {
        self.reference::<S>(key.into()).into()
    }

    /// As [`get`](Self::get), for calls that end earlier than this turn's deadline.
    pub fn get_with_deadline<S: Hosted>(&self, key: impl Into<Key>, deadline: Duration) -> S::Ref {
        self.reference::<S>(key.into()).with_deadline(deadline).into()
    }

    fn reference<S: Hosted>(&self, key: Key) -> GrainRef<S> {
        GrainRef::new(self.act.host.deps.road::<S>(), key, Some(self.origin().clone()))
    }

    fn origin(&self) -> &Arc<Origin> {
        self.origin.get_or_init(|| {
            let grain = self.grain();
            let fence: Arc<dyn Fence> = self.act.clone();
            Arc::new(Origin {
                chain: self.head.chain.with(Frame { grain: grain.clone(), shared: self.shared }),
                grain,
                deadline: self.head.deadline,
                request: self.head.request,
                context: self.head.context.clone(),
                session: self.session(),
                epoch: self.epoch(),
                fence: Arc::downgrade(&fence),
                calls: AtomicU32::new(0),
            })
        })
    }

    // ------------------------------------------------------------ the end of a turn (generated code)

    /// Ends an exclusive turn: saves what it changed, checks that its output may leave, replies. Called by
    /// generated code.
    ///
    /// Cancel safety: runs inside the turn, which is never dropped half-way.
    pub async fn complete<M: Method>(&self, g: &mut G, reply: Reply<M>, result: Result<M::Res, M::Error>) {
        if self.act.is_broken() {
            let why = "a save of this turn failed; its state is loaded again".into();
            return reply.send(Err(self.error(ErrorKind::Unknown { why })));
        }
        if saving::is_dirty(g)
            && let Err(kind) = Box::pin(saving::settle(&self.act, g, self.head.deadline)).await
        {
            // The turn ran, other states of it may be stored: no kind that says it did not run (R13).
            let why = match kind {
                ErrorKind::Unknown { why } => why,
                kind => format!("a save of this turn failed: {kind}"),
            };
            return reply.send(Err(self.error(ErrorKind::Unknown { why })));
        }
        self.complete_shared(reply, result).await;
    }

    /// Ends a shared turn: checks that its output may leave, replies. Called by generated code.
    pub async fn complete_shared<M: Method>(&self, reply: Reply<M>, result: Result<M::Res, M::Error>) {
        let may_leave = match self.act.standing() {
            Standing::Valid => true,
            Standing::Frozen | Standing::Ended => Box::pin(self.act.may_leave(self.head.deadline)).await,
        };
        reply.send(if may_leave {
            result.map_err(CallError::App)
        } else {
            let why =
                format!("the lease of {} ended while the turn ran; its output was dropped", self.act.id());
            Err(self.error(ErrorKind::Unknown { why }))
        });
    }

    fn error<E>(&self, kind: ErrorKind) -> CallError<E> {
        CallError::Platform(PlatformError::new(kind).at(&self.act.id()))
    }

    // ------------------------------------------------------------ off the turn

    /// Runs `work` off the turn; `then` runs as an exclusive turn with its result. Both end with the
    /// activation; while work is under way it is not collected. Returns false, and drops both, if 1,024
    /// pieces of work are under way already or the activation is ending.
    pub fn spawn<R: Send + 'static>(
        &self,
        work: impl Future<Output = R> + Send + 'static,
        then: impl FnOnce(&mut G, &Ctx<G>, R) + Send + 'static,
    ) -> bool {
        self.launch(work, move |r| -> Work<G> {
            Box::new(move |g, ctx| {
                then(g, ctx, r);
                Box::pin(std::future::ready(()))
            })
        })
    }

    /// As [`spawn`](Self::spawn), with an async continuation: `|g, ctx, r| Box::pin(async move { … })`.
    pub fn spawn_async<R: Send + 'static, F>(
        &self,
        work: impl Future<Output = R> + Send + 'static,
        then: F,
    ) -> bool
    where
        F: for<'a> FnOnce(&'a mut G, &'a Ctx<G>, R) -> BoxFuture<'a, ()> + Send + 'static,
    {
        self.launch(work, move |r| -> Work<G> { Box::new(move |g, ctx| then(g, ctx, r)) })
    }

    /// As [`spawn`](Self::spawn), for work that blocks its thread. It cannot be aborted: the end of the
    /// activation waits for it.
    pub fn spawn_blocking<R: Send + 'static>(
        &self,
        work: impl FnOnce() -> R + Send + 'static,
        then: impl FnOnce(&mut G, &Ctx<G>, R) + Send + 'static,
    ) -> bool {
        let Some(ticket) = self.ticket(AbortHandle::new_pair().0) else { return false };
        let job = Box::new(move || {
            let done = caught_now(work);
            ticket.done(done.map(|r| -> Work<G> {
                Box::new(move |g, ctx| {
                    then(g, ctx, r);
                    Box::pin(std::future::ready(()))
                })
            }));
        });
        self.act.host.deps.spawner.spawn_blocking("grain-blocking-work", job);
        true
    }

    fn launch<R: Send + 'static>(
        &self,
        work: impl Future<Output = R> + Send + 'static,
        then: impl FnOnce(R) -> Work<G> + Send + 'static,
    ) -> bool {
        let (handle, registration) = AbortHandle::new_pair();
        let Some(ticket) = self.ticket(handle) else { return false };
        let task = async move {
            if let Ok(done) = Abortable::new(caught(work), registration).await {
                ticket.done(done.map(then));
            }
        };
        self.act.host.deps.spawner.spawn("grain-work", Box::pin(task));
        true
    }

    fn ticket(&self, handle: AbortHandle) -> Option<Ticket<G>> {
        let id = self.act.add_work(handle);
        if id.is_none() {
            self.act.host.deps.counters.spawns_refused.add(1);
            tracing::warn!(grain = %self.act.id(), "spawned work refused: too much is under way, or the activation is ending");
        }
        id.map(|id| Ticket { act: Arc::downgrade(&self.act), id })
    }

    /// Runs `fire` as an exclusive turn after `after`, and then `every` so often, counted from the end of
    /// the turn before: `|g, ctx| Box::pin(async move { … })`. Steps of 10 ms. A timer does not keep its
    /// activation from being collected (see [`crate::GrainOptions::idle_after`]), and ends with it.
    pub fn timer<F>(&self, after: Duration, every: Option<Duration>, fire: F) -> TimerHandle
    where
        F: for<'a> Fn(&'a mut G, &'a Ctx<G>) -> BoxFuture<'a, ()> + Send + Sync + 'static,
    {
        let Some(id) = self.act.add_timer(after, every, Arc::new(fire)) else { return TimerHandle(None) };
        let weak = Arc::downgrade(&self.act);
        TimerHandle(Some(Box::new(move || {
            if let Some(act) = weak.upgrade() {
                act.cancel_timer(id);
            }
        })))
    }

    /// Ends the activation in good order once nothing waits for it and no spawned work is under way.
    pub fn deactivate_when_idle(&self) {
        self.act.quit();
    }
}

/// Held by a piece of spawned work; dropping it tells the activation that the work is gone.
struct Ticket<G: Grain> {
    act: Weak<Activation<G>>,
    id: u32,
}

impl<G: Grain> Ticket<G> {
    /// Brings the result back as a turn.
    fn done(self, result: Result<Work<G>, crate::service::Panic>) {
        if let Some(act) = self.act.upgrade() {
            // The item first: without work and without items an activation may be collected.
            act.push_system(match result {
                Ok(work) => System::Continue(work),
                Err(panic) => System::WorkPanicked(panic),
            });
        }
    }
}

impl<G: Grain> Drop for Ticket<G> {
    fn drop(&mut self) {
        if let Some(act) = self.act.upgrade() {
            act.remove_work(self.id);
        }
    }
}
