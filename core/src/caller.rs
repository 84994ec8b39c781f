//! The seam through which callers that know no grain code (gateway, clients, `gm`'s dynamic calls)
//! reach grains.

use std::sync::Arc;

use bytes::Bytes;

use crate::{BootTime, BoxFuture, GrainId, MethodId, Outcome, RequestId};

/// A call made by name, arguments already encoded.
#[derive(Clone, Debug)]
pub struct Call {
    /// To whom.
    pub target: GrainId,
    /// Which method.
    pub method: MethodId,
    /// Encoded arguments.
    pub args: Bytes,
    /// Kept over retries.
    pub request: RequestId,
    /// On this process's boot clock.
    pub deadline: BootTime,
    /// Request context.
    pub context: Arc<Vec<(String, String)>>,
}

/// Makes calls to grains wherever they are.
pub trait Caller: Send + Sync + 'static {
    /// Sends the call and waits for its end, at the latest at its deadline.
    ///
    /// Cancel safety: dropping the future abandons the reply; a turn that has started runs to its end.
    fn call(&self, call: Call) -> BoxFuture<'_, Outcome>;
}
