//! Generates grain interfaces: from `.proto` services ([`proto`], feature `proto`, used from `build.rs`)
//! and from `#[grain] impl` blocks ([`grain`], used by the macro crate).
//!
//! Both fronts fill one description ([`ir::Interface`]), which [`emit`] turns into tokens. Generated code
//! names one root, `::millet::rt`, and calls ordinary functions there; this crate knows nothing of what
//! runs.

pub mod emit;
pub mod grain;
pub mod ir;
#[cfg(feature = "proto")]
pub mod proto;
