//! Grains at run time: catalog, mailbox, turns, timers, persistence.
//!
//! What a user implements is [`Grain`]; what generated code implements is in [`service`]; what a node
//! assembles is [`RuntimeBuilder`]. This crate finds no owners (that is `directory`'s) and knows no
//! Raft, no tonic and no client sessions.
//!
//! One call, in file names: `refs` (short road) or `dispatch` (from the wire) → `host` → `catalog` →
//! `activation` (mailbox) → `run` (entry check, turn) → the grain → `ctx` (save, exit check, reply).

mod activation;
mod builder;
mod catalog;
mod create;
mod ctx;
mod deps;
mod dispatch;
mod exclusive;
mod fence;
mod grain;
mod host;
mod life;
#[doc(hidden)]
pub mod mailbox;
mod off_turn;
mod origin;
mod parcel;
mod persistent;
pub mod phase;
mod refs;
mod road;
mod run;
mod runtime;
mod saving;
pub mod service;
mod stats;
mod stripe;
mod timers;
mod trouble;
mod wheel;

pub use builder::{BuildError, RuntimeBuilder, RuntimeDeps};
pub use create::Create;
pub use ctx::{Ctx, EffectKey, TimerHandle};
pub use exclusive::Exclusive;
pub use grain::{EndReason, Grain, GrainOptions};
pub use millet_directory::Placement;
pub use persistent::{Persist, Persistent, Storable};
pub use refs::GrainRef;
pub use runtime::Runtime;
pub use service::{Dispatch, Hosted, HostedMethod, Reply, WireReply};
pub use stats::RuntimeStats;
