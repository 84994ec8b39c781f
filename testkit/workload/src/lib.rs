//! The grains and clients that simulation and torture run, and the history they write.
//!
//! - `grains`: what runs on nodes, written as a user would; [`install`] gives them to a node.
//! - `host`: what a process lends its grains.
//! - `recorder`: the history as it comes about.
//! - `way`: how a client gets into the cluster, in process or over the network.
//! - `load`: the clients; `ask`: their calls; `settings`: who does how much.
//! - `read_back`: after the faults, and after the load.
//! - `store_register`: registers straight in a state store.
//!
//! Nothing here judges: that is the oracle's.

mod ask;
mod dice;
pub mod grains;
mod host;
mod load;
mod read_back;
mod recorder;
mod settings;
mod store_register;
mod way;

pub use dice::Dice;
pub use grains::install;
pub use host::Host;
pub use load::{Stop, client};
pub use read_back::{converge, read_back};
pub use recorder::{Buffer, Recorder};
pub use settings::{Role, Settings};
pub use store_register::{StoreRegisters, store_client};
pub use way::{Answer, Door, InProcess, Way};
