//! The only place that names openraft: its types, our log and machines behind its traits, its network
//! over tonic, and [`Group`], the handle everything else uses.

mod codec;
mod files;
mod handle;
mod log;
mod machine;
mod network;
mod port;
#[cfg(test)]
mod suite;

mod types;

pub(crate) use handle::{Core, Group, GroupMetrics, GroupOptions, Leadership, ProposeError};
pub(crate) use machine::Place;
pub(crate) use network::MESSAGE_BYTES;
pub(crate) use port::Port;
