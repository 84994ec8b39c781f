//! What a file with grains imports: `use millet::prelude::*;`.

pub use millet_core::{CallError, ErrorKind, GrainId, Key, PlatformError, Ran, Refusal};
