//! What the directory asks of the transport between nodes.

use millet_core::{BoxFuture, Envelope, NodeId, Outcome, SessionId};

/// A node that can be sent to: one session of one node, at an address.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct PeerId {
    /// The node.
    pub node: NodeId,
    /// The session that must be behind the connection: checked in the hello, so that a message never
    /// reaches another incarnation (R12).
    pub session: SessionId,
    /// `host:port`.
    pub addr: String,
}

/// Sends envelopes to other nodes.
pub trait Peers: Send + Sync + 'static {
    /// Sends the envelope and waits for its outcome, at the latest until its deadline.
    ///
    /// `Unavailable` that names no grain and `Overloaded` mean that it was not sent (an `Unavailable` that
    /// names the target is the callee's own answer); a lost link after sending is `Unknown`;
    /// the end of the peer's session ends the call at once (R26).
    ///
    /// Cancel safety: dropping the future abandons the reply.
    fn call<'a>(&'a self, to: &'a PeerId, envelope: Envelope) -> BoxFuture<'a, Outcome>;
    /// Tells the transport that a session has ended: its connections close, whatever is parked on them
    /// ends, nothing from it is accepted any more (G1c).
    fn session_ended(&self, session: SessionId);
}
