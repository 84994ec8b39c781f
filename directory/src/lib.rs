//! The one road that finds and follows owners.
//!
//! `locate` decides where a call goes, `forward` carries it there and follows `Moved`, `keeper` keeps
//! the node's session, `view` is the cluster as the watch stream tells it, `leases` and `shards` hold
//! what this node owns and has given up (R1, R8). This crate knows no tonic, no Raft and no activation:
//! it reaches them through [`Meta`], [`Peers`] and [`Residents`].

pub mod cache;
mod claims;
mod directory;
mod forward;
mod handover;
pub mod keeper;
pub mod keeper_loop;
pub mod keeper_table;
pub mod leases;
mod locate;
pub mod meta;
pub mod owners;
pub mod peer;
pub mod placement;
mod rate;
pub mod shards;
pub mod snowflake;
pub mod timing;
pub mod view;
mod watch;

pub use directory::{Deps, Directory, DirectoryConfig, TypeConfig};
pub use handover::Left;
pub use keeper::{Keeper, KeeperSettings};
pub use keeper_loop::{KeeperEvent, KeeperIdentity, Vitals, keeper_loop};
pub use meta::{Acquired, Holder, KeeperLink, Meta, MetaError, ShardAck};
pub use owners::{Claim, Owners, Placement, Residents};
pub use peer::{PeerId, Peers};
pub use snowflake::NoId;
pub use timing::{SessionTiming, TimingError};
pub use view::{Standing, View};
