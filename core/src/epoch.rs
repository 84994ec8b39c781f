//! Fencing tokens. They compare and are handed on; nobody adds to them.

use std::fmt;

use crate::control::{Rule, off};

/// What the metadata store hands out: a grain or shard lease, of which there is never a second with
/// the same value. Ordered by generation first, so that any start that does not come from a quorum of
/// the old group can outrank everything before it (R11, R16).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Grant {
    /// Rises when a type's ownership mode or shard count changes, and with every recovery.
    pub generation: u32,
    /// The log index of the entry that granted it.
    pub index: u64,
}

/// The fencing token: a grant and the number of the activation that uses it (R3).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Epoch {
    /// The lease.
    pub grant: Grant,
    /// A per-process counter: every activation has a new one.
    pub activation: u32,
}

impl Epoch {
    /// The token of one activation under a grant (R3).
    pub fn of(grant: Grant, activation: u32) -> Self {
        Self { grant, activation: if off(Rule::R3) { 0 } else { activation } }
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.generation, self.index)
    }
}
impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.grant, self.activation)
    }
}
impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_higher_generation_outranks_any_index() {
        let old = Epoch { grant: Grant { generation: 1, index: u64::MAX }, activation: u32::MAX };
        let new = Epoch { grant: Grant { generation: 2, index: 1 }, activation: 0 };
        assert!(new > old);
    }
}
