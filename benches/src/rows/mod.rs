//! The table: one file per row, in the order in which it is printed.

mod activate;
mod ask_key;
mod ask_one;
mod failover;
mod idle_bytes;
mod lease;
mod mailbox;
mod overload;
mod placement;
mod probes;
mod remote;
mod state_write;
mod tell;
mod timers;

use crate::row::Row;

/// Every row.
pub const ROWS: &[Row] = &[
    ask_key::ROW,
    ask_one::ROW,
    tell::ROW,
    mailbox::ROW,
    activate::ROW,
    idle_bytes::ROW,
    remote::ROW_64,
    remote::ROW_256,
    remote::ROW_ONE,
    lease::ROW,
    state_write::ROW,
    failover::ROW,
    overload::ROW,
    timers::ROW,
    placement::ROW,
    probes::ROW,
];
