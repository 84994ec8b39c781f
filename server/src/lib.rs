//! Millet: a virtual-actor platform. This crate is what users depend on.
//!
//! - [`prelude`]: what a file with grains imports.
//! - [`rt`]: what generated code names; not for people.
//! - `node`, `config`, `world`, `adapters`: how a node is put together (feature `server`).
//! - `launcher`: starts a node as its child and closes its session when it is proven dead (on Linux).
//!
//! Without default features only `core` and the client remain.

pub use millet_client as client;
pub use millet_core as core;
pub use millet_core::{
    CallError, ErrorKind, GrainId, GrainType, Key, KeyKind, NodeId, PlatformError, Ran, Refusal,
};

#[cfg(feature = "server")]
pub mod adapters;
#[cfg(feature = "server")]
pub mod config;
#[cfg(feature = "server")]
pub mod launcher;
#[cfg(feature = "server")]
pub mod node;
pub mod prelude;
pub mod rt;
#[cfg(feature = "server")]
pub mod world;

#[cfg(feature = "server")]
pub use adapters::json::JsonCaller;
#[cfg(feature = "server")]
pub use millet_directory::Directory;
#[cfg(feature = "server")]
pub use node::{Figures, Memory, Node, NodeBuilder, StartError, Stats};

/// The `#[grain]` attribute: Rust-first grain interfaces.
#[cfg(feature = "server")]
pub use millet_macros::grain;

/// Includes what `millet_stub_gen::proto::compile` generated in `build.rs` for a proto package:
/// `pub mod realm { millet::include_grains!("realm"); }`.
#[macro_export]
macro_rules! include_grains {
    ($package:literal) => {
        include!(concat!(env!("OUT_DIR"), "/", $package, ".rs"));
    };
}

/// Lists a grain's persistent fields: `millet::states!(profile, inventory);` inside `impl Grain for …`.
#[cfg(feature = "server")]
pub use millet_runtime::states;
