//! What a cluster keeps when it does not start from a quorum of the old one (R16): types, the secret, ids.
//! Sessions have ended, nothing is held, every generation is above all that were, and nothing is granted
//! before one TTL of cluster time has passed: holders of the old cluster may count that long.

use millet_core::{SessionId, limits};

use super::{Init, Machine, More, State, command::millis, session::Sessions};

/// How a cluster starts anew. See [`Machine::recovered`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recovery {
    /// The new cluster's id.
    pub cluster: String,
    /// Its one member's id.
    pub member: u64,
    /// Above every generation of the old one, and at least the unix seconds of now.
    pub generation: u32,
    /// Wall clock, milliseconds since 1970: no snowflake was issued above it by more than a minute (R33).
    pub wall_ms: u64,
    /// The longest TTL that a session of the old cluster may have, at least the default.
    pub ttl_ms: u64,
    /// The oldest session that the state store still takes: new ones are above it.
    pub oldest: SessionId,
}

impl Machine {
    /// The same cluster's data as the first state of a new cluster.
    pub fn recovered(&self, recovery: &Recovery) -> Self {
        let old = &self.state.head;
        let mut head = old.clone();
        let secret = old.init.as_ref().map_or_else(Default::default, |init| init.secret);
        head.init = Some(Init { cluster: recovery.cluster.clone(), secret, generation: recovery.generation });
        head.generation = recovery.generation;
        head.applied = old.applied.max(recovery.oldest.0) + 1;
        let longest =
            old.sessions.iter().map(|s| s.ttl_ms).chain([recovery.ttl_ms]).max().unwrap_or_default();
        head.sessions = Sessions::default();
        head.types.values_mut().for_each(|ty| ty.recovered(recovery.generation));
        head.workers.raise(recovery.wall_ms.saturating_add(millis(limits::RESERVE_AHEAD)));
        head.sweep_after = None;
        let more = More {
            roster: self.state.more.roster.recovered(recovery.member),
            quiet_until_ms: old.time_ms.saturating_add(longest),
        };
        Self::from_state(State { head, more, ..State::default() })
    }
}

impl State {
    /// See [`Machine::is_quiet`].
    pub(super) fn is_quiet(&self) -> bool {
        self.head.time_ms < self.more.quiet_until_ms
    }
}
