//! Where a leased grain that nobody holds should live. One function, so that the road above it does not
//! know how it is decided.

use std::time::Duration;

use millet_core::{GrainId, SessionId, hash, model::SessionInfo};

use crate::view::View;

/// Longest wait between two tries at an unreachable or missing owner, unless something wakes the call.
pub const BACKOFF_MAX: Duration = Duration::from_millis(250);
/// Shortest.
pub const BACKOFF_MIN: Duration = Duration::from_millis(10);

/// The node for a grain among those eligible, `avoid` left out: highest random weight over (grain, node),
/// so that a death moves only the dead node's grains and a join only those that go to the joiner.
pub fn choose<'v>(view: &'v View, grain: &'v GrainId, avoid: Option<SessionId>) -> Option<&'v SessionInfo> {
    let key = hash::grain_hash(grain);
    view.eligible(&grain.ty)
        .filter(|s| Some(s.id) != avoid)
        .max_by_key(|s| (hash::key_hash(key, &s.node.id.0.into()), s.node.id))
}
