//! R27 on random clusters: balance, movement, stickiness, and golden tables.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use millet_core::NodeId;
use millet_placement::{Move, Ring, cap, join, place, rebalance};
use proptest::prelude::*;

type Table = Vec<Option<NodeId>>;

fn ids(n: usize) -> Vec<NodeId> {
    (1..=n as u64).map(NodeId).collect()
}

fn fill(ring: &Ring, ty: u64, mut table: Table) -> Table {
    for p in place(ring, ty, &table, &BTreeMap::new()) {
        table[p.shard.0 as usize] = Some(p.to);
    }
    table
}

fn carry_out(mut table: Table, plan: &[Move]) -> Table {
    for m in plan {
        assert_eq!(table[m.shard.0 as usize], Some(m.from));
        table[m.shard.0 as usize] = Some(m.to);
    }
    table
}

fn most(table: &Table, nodes: &[NodeId]) -> usize {
    nodes.iter().map(|n| table.iter().filter(|o| **o == Some(*n)).count()).max().unwrap_or(0)
}

fn has(table: &Table, node: NodeId) -> usize {
    table.iter().filter(|o| **o == Some(node)).count()
}

/// A change of these tables would shuffle shards in a rolling upgrade of the leader.
#[test]
fn golden_tables() {
    let ring = Ring::new(&ids(3));
    let shown =
        |ty, n| fill(&ring, ty, vec![None; n]).iter().map(|o| o.unwrap().0.to_string()).collect::<String>();
    assert_eq!([shown(1, 8), shown(2, 8), shown(1, 16)], GOLDEN);
}
const GOLDEN: [&str; 3] = ["33122132", "12321323", "3312213312123311"];

/// The cap is the rule's, also where rounding matters.
#[test]
fn r27_cap() {
    assert_eq!(
        [cap(8, 3), cap(1, 5), cap(100, 10), cap(1000, 10), cap(4096, 3), cap(5, 0)],
        [3, 1, 10, 105, 1433, 0]
    );
}

/// One-shard types go to whoever has the fewest shards of all types.
#[test]
fn r27_a_single_shard_goes_to_the_least_loaded() {
    let ring = Ring::new(&ids(4));
    let elsewhere = BTreeMap::from([(NodeId(1), 5), (NodeId(2), 3), (NodeId(3), 1), (NodeId(4), 2)]);
    for ty in 0..50 {
        assert_eq!(place(&ring, ty, &[None], &elsewhere)[0].to, NodeId(3));
    }
}

proptest! {
    /// A fresh table is full and nobody is above the cap.
    #[test]
    fn r27_a_fresh_table_is_balanced(ty: u64, shards in 2usize..600, nodes in 1usize..40) {
        let ring = Ring::new(&ids(nodes));
        let table = fill(&ring, ty, vec![None; shards]);
        prop_assert!(table.iter().all(Option::is_some));
        prop_assert!(most(&table, ring.nodes()) <= cap(shards, nodes));
    }

    /// A death places only the dead node's shards; survivors keep theirs, within the new cap.
    #[test]
    fn r27_survivors_never_move_on_a_death(ty: u64, shards in 2usize..600, nodes in 2usize..40, dead: prop::sample::Index) {
        let before = fill(&Ring::new(&ids(nodes)), ty, vec![None; shards]);
        let dead = NodeId(dead.index(nodes) as u64 + 1);
        let left: Vec<_> = ids(nodes).into_iter().filter(|n| *n != dead).collect();
        let after = fill(&Ring::new(&left), ty, before.clone());
        for (old, new) in before.iter().zip(&after) {
            prop_assert!(*old == Some(dead) || old == new);
            prop_assert!(new.is_some_and(|n| n != dead));
        }
        prop_assert!(most(&after, &left) <= cap(shards, nodes - 1));
    }

    /// A join moves only to the joiner, and about one share: floor(s/n), all of it if the table was balanced.
    #[test]
    fn r27_a_join_moves_its_share_and_nothing_else(ty: u64, shards in 2usize..600, nodes in 1usize..40) {
        let joiner = NodeId(nodes as u64 + 1);
        let before = fill(&Ring::new(&ids(nodes)), ty, vec![None; shards]);
        let ring = Ring::new(&ids(nodes + 1));
        let plan = join(&ring, ty, &before, joiner, usize::MAX);
        prop_assert!(plan.iter().all(|m| m.to == joiner));
        let after = carry_out(before, &plan);
        let share = shards / (nodes + 1);
        prop_assert!(has(&after, joiner) >= share);
        prop_assert!(plan.len() <= cap(shards, nodes + 1));
        prop_assert!(join(&ring, ty, &after, joiner, usize::MAX).is_empty());
    }

    /// Evening out stays within its bound, ends, and ends balanced from any table.
    #[test]
    fn r27_evening_out_is_bounded_and_ends(ty: u64, nodes in 1usize..20, raw in prop::collection::vec(0usize..20, 2..400), bound in 1usize..50) {
        let ring = Ring::new(&ids(nodes));
        let mut table: Table = raw.iter().map(|n| Some(NodeId((n % nodes) as u64 + 1))).collect();
        for _ in 0..=table.len() {
            let plan = rebalance(&ring, ty, &table, bound);
            prop_assert!(plan.len() <= bound);
            if plan.is_empty() { break }
            table = carry_out(table, &plan);
        }
        prop_assert!(rebalance(&ring, ty, &table, bound).is_empty());
        prop_assert!(most(&table, ring.nodes()) <= cap(table.len(), nodes));
        prop_assert!(ring.nodes().iter().all(|n| has(&table, *n) >= table.len() / nodes));
    }
}
