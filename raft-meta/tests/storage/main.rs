//! The storage proof (docs/proof.md): crashes at every write, kills, power cuts, full and failing disks,
//! flipped bits and torn tails, for the log, both engines and a whole member. Each suite has a control
//! that it must catch.
//!
//! What takes place in memory runs everywhere; power cuts need root and say so where there is none.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod book;
mod child;
mod disks;
mod engine_crash;
mod flips;
mod full;
mod golden;
mod half_way;
mod kill;
mod log_crash;
mod log_damage;
mod member;
mod member_crash;
mod old_damage;
mod power;
#[path = "../real/mod.rs"]
mod real;
mod rebuild;
