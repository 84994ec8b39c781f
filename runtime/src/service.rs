//! The contract between generated code and the runtime: message enums, replies, dispatch.
//!
//! Generated code is minimal and calls ordinary functions here. `stub-gen` emits, per service:
//! a marker type (`Service` + `Hosted`), one zero-size type per method (`Method`), a trait the user
//! implements, a message enum, a typed reference (`From<GrainRef<S>>`), and
//! `impl<G: PlayerGrain> Dispatch<G> for Player`.

use std::{
    any::Any,
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    panic::AssertUnwindSafe,
    pin::pin,
};

use bytes::Bytes;
use futures::FutureExt;
use millet_core::{CallError, ErrorKind, Method, MethodId, MethodInfo, Outcome, PlatformError, Service};
use tokio::sync::oneshot;

use crate::{Ctx, Grain, GrainRef};

/// A service that this process can host: its mailbox carries `Msg`, a plain enum with one variant per
/// method, each holding the arguments and a [`Reply`]. Arguments above 128 bytes are boxed.
pub trait Hosted: Service {
    /// The message enum.
    type Msg: Send + 'static;
    /// The typed reference.
    type Ref: From<GrainRef<Self>> + Clone + Send + Sync + 'static;

    /// Builds a message from wire form. On failure the reply handle comes back beside the error, so
    /// that the caller gets an answer.
    fn decode(method: MethodId, args: Bytes, reply: WireReply) -> Result<Self::Msg, (ErrorKind, WireReply)>;
    /// Which method a message calls.
    fn info(msg: &Self::Msg) -> &'static MethodInfo;
    /// Answers a message that will not run.
    fn reject(msg: Self::Msg, error: PlatformError);
}

/// Arguments and reply of a call, or the message if it is of another method.
pub type Unwrapped<M> = Result<(<M as Method>::Args, Reply<M>), <<M as Method>::Service as Hosted>::Msg>;

/// A method of a hosted service: how its message is put together and taken apart again.
pub trait HostedMethod: Method<Service: Hosted> {
    /// Wraps arguments and reply into the message enum.
    fn into_msg(args: Self::Args, reply: Reply<Self>) -> <Self::Service as Hosted>::Msg;
    /// Takes back what `into_msg` wrapped (for a resend elsewhere); the message itself if it is of
    /// another method.
    fn from_msg(msg: <Self::Service as Hosted>::Msg) -> Unwrapped<Self>;
}

/// Runs messages on a grain. Generated as `impl<G: PlayerGrain> Dispatch<G> for Player`, which the
/// orphan rule allows because the marker type is local.
pub trait Dispatch<G: Grain>: Hosted {
    /// An exclusive turn. Generated: `let r = g.add_gold(ctx, args).await; ctx.complete(g, reply, r).await`.
    fn write(g: &mut G, ctx: &Ctx<G>, msg: Self::Msg) -> impl Future<Output = ()> + Send;
    /// A shared turn. Generated: `let r = g.gold(ctx, args).await; ctx.complete_shared(reply, r).await`.
    fn read(g: &G, ctx: &Ctx<G>, msg: Self::Msg) -> impl Future<Output = ()> + Send;
}

/// Where an encoded outcome goes.
pub type WireReply = oneshot::Sender<Outcome>;

/// Where the result of one call goes. Dropping it unanswered tells the caller `Unknown`; if that is
/// because its turn panics, the runtime answers `Panicked`.
pub struct Reply<M: Method>(ReplyTo<M>);

enum ReplyTo<M: Method> {
    /// A caller in this process: the value moves, nothing is encoded.
    Local(oneshot::Sender<Result<M::Res, CallError<M::Error>>>),
    /// A reference of this process, which also takes its arguments back if the turn did not start.
    Caller(oneshot::Sender<Answer<M>>),
    /// A caller elsewhere.
    Wire(WireReply),
    /// A tell.
    Nobody,
}

/// What a local caller hears.
pub(crate) enum Answer<M: Method> {
    /// The call has ended.
    Done(Result<M::Res, CallError<M::Error>>),
    /// The turn did not start, and the grain is to be looked for elsewhere.
    Back(M::Args),
}

impl<M: Method> Reply<M> {
    /// To a caller in this process.
    pub fn local(to: oneshot::Sender<Result<M::Res, CallError<M::Error>>>) -> Self {
        Self(ReplyTo::Local(to))
    }
    /// To a caller elsewhere.
    pub fn wire(to: WireReply) -> Self {
        Self(ReplyTo::Wire(to))
    }
    /// To nobody.
    pub fn nobody() -> Self {
        Self(ReplyTo::Nobody)
    }
    pub(crate) fn caller(to: oneshot::Sender<Answer<M>>) -> Self {
        Self(ReplyTo::Caller(to))
    }

    /// Hands the result over. Only the runtime calls this, after the exit check.
    pub fn send(mut self, result: Result<M::Res, CallError<M::Error>>) {
        self.take().send(result);
    }

    fn give_back(mut self, args: M::Args, error: PlatformError) {
        match self.take() {
            ReplyTo::Caller(to) => drop(to.send(Answer::Back(args))),
            other => other.send(Err(error.into())),
        }
    }

    fn take(&mut self) -> ReplyTo<M> {
        std::mem::replace(&mut self.0, ReplyTo::Nobody)
    }
}

impl<M: Method> ReplyTo<M> {
    fn send(self, result: Result<M::Res, CallError<M::Error>>) {
        // A caller that has gone away is no error: the turn ran all the same.
        match self {
            Self::Local(to) => drop(to.send(result)),
            Self::Caller(to) => drop(to.send(Answer::Done(result))),
            Self::Wire(to) => drop(to.send(match result {
                Ok(v) => M::encode_result(Ok(v)),
                Err(CallError::App(e)) => M::encode_result(Err(e)),
                Err(CallError::Platform(p)) => Err(CallError::Platform(p)),
            })),
            Self::Nobody => {}
        }
    }
}

/// Answers a message of a local caller that will not run: `Moved` and `Fenced` give the arguments back,
/// so that the caller takes the road to wherever the grain is now.
pub(crate) fn bounce<M: HostedMethod>(msg: <M::Service as Hosted>::Msg, error: PlatformError) {
    if !error.kind().is_followed() {
        return <M::Service as Hosted>::reject(msg, error);
    }
    match M::from_msg(msg) {
        Ok((args, reply)) => reply.give_back(args, error),
        Err(msg) => <M::Service as Hosted>::reject(msg, error),
    }
}

/// A reply whose turn panicked.
pub(crate) type Orphan = Box<dyn FnOnce(PlatformError) + Send>;

thread_local! {
    /// How many polls of turns are on this thread's stack.
    static TURNS: Cell<u32> = const { Cell::new(0) };
    /// Replies dropped by a panic that unwinds through a turn, until the turn's `catch_unwind` takes them.
    static ORPHANS: RefCell<Vec<Orphan>> = const { RefCell::new(Vec::new()) };
}

impl<M: Method> Drop for Reply<M> {
    fn drop(&mut self) {
        let to = self.take();
        if matches!(to, ReplyTo::Nobody) || !std::thread::panicking() || TURNS.get() == 0 {
            return;
        }
        ORPHANS.with_borrow_mut(|o| o.push(Box::new(move |e| to.send(Err(e.into())))));
    }
}

/// A turn that panicked: what it said, and the callers it left without an answer.
pub(crate) struct Panic {
    pub(crate) payload: Box<dyn Any + Send>,
    pub(crate) orphans: Vec<Orphan>,
}

/// Runs user code: a panic becomes a value.
pub(crate) async fn caught<T>(work: impl Future<Output = T>) -> Result<T, Panic> {
    let mut work = pin!(AssertUnwindSafe(work).catch_unwind());
    poll_fn(|cx| {
        TURNS.set(TURNS.get() + 1);
        let polled = work.as_mut().poll(cx);
        TURNS.set(TURNS.get() - 1);
        polled.map_err(|payload| Panic { payload, orphans: ORPHANS.take() })
    })
    .await
}

/// As [`caught`], for code that is no future.
pub(crate) fn caught_now<T>(work: impl FnOnce() -> T) -> Result<T, Panic> {
    TURNS.set(TURNS.get() + 1);
    let done = std::panic::catch_unwind(AssertUnwindSafe(work));
    TURNS.set(TURNS.get() - 1);
    done.map_err(|payload| Panic { payload, orphans: ORPHANS.take() })
}
