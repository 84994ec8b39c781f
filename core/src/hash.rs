//! Hashes that cross a process: fixed for ever, held by golden vectors.
//!
//! xxh3 only spreads keys over shards and nodes. Lease rows use a keyed hash instead, because xxh3
//! collisions can be made on purpose (R31); that one lives in `raft-meta`, with the cluster's secret.

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::{GrainId, Key, ShardId};

/// The number of a grain type: xxh3-64 of its name.
pub fn type_id(name: &str) -> u64 {
    xxh3_64(name.as_bytes())
}

/// Spreads grains: xxh3-64 over type id (little endian), a tag byte (0 integer, 1 text), key bytes.
pub fn grain_hash(grain: &GrainId) -> u64 {
    key_hash(grain.ty.id(), &grain.key)
}

/// As [`grain_hash`], for a type whose id is at hand.
pub fn key_hash(type_id: u64, key: &Key) -> u64 {
    match key {
        Key::Int(n) => {
            let mut bytes = [0u8; 17];
            bytes[..8].copy_from_slice(&type_id.to_le_bytes());
            bytes[9..].copy_from_slice(&n.to_le_bytes());
            xxh3_64(&bytes)
        }
        Key::Text(s) => {
            let mut h = Xxh3::new();
            h.update(&type_id.to_le_bytes());
            h.update(&[1]);
            h.update(s.as_bytes());
            h.digest()
        }
    }
}

/// The shard of a hash among `count` shards (at least 1): the high bits, by multiplication.
pub fn shard_of(hash: u64, count: u32) -> ShardId {
    #[expect(clippy::cast_possible_truncation, reason = "the product's high half is below count")]
    ShardId(((u128::from(hash) * u128::from(count)) >> 64) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::GrainType;

    /// A change of any of these would move every sharded grain.
    #[test]
    fn golden_vectors() {
        let ty = GrainType::new("realm.Player").expect("a good name");
        let shown: Vec<String> =
            [Key::Int(0), Key::Int(42), Key::Int(u64::MAX), Key::text("anna").expect("ok")]
                .into_iter()
                .map(|k| {
                    let h = grain_hash(&GrainId::new(ty.clone(), k));
                    format!("{h:016x} {} {}", shard_of(h, 8), shard_of(h, 4096))
                })
                .collect();
        assert_eq!(format!("{:016x}", ty.id()), GOLDEN_TYPE);
        assert_eq!(shown, GOLDEN_KEYS);
    }
    const GOLDEN_TYPE: &str = "27d3b7b6656742e4";
    const GOLDEN_KEYS: [&str; 4] = [
        "b6a425ec37c3f667 #5 #2922",
        "69db76492fc822e3 #3 #1693",
        "1d2aad32cadf4e57 #0 #466",
        "dae1f0eb3e607750 #6 #3502",
    ];

    #[test]
    fn a_shard_is_always_below_the_count() {
        for count in [1, 2, 3, 8, 65_536] {
            for hash in [0, 1, u64::MAX / 2, u64::MAX] {
                assert!(shard_of(hash, count).0 < count);
            }
        }
    }
}
