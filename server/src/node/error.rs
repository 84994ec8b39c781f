//! Why a node did not start, or did not go on.

use std::io;

use crate::{adapters::listen::BindError, config::ConfigError};

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The settings.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A port.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The grains.
    #[error(transparent)]
    Grains(#[from] millet_runtime::BuildError),
    /// The data directory, or the metadata member in it.
    #[error("{0} (node.data_dir)")]
    Member(millet_raft_meta::MemberError),
    /// The grains' interfaces.
    #[error(transparent)]
    Interfaces(#[from] millet_gateway::InterfaceError),
    /// Asked to make a cluster.
    #[error("this node is no metadata member (node.roles); run init at one that is")]
    NoMember,
    /// Built so that a panic ends the process.
    #[error(
        "built with panic = \"abort\"; remove it from the Cargo profile: a panicking grain must not end the process"
    )]
    PanicAbort,
    /// A thread or runtime could not be started.
    #[error("cannot start {what}: {source}")]
    System {
        /// What.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}
