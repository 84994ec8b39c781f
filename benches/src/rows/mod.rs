//! The table: one file per row, in the order in which it is printed.

mod activate;
mod ask_key;
mod ask_one;
mod idle_bytes;
mod mailbox;
mod placement;
mod tell;

use crate::row::Row;

/// Every row.
pub const ROWS: &[Row] =
    &[ask_key::ROW, ask_one::ROW, tell::ROW, mailbox::ROW, activate::ROW, idle_bytes::ROW, placement::ROW];
