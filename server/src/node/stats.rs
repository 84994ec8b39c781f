//! What a node can say about itself at any moment; cheap to ask.

use std::sync::Arc;

use millet_raft_meta::Member;
use millet_runtime::Runtime;

/// Reads a node's figures; may be kept and handed around. Does not keep grains running.
#[derive(Clone)]
pub struct Stats {
    pub(super) runtime: Arc<Runtime>,
    pub(super) member: Option<Arc<Member>>,
}

/// A node's figures at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Figures {
    /// Activations alive here.
    pub activations: u64,
    /// Turns run since the start.
    pub turns: u64,
    /// Outputs that an ended or frozen session kept from leaving (G1).
    pub fenced_outputs: u64,
    /// Panics of grains.
    pub panics: u64,
    /// Lease rows as this node's metadata member has applied them; 0 where there is none.
    pub leases: u64,
    /// Whether this node's metadata member leads.
    pub leads: bool,
}

impl Stats {
    /// The figures now.
    pub fn now(&self) -> Figures {
        let runtime = self.runtime.stats();
        let (leases, leads) = self.member.as_ref().and_then(|m| m.leases()).unwrap_or_default();
        Figures {
            activations: runtime.activations,
            turns: runtime.turns,
            fenced_outputs: runtime.fenced_outputs,
            panics: runtime.panics,
            leases,
            leads,
        }
    }
}
