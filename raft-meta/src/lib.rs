//! The replicated metadata store: pure state machines, the Raft log, the Raft adapter, the service that
//! members run and the client that nodes use. It knows nothing of grains' code.
//!
//! - `machine`: the `meta` group's state machine (sessions, leases, shards, workers); pure.
//! - `state`: the `state` group's machine (grain state) over an `engine`.
//! - `engine`: sled and redb as caches of snapshot and log.
//! - `log`: the Raft log on `core::world::Disk`.
//! - `raft`: the only place that names openraft.
//! - `backup`: copies of everything, and clusters that begin from one.
//! - `leader`, `service`, `client`: what a leader does, what members serve, how nodes ask.

pub mod backup;
pub mod client;
pub mod engine;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod group;
pub mod identity;
pub mod leader;
pub mod log;
pub mod machine;
mod member;
mod raft;
mod service;
pub mod state;

pub use engine::EngineKind;
pub use member::{Member, MemberError, MemberOptions, Standing, Timing};
pub use service::Services;

/// Makes a connection to an address, lazily and with the caller's transport settings (`tcp_nodelay`
/// among them). Called within the runtime that will carry it.
pub type Dial = std::sync::Arc<dyn Fn(&str) -> tonic::transport::Channel + Send + Sync>;
