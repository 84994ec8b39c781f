//! The production assembly in simulated time, network and disks, one seed per process.

fn main() {}
