//! Sticky shard assignment with bounded load (R27): a death places only the dead node's shards, a join
//! moves only shards to the joiner, evening out is a separate act with a bound.
//!
//! After "Consistent Hashing with Bounded Loads" (Mirrokni, Thorup, Zadimoghaddam, 2016), c = 1.05; the
//! ring orders candidates, the table decides.

use std::collections::BTreeMap;

use millet_core::{NodeId, ShardId};

use crate::{Ring, ring::shard_hash};

/// A shard without an owner, and who gets it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Placement {
    /// Which.
    pub shard: ShardId,
    /// To whom.
    pub to: NodeId,
}

/// A shard that is to change hands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Move {
    /// Which.
    pub shard: ShardId,
    /// Who has it.
    pub from: NodeId,
    /// Who gets it.
    pub to: NodeId,
}

/// The most shards of one type that a node gets: `max(ceil(s/n), floor(1.05·s/n))`.
pub fn cap(shards: usize, nodes: usize) -> usize {
    match nodes {
        0 => 0,
        n => shards.div_ceil(n).max(shards * 105 / (n * 100)),
    }
}

/// How many shards of this table each node of the ring has.
fn counts(ring: &Ring, owners: &[Option<NodeId>]) -> BTreeMap<NodeId, usize> {
    let mut counts: BTreeMap<NodeId, usize> = ring.nodes().iter().map(|node| (*node, 0)).collect();
    for owner in owners.iter().flatten() {
        if let Some(count) = counts.get_mut(owner) {
            *count += 1;
        }
    }
    counts
}

fn numbered(owners: &[Option<NodeId>]) -> impl Iterator<Item = (ShardId, Option<NodeId>)> + '_ {
    owners.iter().zip(0..).map(|(owner, n)| (ShardId(n), *owner))
}

/// Places the shards that have no owner in the ring (`owners[shard]` is `None`, or a node that is not in
/// it) and touches no other. Each goes to its first candidate below the cap; a one-shard type to the
/// candidate that has the fewest shards of all types (`elsewhere`), the first in ring order among equals.
pub fn place(
    ring: &Ring,
    type_id: u64,
    owners: &[Option<NodeId>],
    elsewhere: &BTreeMap<NodeId, usize>,
) -> Vec<Placement> {
    let mut counts = counts(ring, owners);
    let cap = cap(owners.len(), ring.nodes().len());
    let load = |node: &NodeId| elsewhere.get(node).copied().unwrap_or_default();
    let mut plan = Vec::new();
    for (shard, owner) in numbered(owners) {
        if owner.is_some_and(|node| counts.contains_key(&node)) {
            continue;
        }
        let mut candidates = ring.candidates(shard_hash(type_id, shard));
        let to = if owners.len() == 1 {
            candidates.min_by_key(load)
        } else {
            candidates.find(|node| counts[node] < cap)
        };
        let Some(to) = to else { break };
        counts.entry(to).and_modify(|count| *count += 1);
        plan.push(Placement { shard, to });
    }
    plan
}

/// Moves up to `bound` shards to `joiner`, and to nobody else, until it has its share, `floor(s/n)`.
/// They come from whoever has the most; of those, the ones for which the joiner ranks highest.
pub fn join(ring: &Ring, type_id: u64, owners: &[Option<NodeId>], joiner: NodeId, bound: usize) -> Vec<Move> {
    even_out(ring, type_id, owners, bound, |node| node == joiner)
}

/// Moves up to `bound` shards from those who have too many to those who have too few, until nobody is
/// above the cap and nobody below `floor(s/n)`. To be done rarely and in small steps.
pub fn rebalance(ring: &Ring, type_id: u64, owners: &[Option<NodeId>], bound: usize) -> Vec<Move> {
    even_out(ring, type_id, owners, bound, |_| true)
}

fn even_out(
    ring: &Ring,
    type_id: u64,
    owners: &[Option<NodeId>],
    bound: usize,
    may_receive: impl Fn(NodeId) -> bool,
) -> Vec<Move> {
    let nodes = ring.nodes().len();
    if nodes == 0 {
        return Vec::new();
    }
    let (share, cap) = (owners.len() / nodes, cap(owners.len(), nodes));
    let mut counts = counts(ring, owners);
    let mut table = owners.to_vec();
    let mut plan = Vec::new();
    while plan.len() < bound {
        let receiver = counts.iter().filter(|(node, _)| may_receive(**node)).min_by_key(|(_, count)| **count);
        let donor = counts.iter().max_by_key(|(node, count)| (**count, std::cmp::Reverse(**node)));
        let (Some((&to, &least)), Some((&from, &most))) = (receiver, donor) else { break };
        let needed = least < share || (most > cap && least < cap);
        if !needed || most <= least + 1 {
            break;
        }
        let rank = |shard| ring.candidates(shard_hash(type_id, shard)).position(|node| node == to);
        let picked = numbered(&table).filter(|(_, owner)| *owner == Some(from)).min_by_key(|(s, _)| rank(*s));
        let Some((shard, _)) = picked else { break };
        table[shard.0 as usize] = Some(to);
        counts.entry(from).and_modify(|count| *count -= 1);
        counts.entry(to).and_modify(|count| *count += 1);
        plan.push(Move { shard, from, to });
    }
    plan
}
