//! Where a leased grain that nobody holds should live. One function, so that the road above it does not
//! know how it is decided.

use std::time::Duration;

use millet_core::{GrainId, SessionId, hash, model::SessionInfo};

use crate::view::View;

/// Longest wait between two tries at an unreachable or missing owner, unless something wakes the call.
pub const BACKOFF_MAX: Duration = Duration::from_millis(250);
/// Shortest.
pub const BACKOFF_MIN: Duration = Duration::from_millis(10);

/// The node for a grain: the first on the ring that may be chosen for its type, `avoid` left out. Every
/// node that knows the same members names the same one.
pub fn choose<'v>(view: &'v View, grain: &GrainId, avoid: Option<SessionId>) -> Option<&'v SessionInfo> {
    view.ring()
        .candidates(hash::grain_hash(grain))
        .filter_map(|node| view.session_of(node))
        .find(|s| Some(s.id) != avoid && view.is_eligible(s, &grain.ty))
}
