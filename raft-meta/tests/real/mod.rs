//! The real disk, as the server has it: compiled in from there, since the server stands above this crate.
#![allow(dead_code)]

#[path = "../../../server/src/world/disk.rs"]
pub mod disk;
#[path = "../../../server/src/world/os.rs"]
pub mod os;

pub use disk::RealDisk;
