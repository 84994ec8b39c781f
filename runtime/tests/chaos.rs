//! Everything at once, with one oracle: whatever ends activations, an acknowledged addition is in the
//! store exactly once, and one with an unknown outcome at most once (G2, R1, R3, R12, R13).

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use common::{Bench, Kind, LONG, Probe, States, boxed};
use millet_core::{CallError, Ran, store::StoreError};
use millet_directory::Residents;
use millet_runtime::{Create, GrainOptions};
use millet_testkit::{SeededEntropy, until_async};

const GRAINS: u64 = 4;
/// Added by callers that stop waiting.
const TORN: i64 = 1_000_000_000;

struct Busy;
impl Kind for Busy {
    const NAME: &'static str = "t.Busy";
    fn options() -> GrainOptions {
        GrainOptions::default().idle_after(Duration::from_millis(10))
    }
    fn states(c: &mut Create<'_, Probe<Self>>) -> States {
        States { one: Some(c.state("one")), ..States::default() }
    }
}

#[derive(Default)]
struct Tally {
    acknowledged: AtomicI64,
    unknown: AtomicI64,
    not_run: AtomicI64,
}

/// One caller: additions, now and then a request to end, now and then a caller that gives up.
async fn caller(bench: Arc<Bench>, tallies: Arc<[Tally]>, stop: Arc<AtomicBool>, seed: u64) {
    let random = SeededEntropy::new(seed);
    while !stop.load(Ordering::SeqCst) {
        let key = random.below(GRAINS);
        let (grain, tally) = (bench.get::<Busy>(key), &tallies[usize::try_from(key).expect("small")]);
        match random.below(20) {
            0 => {
                let quit = grain.run(|_, ctx| {
                    ctx.deactivate_when_idle();
                    boxed(async { Ok(0) })
                });
                drop(quit.await);
            }
            1 => {
                // Whoever stops waiting does not know; counted apart, in the high digits.
                let mut torn = Box::pin(grain.add(TORN));
                drop(futures::poll!(&mut torn));
            }
            _ => {
                let heard = grain.add(1).await;
                let to = match heard.map_err(|e| CallError::ran(&e)) {
                    Ok(_) => &tally.acknowledged,
                    Err(Ran::No) => &tally.not_run,
                    Err(Ran::Yes | Ran::Unknown) => &tally.unknown,
                };
                to.fetch_add(1, Ordering::SeqCst);
            }
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn g2_acknowledged_additions_are_stored_once_whatever_ends_activations() {
    let bench = Arc::new(Bench::of::<Busy>());
    let tallies: Arc<[Tally]> = (0..GRAINS).map(|_| Tally::default()).collect();
    let stop = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> =
        (0..8).map(|n| tokio::spawn(caller(bench.clone(), tallies.clone(), stop.clone(), n))).collect();
    let random = SeededEntropy::new(99);
    for round in 0..150 {
        let acknowledged = || tallies.iter().map(|t| t.acknowledged.load(Ordering::SeqCst)).sum::<i64>();
        let before = acknowledged();
        until_async("callers get on", async || acknowledged() > before + 3, LONG).await;
        match random.below(5) {
            0 => {
                let old = bench.owners.die();
                // Sometimes nobody tells the runtime: its checks must do.
                if round % 2 == 0 {
                    bench.runtime.session_ended(old);
                }
            }
            1 => {
                bench.owners.freeze();
                tokio::task::yield_now().await;
                bench.owners.thaw();
            }
            n => {
                let failure = (StoreError::Unknown("link lost".into()), n == 2);
                bench.store.fail_saves.lock().push_back(failure);
            }
        }
    }
    stop.store(true, Ordering::SeqCst);
    for c in callers {
        c.await.expect("no panic");
    }
    bench.store.fail_saves.lock().clear();
    until_async("all is quiet", async || bench.runtime.activations() == 0, LONG).await;
    for key in 0..GRAINS {
        let t = &tallies[usize::try_from(key).expect("small")];
        let (acknowledged, unknown) =
            (t.acknowledged.load(Ordering::SeqCst), t.unknown.load(Ordering::SeqCst));
        let stored = bench.get::<Busy>(key).get().await.expect("runs") % TORN;
        assert!(
            (acknowledged..=acknowledged + unknown).contains(&stored),
            "grain {key}: {acknowledged} acknowledged, {unknown} unknown, {stored} stored"
        );
        assert!(acknowledged > 0 && unknown > 0, "grain {key}: the test tests something");
    }
}
