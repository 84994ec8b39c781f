//! Callers from outside the cluster, without their types: the dynamic gRPC service, calls by name with
//! JSON, reflection and health, and the repair of what tonic answers differently from the gRPC table.
//!
//! Calls leave through `core::Caller`; this crate finds no grain and runs no turn. A server mounts
//! [`router`] on its API listener.

mod api;
mod calm;
mod frame;
mod health;
mod interfaces;
mod json;
mod json_caller;
mod prompt;
mod rejects;
mod repair;
mod router;
mod timeout;
mod validate;

pub use api::{API_BYTES, API_CALLS, Api};
pub use calm::{CONTROL_FRAMES, CONTROL_FRAMES_PER_SECOND, Calm};
pub use health::Health;
pub use interfaces::{Interface, InterfaceError, Interfaces};
pub use json_caller::{JsonCall, JsonCaller};
pub use prompt::{FIRST_BYTES, Prompt};
pub use rejects::{Reject, Rejects};
pub use repair::{Repair, Repaired};
pub use router::router;
