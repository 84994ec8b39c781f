//! Callers outside the cluster: typed calls and calls by name over gRPC ([`Client`]), and the codecs that
//! generated code calls ([`codec`]).
//!
//! What a call's failure says about its turn is kept over the wire: `ran()` is `No` only where the
//! platform said so or the request surely never left this process; all else is `Unknown`.

mod client;
pub mod codec;
mod endpoint;
mod wire;

pub use client::{BadAddress, Client, Options};
