//! The contract between generated code and the runtime: message enums, replies, dispatch.
//!
//! Generated code is minimal and calls ordinary functions here. `stub-gen` emits, per service:
//! a marker type (`Service` + `Hosted`), one zero-size type per method (`Method`), a trait the user
//! implements, a message enum, a typed reference (`From<GrainRef<S>>`), and
//! `impl<G: PlayerGrain> Dispatch<G> for Player`.

use std::future::Future;

use bytes::Bytes;
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

/// A method of a hosted service: how its message is put together and taken apart again.
pub trait HostedMethod: Method<Service: Hosted> {
    /// Wraps arguments and reply into the message enum.
    fn into_msg(args: Self::Args, reply: Reply<Self>) -> <Self::Service as Hosted>::Msg;
    /// Takes back what `into_msg` wrapped (for a resend elsewhere); the message itself if it is of
    /// another method.
    fn from_msg(
        msg: <Self::Service as Hosted>::Msg,
    ) -> Result<(Self::Args, Reply<Self>), <Self::Service as Hosted>::Msg>;
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

/// Where the result of one call goes. Dropping it unanswered tells the caller `Unknown`.
pub struct Reply<M: Method>(ReplyTo<M>);

enum ReplyTo<M: Method> {
    /// A caller in this process: the value moves, nothing is encoded.
    Local(oneshot::Sender<Result<M::Res, CallError<M::Error>>>),
    /// A caller elsewhere.
    Wire(WireReply),
    /// A tell.
    Nobody,
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
    /// Hands the result over. Only the runtime calls this, after the exit check.
    pub fn send(self, result: Result<M::Res, CallError<M::Error>>) {
        // A caller that has gone away is no error: the turn ran all the same.
        match self.0 {
            ReplyTo::Local(to) => drop(to.send(result)),
            ReplyTo::Wire(to) => drop(to.send(match result {
                Ok(v) => M::encode_result(Ok(v)),
                Err(CallError::App(e)) => M::encode_result(Err(e)),
                Err(CallError::Platform(p)) => Err(CallError::Platform(p)),
            })),
            ReplyTo::Nobody => {}
        }
    }
}
