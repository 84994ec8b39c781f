//! skeleton
use std::{fmt, future::Future, marker::PhantomData, sync::Arc, time::Duration};

use millet_core::{BootTime, BoxFuture, Epoch, GrainId, Key, Method, PlatformError, RequestId, SessionId};

use crate::{Grain, GrainRef, Hosted, Reply};

/// What a turn knows and can do beside its grain.
pub struct Ctx<G: Grain> {
    id: GrainId,
    epoch: Epoch,
    _g: PhantomData<fn() -> G>,
}

/// A timer of an activation. Dropping the handle leaves it running; it ends with the activation.
pub struct TimerHandle(());
impl TimerHandle {
    /// Stops it. A firing that is already queued does not run.
    pub fn cancel(self) {}
}

/// Names one outside effect of one request, the same over retries (R14).
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

impl<G: Grain> Ctx<G> {
    /// The grain's key.
    pub fn key(&self) -> &Key {
        &self.id.key
    }
    /// The grain's full name.
    pub fn grain(&self) -> GrainId {
        self.id.clone()
    }
    /// This activation's token.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }
    /// The session it lives under.
    pub fn session(&self) -> SessionId {
        SessionId(0)
    }
    /// When the caller stops waiting.
    pub fn deadline(&self) -> BootTime {
        BootTime::NEVER
    }
    /// How long the caller still waits.
    pub fn deadline_left(&self) -> Duration {
        Duration::ZERO
    }
    /// The request this turn serves.
    pub fn request_id(&self) -> RequestId {
        RequestId(0)
    }
    /// Request context, as the first caller set it.
    pub fn context(&self) -> &[(String, String)] {
        &[]
    }
    /// Names the `n`-th outside effect of this turn (R14).
    pub fn effect_key(&self, n: u32) -> EffectKey {
        EffectKey { grain: self.grain(), request: self.request_id(), n }
    }
    /// A reference to another grain.
    pub fn get<S: Hosted>(&self, key: impl Into<Key>) -> S::Ref {
        let _ = key;
        GrainRef::<S>::skeleton().into()
    }
    /// As `get`, with a deadline of its own (at most what is left of the caller's).
    pub fn get_with_deadline<S: Hosted>(&self, key: impl Into<Key>, deadline: Duration) -> S::Ref {
        let _ = (key, deadline);
        GrainRef::<S>::skeleton().into()
    }
    /// Ends an exclusive turn: saves, checks that the activation may still speak, replies.
    pub async fn complete<M: Method>(&self, g: &mut G, reply: Reply<M>, result: Result<M::Res, M::Error>) {
        let _ = g;
        reply.send(result.map_err(millet_core::CallError::App));
    }
    /// Ends a shared turn.
    pub async fn complete_shared<M: Method>(&self, reply: Reply<M>, result: Result<M::Res, M::Error>) {
        reply.send(result.map_err(millet_core::CallError::App));
    }
    /// Runs `work` off the turn; `then` runs as an exclusive turn with its result. False: too much is under way.
    pub fn spawn<R: Send + 'static>(
        &self,
        work: impl Future<Output = R> + Send + 'static,
        then: impl FnOnce(&mut G, &Ctx<G>, R) + Send + 'static,
    ) -> bool {
        let _ = (work, then);
        false
    }
    /// As `spawn`, with an async continuation: `|g, ctx, r| Box::pin(async move { … })`.
    pub fn spawn_async<R: Send + 'static, F>(
        &self,
        work: impl Future<Output = R> + Send + 'static,
        then: F,
    ) -> bool
    where
        F: for<'a> FnOnce(&'a mut G, &'a Ctx<G>, R) -> BoxFuture<'a, ()> + Send + 'static,
    {
        let _ = (work, then);
        false
    }
    /// As `spawn`, for work that blocks its thread.
    pub fn spawn_blocking<R: Send + 'static>(
        &self,
        work: impl FnOnce() -> R + Send + 'static,
        then: impl FnOnce(&mut G, &Ctx<G>, R) + Send + 'static,
    ) -> bool {
        let _ = (work, then);
        false
    }
    /// Runs `fire` as an exclusive turn after `after`, and then every `every`.
    pub fn timer<F>(&self, after: Duration, every: Option<Duration>, fire: F) -> TimerHandle
    where
        F: for<'a> Fn(&'a mut G, &'a Ctx<G>) -> BoxFuture<'a, ()> + Send + Sync + 'static,
    {
        let _ = (after, every, fire);
        TimerHandle(())
    }
    /// Ends the activation once nothing waits for it.
    pub fn deactivate_when_idle(&self) {}
    /// A resource given to the builder.
    pub fn resource<T: Send + Sync + 'static>(&self) -> Result<Arc<T>, PlatformError> {
        Err(millet_core::ErrorKind::Unavailable { what: "resource".into() }.into())
    }
}
impl<T> crate::Persistent<T> {
    /// Saves now, whatever the mode. An error has ended the activation: return, nothing leaves any more.
    pub async fn save<G: Grain>(&mut self, ctx: &Ctx<G>) -> Result<(), PlatformError>
    where
        T: crate::Storable,
    {
        let _ = ctx;
        Ok(())
    }
    /// Removes the value from the store and sets it to its default.
    pub async fn clear<G: Grain>(&mut self, ctx: &Ctx<G>) -> Result<(), PlatformError>
    where
        T: crate::Storable,
    {
        let _ = ctx;
        Ok(())
    }
}
