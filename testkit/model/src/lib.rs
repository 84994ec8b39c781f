//! The ownership protocol as stateright models over the pure machines the product runs: several small
//! models, each explored to the bounds that its test's name states.
//!
//! Every `control_…` test switches one rule off in the product's own code (`millet_core::control`), in a
//! process of its own, and demands a counterexample.
//!
//! The README says what is modelled, what is abstracted away, and how many states there are.

pub mod check;
pub mod grain;
pub mod holder;
pub mod meta;
pub mod shard;
pub mod store;
pub mod timed;
