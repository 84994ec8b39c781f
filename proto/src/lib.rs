//! Wire contracts: the generated types of `proto/*.proto`, and the conversions between them and the
//! domain types of `core`. Inside the other crates an invalid value cannot be built.
//!
//! Wire to domain is `TryFrom`: a bad value is a [`WireError`], never a panic. Domain to wire is `From`.

pub mod backup;
pub mod codec;
pub mod common;
pub mod meta;
pub mod peer;
pub mod state;
pub mod status;

/// Generated messages and services.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod wire {
    tonic::include_proto!("millet.v1");
}

/// The descriptor set of every Millet contract, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/millet.bin"));

/// A wire value that no domain value stands for.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{field}: {why}")]
pub struct WireError {
    /// Which field, `Message.field`.
    pub field: &'static str,
    /// What is wrong with it.
    pub why: String,
}

impl WireError {
    /// A field that must be there is not.
    pub fn missing(field: &'static str) -> Self {
        Self { field, why: "missing".into() }
    }
    /// A field's value is not one of its type's.
    pub fn bad(field: &'static str, why: impl std::fmt::Display) -> Self {
        Self { field, why: why.to_string() }
    }
}

impl From<WireError> for millet_core::ErrorKind {
    fn from(e: WireError) -> Self {
        Self::BadArgument { why: e.to_string() }
    }
}

/// A field that must be there.
pub fn required<T>(value: Option<T>, field: &'static str) -> Result<T, WireError> {
    value.ok_or(WireError::missing(field))
}
