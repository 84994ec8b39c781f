//! What a user implements, and the options a grain type declares.
//!
//! How turns run is `run`'s; how state gets in and out is `persistent`'s and `saving`'s.

use std::{fmt, future::Future, time::Duration};

use millet_core::{limits, model::Ownership};
use millet_directory::Placement;

use crate::{Create, Ctx, Dispatch, persistent::Persist};

/// A grain type: the state of one grain, and how it begins and ends. What it answers to is the
/// generated trait of its service.
///
/// Grains are `Send + Sync`: `&self` turns overlap on one task. Wrap a field that is not `Sync`
/// (`RefCell`, a SQLite connection) in [`crate::Exclusive`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a grain",
    label = "implement `Grain` for it",
    note = "a grain is `Send + Sync + 'static`; wrap a field that is not `Sync` in `millet::Exclusive`"
)]
pub trait Grain: Sized + Send + Sync + 'static {
    /// The generated marker type of the one service this grain answers to.
    type Service: Dispatch<Self>;

    /// Ownership, placement, bounds. Called once, when the type is registered.
    fn options() -> GrainOptions {
        GrainOptions::default()
    }

    /// Makes the grain, before its state is loaded: declare states with `c.state("name")`, take
    /// resources with `c.resource()`.
    fn create(c: &mut Create<'_, Self>) -> Self;

    /// Visits every [`crate::Persistent`] field. Write `millet::states!(profile, inventory);` in the impl.
    fn persist(&mut self, _p: &mut Persist<'_>) {}

    /// Runs once after the state is loaded, before the first turn. An error goes to every waiting
    /// caller as `ActivateFailed`, and the next try waits (1 s, doubling up to 30 s).
    fn activate(&mut self, _ctx: &Ctx<Self>) -> impl Future<Output = Result<(), String>> + Send {
        async { Ok(()) }
    }

    /// Runs before an orderly end, not after a panic or a lost lease. Its changes to states are saved.
    fn deactivate(&mut self, _ctx: &Ctx<Self>, _why: EndReason) -> impl Future<Output = ()> + Send {
        async {}
    }
}

/// How a grain type is owned, placed and bounded.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct GrainOptions {
    /// `Leased` (default): every grain has its own lease. `Sharded`: grains hash onto shards, activation
    /// costs no metadata write; one shard makes a cluster singleton.
    pub ownership: Ownership,
    /// Where grains of a leased type are activated.
    pub placement: Placement,
    /// Messages that wait for one activation; the next is `Overloaded`. Twice as many may be held for
    /// a moment: one batch being run, one gathering.
    pub mailbox: usize,
    /// Without a message for this long an activation ends. `None`: never by itself.
    pub idle_after: Option<Duration>,
}

impl Default for GrainOptions {
    fn default() -> Self {
        Self {
            ownership: Ownership::Leased,
            placement: Placement::PreferLocal,
            mailbox: limits::MAILBOX_MESSAGES,
            idle_after: Some(limits::IDLE_AFTER),
        }
    }
}

impl GrainOptions {
    /// Grains that hash onto `shards` shards (1 to [`limits::SHARDS`]).
    pub fn sharded(shards: u32) -> Self {
        Self { ownership: Ownership::Sharded { shards }, ..Self::default() }
    }

    /// Sets where grains are activated.
    #[must_use]
    pub fn placed(mut self, placement: Placement) -> Self {
        self.placement = placement;
        self
    }

    /// Sets the bound of the mailbox, in messages (at least 1).
    #[must_use]
    pub fn mailbox(mut self, messages: usize) -> Self {
        self.mailbox = messages.max(1);
        self
    }

    /// Sets after how long without a message an activation ends; `None`: never by itself.
    #[must_use]
    pub fn idle_after(mut self, after: impl Into<Option<Duration>>) -> Self {
        self.idle_after = after.into();
        self
    }
}

/// Why an activation ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[non_exhaustive]
pub enum EndReason {
    /// Nobody called it for [`GrainOptions::idle_after`].
    Idle,
    /// It asked to ([`Ctx::deactivate_when_idle`]).
    Requested,
    /// The node is leaving.
    Drain,
    /// Its shard moves to another node.
    ShardMoved,
    /// It panicked.
    Panicked,
    /// Its `activate` failed, or its state could not be loaded.
    ActivateFailed,
    /// A save failed or has an unknown outcome (R3): memory and store may differ.
    SaveFailed,
    /// Its session is dead (R4).
    SessionEnded,
    /// Another activation holds the grain under a higher grant (R30).
    Outranked,
}

impl EndReason {
    /// Whether `deactivate` runs and states are saved.
    pub fn is_orderly(self) -> bool {
        match self {
            Self::Idle | Self::Requested | Self::Drain | Self::ShardMoved => true,
            Self::Panicked
            | Self::ActivateFailed
            | Self::SaveFailed
            | Self::SessionEnded
            | Self::Outranked => false,
        }
    }

    /// Whether the right to run the grain has gone, so that calls which wait go elsewhere.
    pub(crate) fn loses_claim(self) -> bool {
        match self {
            Self::Drain | Self::ShardMoved | Self::SessionEnded | Self::Outranked => true,
            Self::Idle | Self::Requested | Self::Panicked | Self::ActivateFailed | Self::SaveFailed => false,
        }
    }
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Idle => "idle",
            Self::Requested => "requested",
            Self::Drain => "the node is leaving",
            Self::ShardMoved => "its shard moves",
            Self::Panicked => "panicked",
            Self::ActivateFailed => "activation failed",
            Self::SaveFailed => "a save failed",
            Self::SessionEnded => "its session ended",
            Self::Outranked => "another activation holds a higher grant",
        })
    }
}
