//! Quality of shard placement: pure, no node runs.

use std::{collections::BTreeMap, time::Instant};

use anyhow::{Result, ensure};
use millet_core::{NodeId, ShardId};
use millet_placement::{Ring, join, place};

use crate::row::{Figures, Goal, Row, Side, Size};

/// The row.
pub const ROW: Row = Row {
    name: "placement",
    work: "places 64 shards a node on 3, 5, 10 and 50 nodes: most shards on a node over the mean. Then one node \
           joins and one of the first leaves: shards moved over the fewest that could be (the joiner's share; \
           the leaver's shards). Each the worst of 20 sets of node ids; and the microseconds of placing all \
           shards on 10 nodes",
    sides: &[Side::new("millet", millet)],
    goals: &[
        Goal::at_most("n3_max_over_mean", 1.05),
        Goal::at_most("n5_max_over_mean", 1.05),
        Goal::at_most("n10_max_over_mean", 1.05),
        Goal::at_most("n50_max_over_mean", 1.10),
        Goal::at_most("join_over_least", 1.1),
        Goal::at_most("leave_over_least", 1.1),
    ],
    peers: &[],
    missing: &[],
};

const SHARDS_A_NODE: usize = 64;
const SIZES: [(usize, &str); 4] =
    [(3, "n3_max_over_mean"), (5, "n5_max_over_mean"), (10, "n10_max_over_mean"), (50, "n50_max_over_mean")];

type Table = Vec<Option<NodeId>>;

/// The product's own `place` and `join`, as the metadata leader calls them.
fn millet(size: Size) -> Result<Figures> {
    let sets = size.of(20, 2);
    let mut figures: Figures = Vec::new();
    let (mut joined, mut left, mut took) = (0f64, 0f64, 0f64);
    for (count, name) in SIZES {
        let mut worst = 0f64;
        for set in 0..sets {
            // Node ids are drawn; here from a fixed sequence.
            let ids: Vec<NodeId> = (0..count as u64 + 1)
                .map(|n| NodeId((set * 1000 + n + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15)))
                .collect();
            let (joiner, nodes) = ids.split_last().expect("one more than the count");
            let ring = Ring::new(nodes);
            let mut table: Table = vec![None; count * SHARDS_A_NODE];
            let start = Instant::now();
            let placed = assign(&ring, &mut table)?;
            if count == 10 {
                took = took.max(start.elapsed().as_secs_f64() * 1e6);
            }
            ensure!(placed == table.len(), "{placed} of {} shards were placed", table.len());
            worst = worst.max(imbalance(&table, count));
            joined = joined.max(join_cost(&ids, *joiner, &table)?);
            left = left.max(leave_cost(&nodes[1..], nodes[0], &table)?);
        }
        figures.push((name, worst));
    }
    figures.extend([("join_over_least", joined), ("leave_over_least", left), ("place_us", took)]);
    Ok(figures)
}

/// Places what has no owner; how many shards that were.
fn assign(ring: &Ring, table: &mut Table) -> Result<usize> {
    let plan = place(ring, TYPE, table, &BTreeMap::new());
    for placement in &plan {
        table[usize::try_from(placement.shard.0)?] = Some(placement.to);
    }
    Ok(plan.len())
}

/// Any type: its id is a hash.
const TYPE: u64 = 0x6D69_6C6C_6574;

fn imbalance(table: &Table, nodes: usize) -> f64 {
    let mut counts = BTreeMap::<NodeId, usize>::new();
    for owner in table.iter().flatten() {
        *counts.entry(*owner).or_default() += 1;
    }
    counts.values().max().copied().unwrap_or_default() as f64 * nodes as f64 / table.len() as f64
}

/// Moves for one joiner over its share. Only moves to the joiner count as needed.
fn join_cost(ids: &[NodeId], joiner: NodeId, table: &Table) -> Result<f64> {
    let moves = join(&Ring::new(ids), TYPE, table, joiner, table.len());
    ensure!(moves.iter().all(|m| m.to == joiner), "a join moved a shard to somebody else");
    Ok(moves.len() as f64 / (table.len() / ids.len()) as f64)
}

/// Moves after one node left over the shards it had.
fn leave_cost(stay: &[NodeId], leaver: NodeId, table: &Table) -> Result<f64> {
    let (ring, mut after) = (Ring::new(stay), table.clone());
    for owner in &mut after {
        owner.take_if(|owner| *owner == leaver);
    }
    let had = after.iter().filter(|owner| owner.is_none()).count();
    assign(&ring, &mut after)?;
    let shards = (0..).map(ShardId).zip(table.iter().zip(&after));
    let moved = shards.filter(|(_, (before, after))| before != after).count();
    Ok(moved as f64 / had as f64)
}
