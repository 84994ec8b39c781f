//! What connects the pure parts to the world: each adapter implements a trait of `directory` or `core`
//! over gRPC or a thread. No rule of ownership is decided here.

pub mod caller;
pub mod identity;
pub mod json;
pub mod keeper;
pub mod launcher;
pub mod listen;
pub mod local_meta;
pub mod meta;
pub mod peer;
pub mod shard_stores;
