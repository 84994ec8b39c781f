//! The workload's grains. Each answers with its token and its life beside what was asked, so that the
//! oracle can tell activations apart.

pub mod account;
pub mod counter;
pub mod issuer;
mod ledger;
pub mod register;
pub mod singleton;
pub mod sleeper;

use millet::NodeBuilder;

pub use ledger::{Appended, Pages};

use crate::host::Host;

/// Gives a node all grains of the workload.
#[must_use]
pub fn install(node: NodeBuilder, host: &Host) -> NodeBuilder {
    node.resource(host.clone())
        .grain::<counter::Counter>()
        .grain::<account::Account>()
        .grain::<register::Register>()
        .grain::<singleton::Singleton>()
        .grain::<sleeper::Sleeper>()
        .grain::<issuer::Issuer>()
}
