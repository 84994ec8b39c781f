//! The one root that generated code names (`::millet::rt`). Nothing here is meant to be written by hand.
//!
//! Callers' items come from `core` and are always there; what hosting needs comes from `runtime` and is
//! there with the feature `server`.

#[cfg(feature = "server")]
mod slot;

pub use bytes::{self, Bytes};
pub use millet_client::codec;
pub use millet_core as core;
pub use millet_core::{
    AppError, CallError, ErrorKind, GrainType, Key, KeyKind, Method, MethodId, MethodInfo, Outcome,
    PlatformError, Refusal, Service, ServiceInfo, limits,
};
pub use {prost, prost_types, rmp_serde, serde, serde_json};

#[cfg(feature = "server")]
pub use millet_runtime as runtime;
#[cfg(feature = "server")]
pub use millet_runtime::{
    Create, Ctx, Grain, GrainRef,
    service::{Dispatch, Hosted, HostedMethod, Reply, WireReply},
};
#[cfg(feature = "server")]
pub use slot::{Carry, SLOT_BYTES, Slot};
#[cfg(feature = "server")]
pub use tokio;
