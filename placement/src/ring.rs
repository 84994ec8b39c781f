//! Consistent hashing: for any hash, the nodes in the order in which they are asked. Fixed for ever for
//! a given set of nodes; golden vectors hold it.
//!
//! Positions: xxh3-64 over explicit little-endian bytes, never `std::hash` of a type.

use std::hash::{BuildHasher, Hash, Hasher};

use hashring::HashRing;
use millet_core::NodeId;
use xxhash_rust::xxh3::Xxh3;

/// Points per node: the largest share is then about 1.2 times the mean, and bounded load does the rest.
pub const VIRTUAL_NODES: u32 = 128;

#[derive(Clone, Copy)]
struct FixedXxh3;
struct FixedHasher(Xxh3);

impl BuildHasher for FixedXxh3 {
    type Hasher = FixedHasher;
    fn build_hasher(&self) -> FixedHasher {
        FixedHasher(Xxh3::new())
    }
}
impl Hasher for FixedHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
    fn finish(&self) -> u64 {
        self.0.digest()
    }
}

/// One point of one node; hashes as node id, then number, little endian.
#[derive(Clone, Copy, Debug)]
struct Point {
    node: u32,
    bytes: [u8; 12],
}
impl Hash for Point {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        hasher.write(&self.bytes);
    }
}

/// The nodes of a cluster in ring order. Only orders candidates: what is assigned is kept in a table.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ring {
    nodes: Vec<NodeId>,
    points: Vec<(u64, u32)>,
}

impl Ring {
    /// The ring of these nodes; their order and repeats do not matter.
    pub fn new(nodes: &[NodeId]) -> Self {
        let mut nodes = nodes.to_vec();
        nodes.sort_unstable();
        nodes.dedup();
        let points = nodes.iter().zip(0u32..).flat_map(|(id, node)| {
            (0..VIRTUAL_NODES).map(move |number| {
                let mut bytes = [0; 12];
                bytes[..8].copy_from_slice(&id.0.to_le_bytes());
                bytes[8..].copy_from_slice(&number.to_le_bytes());
                Point { node, bytes }
            })
        });
        let mut ring = HashRing::with_hasher(FixedXxh3);
        ring.batch_add(points.collect());
        // All points in ring order, starting anywhere.
        let ordered = ring.get_with_replicas(&0u8, usize::MAX).unwrap_or_default();
        let mut points: Vec<_> = ordered.iter().map(|p| (FixedXxh3.hash_one(p), p.node)).collect();
        points.sort_by_key(|(position, _)| *position);
        Self { nodes, points }
    }

    /// Its nodes, by id.
    pub fn nodes(&self) -> &[NodeId] {
        &self.nodes
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Every node once, in the order in which a thing with this hash asks them.
    pub fn candidates(&self, hash: u64) -> impl Iterator<Item = NodeId> + '_ {
        let start = self.points.partition_point(|(position, _)| *position < hash);
        let mut seen = vec![false; self.nodes.len()];
        let mut left = self.nodes.len();
        self.points[start..]
            .iter()
            .chain(&self.points[..start])
            .filter(move |(_, node)| !std::mem::replace(&mut seen[*node as usize], true))
            .map(|(_, node)| self.nodes[*node as usize])
            .take_while(move |_| {
                let more = left > 0;
                left -= usize::from(more);
                more
            })
    }

    /// The node asked first.
    pub fn first(&self, hash: u64) -> Option<NodeId> {
        self.candidates(hash).next()
    }
}

/// Where a shard stands on the ring: xxh3-64 over type id, a tag byte (2), shard, little endian.
pub fn shard_hash(type_id: u64, shard: millet_core::ShardId) -> u64 {
    let mut bytes = [2; 13];
    bytes[..8].copy_from_slice(&type_id.to_le_bytes());
    bytes[9..].copy_from_slice(&shard.0.to_le_bytes());
    xxhash_rust::xxh3::xxh3_64(&bytes)
}

#[cfg(test)]
mod tests {
    use millet_core::ShardId;

    use super::*;

    fn ids(n: u64) -> Vec<NodeId> {
        (1..=n).map(NodeId).collect()
    }

    /// A change of these would move shards and hash-placed grains when nothing has happened.
    #[test]
    fn golden_vectors() {
        let ring = Ring::new(&ids(5));
        let order = |hash| ring.candidates(hash).map(|n| n.0).collect::<Vec<_>>();
        let shown = [order(0), order(u64::MAX), order(shard_hash(0x27d3_b7b6_6567_42e4, ShardId(3)))];
        assert_eq!(format!("{shown:?}"), GOLDEN_ORDER);
        assert_eq!(format!("{:016x}", shard_hash(0x27d3_b7b6_6567_42e4, ShardId(3))), GOLDEN_SHARD);
    }
    const GOLDEN_ORDER: &str = "[[2, 5, 1, 4, 3], [2, 5, 1, 4, 3], [4, 3, 1, 5, 2]]";
    const GOLDEN_SHARD: &str = "a3117a9b12520a06";

    /// Candidates are all nodes, each once; none for an empty ring.
    #[test]
    fn candidates_are_distinct_and_complete() {
        for n in [0, 1, 2, 17] {
            let ring = Ring::new(&ids(n));
            for hash in [0, 1 << 63, u64::MAX] {
                let mut found: Vec<_> = ring.candidates(hash).collect();
                found.sort_unstable();
                assert_eq!(found, ids(n));
            }
        }
    }

    /// Without bounded load no node is first for more than 1.5 times its share of hashes.
    #[test]
    fn first_choices_are_spread() {
        let ring = Ring::new(&ids(10));
        let mut count = [0u32; 11];
        for shard in 0..20_000 {
            let first = ring.first(shard_hash(7, ShardId(shard))).unwrap();
            count[usize::try_from(first.0).unwrap()] += 1;
        }
        assert!(count[1..].iter().all(|c| (1_000..3_000).contains(c)), "{count:?}");
    }

    /// A node that leaves takes only its own places: the others keep their order.
    #[test]
    fn order_of_the_others_does_not_change_when_one_leaves() {
        let (all, fewer) = (Ring::new(&ids(6)), Ring::new(&ids(5)));
        for n in 0..500u32 {
            let hash = shard_hash(1, ShardId(n));
            let kept: Vec<_> = all.candidates(hash).filter(|id| id.0 != 6).collect();
            assert_eq!(kept, fewer.candidates(hash).collect::<Vec<_>>());
        }
    }
}
