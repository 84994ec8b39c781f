//! Grains at run time: catalog, mailbox, turns, timers, persistence.
//!
//! What a user implements is [`Grain`]; what generated code implements is in [`service`]; what a node
//! assembles is [`RuntimeBuilder`]. This crate finds no owners (that is `directory`'s) and knows no
//! Raft, no tonic and no client sessions.

mod create;
mod ctx;
mod exclusive;
mod grain;
mod persistent;
mod refs;
mod runtime;
pub mod service;

pub use create::Create;
pub use ctx::{Ctx, EffectKey, TimerHandle};
pub use exclusive::Exclusive;
pub use grain::{EndReason, Grain, GrainOptions};
pub use millet_directory::Placement;
pub use persistent::{Persist, Persistent, Storable};
pub use refs::GrainRef;
pub use runtime::{BuildError, Runtime, RuntimeBuilder, RuntimeDeps};
pub use service::{Dispatch, Hosted, HostedMethod, Reply, WireReply};
