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
    /// The data directory.
    #[error("data directory {dir} (node.data_dir): {why}")]
    DataDir {
        /// Which.
        dir: String,
        /// What is wrong, and what to do.
        why: String,
    },
    /// The metadata member of this node.
    #[error("metadata member: {0}")]
    Member(String),
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
