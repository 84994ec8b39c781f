//! The only place that names openraft: its types, our log and machines behind its traits, its network
//! over tonic, and [`Group`], the handle everything else uses.

mod codec;
mod files;
mod handle;
mod log;
mod machine;
mod members;
mod network;
mod offline;
mod port;
#[cfg(test)]
mod suite;

mod types;

#[cfg(feature = "fuzzing")]
pub(crate) use codec::any_bytes;
pub(crate) use files::{SnapshotFile, SnapshotFiles};
pub(crate) use handle::{Core, Group, GroupMetrics, GroupOptions, Leadership, ProposeError};
pub(crate) use machine::Place;
pub(crate) use members::{Look, NodeLook, Roster};
pub(crate) use network::{LEFT_HEADER, MESSAGE_BYTES};
pub(crate) use offline::{Content, Founding, found, replay};
pub(crate) use port::Port;
