//! What the driver tells a node process (a file, named on its command line) and what the node says back,
//! one JSON object a line on standard output.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

/// One node process.
#[derive(Clone, Serialize, Deserialize, Debug)]
pub struct NodeSpec {
    /// For logs.
    pub name: String,
    /// Its data directory.
    pub dir: PathBuf,
    /// Whether it is a metadata member; else it hosts grains.
    pub member: bool,
    /// Where it listens for other nodes; what they call it.
    pub peer: String,
    /// Where it listens for callers; empty: nowhere.
    pub api: String,
    /// Where a member listens for administrators; empty: nowhere.
    pub admin: String,
    /// The metadata members' peer addresses.
    pub members: Vec<String>,
    /// What it really dials, by what it means to dial: our proxies.
    pub routes: BTreeMap<String, String>,
    /// Makes the cluster, if it is not made yet.
    pub init: bool,
    /// Differs between all starts of all nodes of a run.
    pub start: u32,
}

/// What a node says.
#[derive(Clone, Serialize, Deserialize, Debug)]
#[serde(tag = "line", rename_all = "snake_case")]
pub enum Line {
    /// It has had its first valid session.
    Ready {
        /// Which.
        session: u64,
        /// The cluster's id, as a member knows it.
        cluster: String,
    },
    /// Its figures, every [`LOOK_MS`] milliseconds.
    Stats(Stats),
}

/// Between two lines of figures, in milliseconds.
pub const LOOK_MS: u64 = 100;

/// A node's figures at one moment.
#[derive(Clone, Copy, Serialize, Deserialize, Debug, Default)]
pub struct Stats {
    /// Its session now; 0: none.
    pub session: u64,
    /// Whether that session is valid.
    pub valid: bool,
    /// Activations alive.
    pub activations: u64,
    /// Outputs that an ended or frozen session held back.
    pub fenced: u64,
    /// Whether it leads the metadata.
    pub leads: bool,
    /// The term of that group as it knows.
    pub term: u64,
    /// Its id as a member; 0: none.
    pub member: u64,
    /// Lease rows as it has applied them.
    pub leases: u64,
    /// Its boot clock.
    pub boot_ns: u64,
    /// Its wall clock.
    pub wall_ms: u64,
}
