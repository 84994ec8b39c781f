//! The one road that finds and follows owners.
//!
//! `locate` decides where a call goes, `forward` carries it there and follows `Moved`, `keeper` keeps
//! the node's session, `view` is the cluster as the watch stream tells it, `leases` and `shards` hold
//! what this node owns and has given up (R1, R8). This crate knows no tonic, no Raft and no activation:
//! it reaches them through [`Meta`], [`Peers`] and [`Residents`].

pub mod meta;
pub mod owners;
pub mod peer;

pub use meta::{Acquired, Holder, KeeperLink, Meta, MetaError, ShardAck};
pub use owners::{Claim, Owners, Placement, Residents};
pub use peer::{PeerId, Peers};
