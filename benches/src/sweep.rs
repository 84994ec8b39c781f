//! What a sweep is: one kind of work at rising sizes of one thing, and how its figures grow with it.
//!
//! The runner (`cargo xtask bench --sweeps`) reads all of this as JSON; it knows no sweep by name.

use anyhow::Result;
use serde::Serialize;

use crate::row::{Figures, Size};

/// One plot.
#[derive(Serialize)]
pub struct Sweep {
    /// As it is asked for on the command line.
    pub name: &'static str,
    /// Exactly what work is done, and what the figures are.
    pub work: &'static str,
    /// What grows, with its unit.
    pub axis: &'static str,
    /// Its sizes, rising.
    pub points: &'static [u64],
    /// Bytes of memory that a point needs; where they are not there, the point is told as missing.
    #[serde(skip)]
    pub memory: fn(u64) -> u64,
    /// Does a point's work once, in a process of its own.
    #[serde(skip)]
    pub run: fn(u64, Size) -> Result<Figures>,
}

/// A point that fits into any machine that builds this.
pub const SMALL: fn(u64) -> u64 = |_| 1 << 30;
