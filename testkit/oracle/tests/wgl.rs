//! The search for an order: right on small histories by comparison with trying every order, and fast
//! on long ones.

mod common;

use std::time::{Duration, Instant};

use common::valid::Dice;
use millet_oracle::wgl::{Answer, Effect, Interval, linearizable};
use proptest::prelude::*;

/// Tries every order.
fn by_force(ops: &[Interval], taken: u32, value: u64) -> bool {
    let left = |n: &usize| taken >> n & 1 == 0;
    let waits: Vec<usize> = (0..ops.len()).filter(left).collect();
    if waits.iter().all(|n| ops[*n].until.is_none()) {
        return true;
    }
    let first_end = waits.iter().filter_map(|n| ops[*n].until).min().expect("one must end");
    waits.iter().filter(|n| ops[**n].from <= first_end).any(|n| {
        let next = match ops[*n].effect {
            Effect::Read(seen) => (seen == value).then_some(value),
            Effect::Write(new) => Some(new),
            Effect::Swap { from, to, seen } => {
                seen.is_none_or(|s| s == value).then_some(if value == from { to } else { value })
            }
        };
        next.is_some_and(|next| by_force(ops, taken | 1 << n, next))
    })
}

fn any_effect() -> impl Strategy<Value = Effect> {
    let value = || 0u64..3;
    prop_oneof![
        value().prop_map(Effect::Read),
        value().prop_map(Effect::Write),
        (value(), value(), prop::option::of(value())).prop_map(|(from, to, seen)| Effect::Swap {
            from,
            to,
            seen
        }),
    ]
}

fn any_interval() -> impl Strategy<Value = Interval> {
    (0u64..12, prop::option::weighted(0.8, 0u64..6), any_effect())
        .prop_map(|(from, length, effect)| Interval { from, until: length.map(|l| from + l), effect })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_search_agrees_with_trying_every_order(ops in prop::collection::vec(any_interval(), 0..8)) {
        let found = linearizable(&ops) == Answer::Linearizable;
        prop_assert_eq!(found, by_force(&ops, 0, 0));
    }
}

/// A long valid history: each of ten clients has one operation under way at all times.
fn long(count: u64, clients: u64) -> Vec<Interval> {
    let mut dice = Dice(count);
    let mut effects: Vec<(u64, u64, u64)> = Vec::new();
    for client in 0..clients {
        let mut at = dice.below(100);
        for _ in 0..count / clients {
            let from = at;
            let effect = from + 1 + dice.below(100);
            at = effect + 1 + dice.below(100);
            effects.push((effect, from, at));
        }
        assert!(client < clients);
    }
    effects.sort_unstable();
    let (mut value, mut ops) = (0, Vec::new());
    for ((_, from, until), n) in effects.into_iter().zip(1..) {
        let effect = match dice.below(3) {
            0 => Effect::Read(value),
            1 => {
                value = n;
                Effect::Write(n)
            }
            _ => {
                let seen = value;
                let expected = if dice.below(2) == 0 { value } else { value + 1 };
                if expected == value {
                    value = n;
                }
                Effect::Swap { from: expected, to: n, seen: Some(seen) }
            }
        };
        ops.push(Interval { from, until: Some(until), effect });
    }
    ops
}

/// 10,000 operations of ten clients on one key in under a second, in the profile of tests.
#[test]
fn ten_thousand_operations_are_searched_in_under_a_second() {
    let mut ops = long(10_000, 10);
    let start = Instant::now();
    assert_eq!(linearizable(&ops), Answer::Linearizable);
    let took = start.elapsed();
    println!("10,000 operations of 10 clients: {took:?}");
    assert!(took < Duration::from_secs(1), "{took:?}");
    // One answer that cannot be, late in the history.
    let late = (8_000..).find(|n| matches!(ops[*n].effect, Effect::Read(_))).expect("a read");
    ops[late].effect = Effect::Read(1 << 60);
    let start = Instant::now();
    let Answer::Impossible(stuck) = linearizable(&ops) else { panic!("it is impossible") };
    println!("with an impossible one: {:?}, {} operations named", start.elapsed(), stuck.len());
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert!(stuck.contains(&late) && stuck.len() <= 20, "{stuck:?}");
}
