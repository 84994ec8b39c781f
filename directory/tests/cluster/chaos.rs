//! Random faults against whole directories, in virtual time: crashes, restarts, leaves, partitions, deaf
//! links, loss of quorum, idle grains. The oracle checks every turn (G1b) and every request (never run
//! twice); when all is well again, every call is answered.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::world::{World, gm, hashed, pass, player, rank};
use millet_core::Clock;
use millet_testkit::{SeededEntropy, until_async};

const NODES: u64 = 4;

fn grain(n: u64) -> millet_core::GrainId {
    match n % 4 {
        0 => player(n),
        1 => hashed(n),
        2 => rank(n),
        _ => gm(),
    }
}

/// Calls from random nodes to random grains, without pause, until told to stop.
async fn caller(
    world: Arc<World>,
    random: Arc<SeededEntropy>,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
) {
    while !stop.load(Ordering::Acquire) {
        let from = random.below(NODES) + 1;
        if world.node(from).is_down() {
            pass(Duration::from_millis(10)).await;
            continue;
        }
        let limit = Duration::from_millis(50 + random.below(4_000));
        let start = world.clock.boottime();
        let outcome = world.call_within(from, &grain(random.below(40)), limit).await;
        let took = world.clock.boottime().since(start);
        assert!(took <= limit + Duration::from_secs(1), "a call of {limit:?} took {took:?} (G5)");
        answered.fetch_add(u64::from(outcome.is_ok()), Ordering::Relaxed);
    }
}

async fn fault(world: &Arc<World>, random: &SeededEntropy) {
    let node = world.node(random.below(NODES) + 1);
    let long = Duration::from_millis(random.below(9_000));
    match random.below(8) {
        0 | 1 if !node.is_down() => {
            node.partition(true);
            pass(long).await;
            node.partition(false);
        }
        2 if !node.is_down() => {
            node.link.deaf.store(true, Ordering::Release);
            pass(long).await;
            node.link.deaf.store(false, Ordering::Release);
        }
        3 => {
            world.store.set_quorum(false);
            pass(long / 2).await;
            world.store.set_quorum(true);
        }
        4 if !node.is_down() => {
            node.crash();
            pass(long).await;
            world.add(node.n);
        }
        5 if !node.is_down() => {
            let until = world.clock.boottime().after(Duration::from_secs(5));
            node.directory.leave(until).await;
            node.crash();
            pass(long / 4).await;
            world.add(node.n);
        }
        _ => {
            for n in 0..40 {
                if node.residents.claim_of(&grain(n)).is_some_and(|c| c.shard.is_none()) && !node.is_down() {
                    node.residents.idle(&grain(n));
                }
            }
            pass(Duration::from_millis(random.below(300))).await;
        }
    }
}

async fn play(seed: u64) -> u64 {
    let world = World::new(NODES).await;
    let random = Arc::new(SeededEntropy::new(seed));
    let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
    let callers: Vec<_> = (0..6)
        .map(|_| tokio::spawn(caller(world.clone(), random.clone(), stop.clone(), answered.clone())))
        .collect();
    let end = world.clock.boottime().after(Duration::from_secs(60));
    while world.clock.boottime() < end {
        fault(&world, &random).await;
    }
    stop.store(true, Ordering::Release);
    for caller in callers {
        caller.await.unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    }
    let limit = Duration::from_secs(60);
    until_async(&format!("all serve again (seed {seed})"), async || world.all_serve(), limit).await;
    for n in 0..40 {
        for from in 1..=NODES {
            let outcome = world.call(from, &grain(n)).await;
            assert!(outcome.is_ok(), "seed {seed}: {} from {from}: {outcome:?}", grain(n));
        }
    }
    answered.load(Ordering::Relaxed)
}

/// Seeds are independent runs of 60 s each; a failing one names itself.
#[tokio::test(start_paused = true)]
async fn r1_r8_r12_one_activation_whatever_fails() {
    for seed in 1..=4 {
        let answered = play(seed).await;
        assert!(answered > 500, "seed {seed}: only {answered} calls were answered");
    }
}
