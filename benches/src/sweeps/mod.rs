//! The sweeps: one file each, in the order in which they are printed.

mod depth;
mod grains;
mod heartbeats;
mod leases;
mod nodes;
mod payload;
mod shards;

use crate::sweep::Sweep;

/// Every sweep.
pub const SWEEPS: &[Sweep] = &[
    grains::SWEEP,
    nodes::SWEEP,
    depth::SWEEP,
    payload::SWEEP,
    shards::SWEEP,
    heartbeats::SWEEP,
    leases::SWEEP,
];
