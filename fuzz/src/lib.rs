//! Fuzz targets: one group of decoders each, from any bytes. A target panics where a decoder does, where
//! what was accepted does not come back the same, and where a decoder takes more memory than the bytes
//! pay for. `cargo xtask fuzz` looks for such bytes with libFuzzer; the property tests named `decoders` in
//! the crates themselves do so on every toolchain.

use std::{io, path::Path};

pub mod allocation;
mod arguments;
mod bytes;
mod config;
mod edge;
mod files;
mod gateway;
mod log;
mod meta;
mod raft;
mod state;
mod wire;

/// A group of decoders.
#[derive(Debug)]
pub struct Target {
    /// As `cargo xtask fuzz --only` names it.
    pub name: &'static str,
    decode: fn(&[u8]),
    seeds: fn() -> Vec<Vec<u8>>,
    /// Memory that one input may take at once, in bytes: so much, and [`PER_BYTE`] for each of its bytes.
    memory: usize,
}

/// An element of a repeated field has two bytes on the wire and up to 300 in memory (`millet_proto::codec`);
/// twice, while a list grows.
const PER_BYTE: usize = 512;
const MIB: usize = 1 << 20;

/// Every target, in the order of `docs/proof.md`.
pub const TARGETS: &[Target] = &[
    Target { name: "wire", decode: wire::run, seeds: wire::seeds, memory: MIB },
    Target { name: "edge", decode: edge::run, seeds: edge::seeds, memory: MIB },
    // The descriptors are read once, at the first input.
    Target { name: "gateway", decode: gateway::run, seeds: gateway::seeds, memory: 8 * MIB },
    Target { name: "arguments", decode: arguments::run, seeds: arguments::seeds, memory: 2 * MIB },
    Target { name: "config", decode: config::run, seeds: config::seeds, memory: 4 * MIB },
    // A session may declare 65,536 shards in a few bytes, up to a million in all: 32 bytes each.
    Target { name: "meta", decode: meta::run, seeds: meta::seeds, memory: 256 * MIB },
    Target { name: "state", decode: state::run, seeds: state::seeds, memory: 2 * MIB },
    Target { name: "raft", decode: raft::run, seeds: raft::seeds, memory: 2 * MIB },
    Target { name: "log", decode: log::run, seeds: log::seeds, memory: 4 * MIB },
    // One piece of a snapshot or backup is 256 KiB, a frame at most 1 MiB.
    Target { name: "files", decode: files::run, seeds: files::seeds, memory: 8 * MIB },
    // redb holds regions and a cache of their pages.
    Target { name: "redb", decode: files::redb, seeds: files::redb_seeds, memory: 64 * MIB },
];

impl Target {
    /// Decodes one input.
    ///
    /// # Panics
    /// If something is wrong with a decoder.
    pub fn run(&self, input: &[u8]) {
        let before = allocation::start();
        (self.decode)(input);
        let taken = allocation::peak().saturating_sub(before);
        let limit = self.memory + PER_BYTE * input.len();
        assert!(taken <= limit, "{} bytes of input took {taken} bytes of memory, over {limit}", input.len());
    }

    /// Writes good inputs, for libFuzzer to begin with.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn write_seeds(&self, dir: &Path) -> io::Result<()> {
        std::fs::create_dir_all(dir)?;
        for (n, seed) in (self.seeds)().iter().enumerate() {
            std::fs::write(dir.join(format!("seed-{n}")), seed)?;
        }
        Ok(())
    }
}
