//! The real disk, as the server has it: compiled in from there, since the server stands above this crate.
#![allow(dead_code)]

#[path = "../../../server/src/world/disk.rs"]
pub mod disk;
#[path = "../../../server/src/world/os.rs"]
pub mod os;

pub use disk::RealDisk;

/// A temporary folder in memory, where syncs cost nothing, if the machine has such a place.
pub fn temporary() -> tempfile::TempDir {
    let memory = std::path::Path::new("/dev/shm");
    tempfile::tempdir_in(memory).or_else(|_| tempfile::tempdir()).expect("a temporary folder")
}
