//! One message on its way to a grain, in domain terms. `proto` turns it into wire form.

use std::sync::Arc;

use bytes::Bytes;

use crate::{BootTime, Epoch, GrainId, Grant, MethodId, SessionId};

/// Chosen by the first caller and kept over retries; part of effect keys (R14).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct RequestId(pub u128);

/// Who sends: the session and activation that a call or reply was decided under.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sender {
    /// The sender's session: receivers refuse ended ones (G1c).
    pub session: SessionId,
    /// The sending activation's token; `None` for calls that come from outside a grain.
    pub epoch: Option<Epoch>,
}

/// One frame of a call chain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// The grain that is waiting.
    pub grain: GrainId,
    /// Whether its turn is a shared (`&self`) one.
    pub shared: bool,
}

/// The grains that wait for this call, outermost first. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Chain(pub Option<Arc<[Frame]>>);

impl Chain {
    /// The frames, outermost first.
    pub fn frames(&self) -> &[Frame] {
        self.0.as_deref().unwrap_or(&[])
    }

    /// The chain with one more frame.
    #[must_use]
    pub fn with(&self, frame: Frame) -> Self {
        Self(Some(self.frames().iter().cloned().chain(std::iter::once(frame)).collect()))
    }
}

/// One message to a grain.
#[derive(Clone, Debug)]
pub struct Envelope {
    /// To whom.
    pub target: GrainId,
    /// Which method.
    pub method: MethodId,
    /// Encoded arguments.
    pub args: Bytes,
    /// Kept over retries.
    pub request: RequestId,
    /// No turn starts at or after this instant of the *receiver's* boot clock.
    pub deadline: BootTime,
    /// The grains that wait for this call.
    pub chain: Chain,
    /// Who sends; `None` from outside the cluster.
    pub sender: Option<Sender>,
    /// The grant under which the sender believes the target to be held: a callee shown a higher one
    /// than its own ends its activation at once (R30); for sharded types its generation is compared (R11).
    pub grant: Option<Grant>,
    /// No reply is wanted (a tell).
    pub one_way: bool,
    /// Request context: small key-value pairs that travel with the chain of calls.
    pub context: Arc<Vec<(String, String)>>,
}
