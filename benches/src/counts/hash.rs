//! The hashes that choose a shard, a node, and the row of a lease.

use std::hint::black_box;

use anyhow::{Error, Result};
use millet_core::{GrainId, GrainType, Key, hash::grain_hash};
use millet_raft_meta::machine::{LeaseKey, Secret};

use super::Count;

/// xxh3 of an integer key.
pub const INT: Count =
    Count { name: "hash-int", work: "xxh3 of a grain with an integer key, as it chooses a shard", run: int };

/// xxh3 of a text key.
pub const TEXT: Count =
    Count { name: "hash-text", work: "xxh3 of a grain with a text key of 16 bytes", run: text };

/// The keyed hash that names a lease.
pub const LEASE_KEY: Count = Count {
    name: "lease-key",
    work: "the name of a lease row: SipHash-2-4-128 of type name and integer key",
    run: lease_key,
};

fn int(ops: u64) -> Result<()> {
    let mut grain = grain(Key::Int(0))?;
    for n in 0..ops {
        grain.key = Key::Int(n);
        black_box(grain_hash(black_box(&grain)));
    }
    Ok(())
}

fn text(ops: u64) -> Result<()> {
    let grain = grain(Key::text("player-000000042").map_err(Error::msg)?)?;
    for _ in 0..ops {
        black_box(grain_hash(black_box(&grain)));
    }
    Ok(())
}

fn lease_key(ops: u64) -> Result<()> {
    let (secret, mut grain) = (Secret([7; 16]), grain(Key::Int(0))?);
    for n in 0..ops {
        grain.key = Key::Int(n);
        black_box(LeaseKey::of(&secret, black_box(&grain)));
    }
    Ok(())
}

fn grain(key: Key) -> Result<GrainId> {
    Ok(GrainId::new(GrainType::new("bench.Counter").map_err(Error::msg)?, key))
}
