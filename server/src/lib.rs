//! Millet: a virtual-actor platform. This crate is what users depend on.
//!
//! - [`prelude`]: what a file with grains imports.
//! - [`rt`]: what generated code names; not for people.
//! - `assemble`, `config`, `world`, `adapters`: how a node is put together (feature `server`).
//!
//! Without default features only `core` and the client remain.

pub use millet_client as client;
pub use millet_core as core;
pub use millet_core::{
    CallError, ErrorKind, GrainId, GrainType, Key, KeyKind, NodeId, PlatformError, Ran, Refusal,
};

#[cfg(feature = "server")]
pub mod adapters;
pub mod prelude;
pub mod rt;
#[cfg(feature = "server")]
pub mod world;
