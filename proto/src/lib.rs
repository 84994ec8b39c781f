//! Wire contracts: the generated types of `proto/*.proto`, and the conversions between them and the
//! domain types of `core`. Inside the other crates an invalid value cannot be built.

/// Generated messages and services.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod wire {
    tonic::include_proto!("millet.v1");
}

/// The descriptor set of every Millet contract, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/millet.bin"));
