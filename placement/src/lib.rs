//! Where shards and grains go. Pure: nodes and tables come in, plans come out; nothing here knows a
//! lease, a clock or a network.
//!
//! - [`Ring`]: orders candidates by consistent hashing; decides nothing by itself.
//! - [`shards`]: sticky assignment of shards with bounded load (R27), as plans.
//! - [`policy`]: which node a leased grain is activated on.

pub mod policy;
pub mod ring;
pub mod shards;

pub use policy::{Ask, Candidate, GrainPolicy, Policy};
pub use ring::Ring;
pub use shards::{Move, Placement, cap, join, place, rebalance};
