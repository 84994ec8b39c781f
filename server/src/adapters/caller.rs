//! Calls made by name, from outside any grain: the gateway and tools take the same road as grains do.

use std::sync::Arc;

use millet_core::{
    BoxFuture, CallError, Chain, Envelope, ErrorKind, Outcome, PlatformError,
    caller::{Call, Caller},
    clock::Clock,
    limits,
};
use millet_directory::Owners;

/// [`Caller`] over a node's directory.
pub struct NodeCaller {
    owners: Arc<dyn Owners>,
    clock: Arc<dyn Clock>,
}

impl NodeCaller {
    /// Calls through these owners.
    pub fn new(owners: Arc<dyn Owners>, clock: Arc<dyn Clock>) -> Self {
        Self { owners, clock }
    }
}

impl Caller for NodeCaller {
    fn call(&self, call: Call) -> BoxFuture<'_, Outcome> {
        let now = self.clock.boottime();
        if call.deadline <= now {
            let error = PlatformError::new(ErrorKind::DeadlineExceeded { blocker: None }).at(&call.target);
            return Box::pin(std::future::ready(Err(CallError::Platform(error))));
        }
        self.owners.call(Envelope {
            target: call.target,
            method: call.method,
            args: call.args,
            request: call.request,
            deadline: call.deadline.min(now.after(limits::MAX_DEADLINE)),
            chain: Chain::default(),
            sender: None,
            grant: None,
            one_way: false,
            context: call.context,
        })
    }
}
