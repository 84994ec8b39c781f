//! Real processes under every fault a machine can make.

fn main() {}
