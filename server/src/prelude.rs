//! What a file with grains imports: `use millet::prelude::*;`.

pub use millet_core::{CallError, ErrorKind, GrainId, Key, PlatformError, Ran, Refusal};

#[cfg(feature = "server")]
pub use millet_runtime::{
    Create, Ctx, EndReason, Exclusive, Grain, GrainOptions, GrainRef, Persist, Persistent, Placement,
};

#[cfg(feature = "server")]
pub use crate::{adapters::json::JsonCaller, node::Node};
