//! Work off the turn: spawned work, blocking work, timers. It comes back as turns and ends with its activation.

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use common::{Bench, Kind, LONG, Probe, ProbeRef, Service, States, boxed, kind};
use millet_core::ErrorKind;
use millet_directory::Residents;
use millet_runtime::{Create, Grain, GrainOptions};
use millet_testkit::until_async;
use tokio::sync::Notify;

struct A;
impl Kind for A {
    const NAME: &'static str = "t.A";
}
struct Short;
impl Kind for Short {
    const NAME: &'static str = "t.Short";
    fn options() -> GrainOptions {
        GrainOptions::default().idle_after(Duration::from_millis(10))
    }
    fn states(c: &mut Create<'_, Probe<Self>>) -> States {
        States { one: Some(c.state("one")), ..States::default() }
    }
}

struct OnDrop(Arc<AtomicBool>);
impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// All three kinds of work bring their results back as exclusive turns; what they change is saved.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spawned_work_comes_back_as_a_turn() {
    let bench = Bench::of::<Short>();
    bench
        .get::<Short>(1)
        .run(|_, ctx| {
            assert!(ctx.spawn(async { 1 }, |g, _, r: i64| **g.one() += r));
            assert!(ctx.spawn_async(async { 10 }, |g, _, r: i64| {
                Box::pin(async move {
                    let seen = **g.one();
                    tokio::task::yield_now().await;
                    **g.one() = seen + r;
                })
            }));
            assert!(ctx.spawn_blocking(|| 100, |g, _, r: i64| **g.one() += r));
            boxed(async { Ok(0) })
        })
        .await
        .expect("runs");
    until_async("all three are saved", async || bench.store.count("save") == 3, LONG).await;
    until_async("it is collected", async || bench.runtime.activations() == 0, LONG).await;
    assert_eq!(bench.get::<Short>(1).get().await, Ok(111));
}

/// Work under way keeps its activation from being collected.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_under_way_keeps_the_activation() {
    let bench = Bench::of::<Short>();
    let go = Arc::new(Notify::new());
    let g = go.clone();
    bench
        .get::<Short>(1)
        .run(move |_, ctx| {
            ctx.spawn(async move { g.notified().await }, |g, _, ()| **g.one() = 9);
            boxed(async { Ok(0) })
        })
        .await
        .expect("runs");
    // Another grain comes and goes in the meantime.
    bench.get::<Short>(2).get().await.expect("runs");
    until_async("the other is collected", async || bench.hooks.ends.lock().len() == 1, LONG).await;
    assert_eq!(bench.runtime.activations(), 1);
    go.notify_one();
    until_async("collected in the end", async || bench.runtime.activations() == 0, LONG).await;
    assert_eq!(bench.get::<Short>(1).get().await, Ok(9));
}

/// A dead session ends spawned work and timers; nothing of them runs afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_and_timers_die_with_the_activation() {
    let bench = Bench::of::<A>();
    let (dropped, ticks) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let (work, t) = (OnDrop(dropped.clone()), ticks.clone());
    bench
        .get::<A>(1)
        .run(move |_, ctx| {
            ctx.spawn(
                async move {
                    let _work = work;
                    std::future::pending::<()>().await;
                },
                |_, _, ()| (),
            );
            let every = Duration::from_millis(10);
            let timer = ctx.timer(every, Some(every), move |g, _| {
                t.fetch_add(1, Ordering::SeqCst);
                Box::pin(async move { g.plain += 1 })
            });
            assert!(timer.is_set());
            boxed(async { Ok(0) })
        })
        .await
        .expect("runs");
    until_async("it ticks", async || ticks.load(Ordering::SeqCst) >= 3, LONG).await;
    let old = bench.owners.die();
    bench.runtime.session_ended(old);
    until_async("the work is gone", async || dropped.load(Ordering::SeqCst), LONG).await;
    until_async("it has ended", async || bench.runtime.activations() == 0, LONG).await;
    let at_end = ticks.load(Ordering::SeqCst);
    // A timer of another grain, set later, fires several times: the dead one would have, too.
    let (later, t) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let l = later.clone();
    drop(t);
    bench
        .get::<A>(2)
        .run(move |_, ctx| {
            let every = Duration::from_millis(10);
            ctx.timer(every, Some(every), move |_, _| {
                l.fetch_add(1, Ordering::SeqCst);
                Box::pin(async {})
            });
            boxed(async { Ok(0) })
        })
        .await
        .expect("runs");
    until_async("the other ticks", async || later.load(Ordering::SeqCst) >= 3, LONG).await;
    assert_eq!(ticks.load(Ordering::SeqCst), at_end);
}

/// A one-shot timer fires once; a cancelled one never.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn timers_fire_and_are_cancelled() {
    let bench = Bench::of::<A>();
    bench
        .get::<A>(1)
        .run(|_, ctx| {
            let after = Duration::from_millis(20);
            ctx.timer(after, None, |g, _| Box::pin(async move { g.plain += 1 }));
            ctx.timer(after, None, |g, _| Box::pin(async move { g.plain += 100 })).cancel();
            ctx.timer(after * 2, None, |g, _| Box::pin(async move { g.plain += 10 }));
            boxed(async { Ok(0) })
        })
        .await
        .expect("runs");
    until_async("both fired", async || bench.get::<A>(1).get().await == Ok(11), LONG).await;
}

/// A panic of spawned work is seen: it ends the activation like a panic of a turn.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_of_spawned_work_ends_the_activation() {
    let bench = Bench::of::<A>();
    bench
        .get::<A>(1)
        .run(|g, ctx| {
            g.plain = 5;
            ctx.spawn(async { panic!("boom (this test panics on purpose)") }, |_, _, ()| ());
            boxed(async { Ok(0) })
        })
        .await
        .expect("runs");
    until_async("it has ended", async || bench.runtime.activations() == 0, LONG).await;
    assert_eq!(bench.get::<A>(1).get().await, Ok(0));
    assert_eq!(bench.runtime.stats().panics, 1);
}

/// G6: what one activation may have under way is bounded.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g6_spawned_work_is_bounded() {
    let bench = Bench::of::<A>();
    let taken = bench
        .get::<A>(1)
        .run(|_, ctx| {
            let taken = (0..2000).filter(|_| ctx.spawn(std::future::pending::<()>(), |_, _, ()| ())).count();
            boxed(async move { Ok(i64::try_from(taken).expect("small")) })
        })
        .await;
    assert_eq!(taken, Ok(1024));
    assert_eq!(bench.runtime.stats().spawns_refused, 976);
}

/// A detached reference belongs to no turn: spawned work may call back to a grain whose turn is over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_detached_reference_carries_no_chain() {
    let bench = Bench::of::<A>();
    bench
        .get::<A>(1)
        .run(|_, ctx| {
            let me = ctx.get::<Service<A>>(1);
            let free = me.clone().detached();
            ctx.spawn(async move { (me.add(1).await, free.add(10).await) }, |g, _, (chained, free)| {
                assert!(matches!(kind(chained), ErrorKind::CallCycle { .. }));
                g.plain += free.map_or(0, |_| 100);
            });
            boxed(async { Ok(0) })
        })
        .await
        .expect("runs");
    until_async("it came back", async || bench.get::<A>(1).get().await == Ok(110), LONG).await;
}

/// The default options are the documented ones.
#[test]
fn default_options() {
    let o = <Probe<A> as Grain>::options();
    assert_eq!(o.mailbox, 1024);
    assert_eq!(o.idle_after, Some(Duration::from_secs(900)));
}

/// Calls its grain when it is dropped.
struct TellsOnDrop(ProbeRef<A>);
impl Drop for TellsOnDrop {
    fn drop(&mut self) {
        drop(self.0.tell_add(1));
    }
}

/// G5: what a cancelled timer, or one that ends with its activation, held is dropped without a lock of its
/// activation: it may call that very grain.
#[test]
fn g5_what_a_timer_held_may_call_its_grain_as_it_is_dropped() {
    let (tx, ended) = std::sync::mpsc::channel();
    // A thread that waits for its own lock never ends: it is left behind.
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(drop_timers_that_tell());
        tx.send(()).expect("heard");
    });
    ended.recv_timeout(LONG).expect("no thread waits for a lock of its own");
}

async fn drop_timers_that_tell() {
    let bench = Bench::of::<A>();
    let grain = bench.get::<A>(1);
    let (cancelled, kept) = (TellsOnDrop(grain.clone()), TellsOnDrop(grain.clone()));
    let ran = grain.run(move |_, ctx| {
        let timer = ctx.timer(LONG, None, move |_, _| {
            let _ = &cancelled;
            Box::pin(async {})
        });
        timer.cancel();
        let timer = ctx.timer(LONG, None, move |_, _| {
            let _ = &kept;
            Box::pin(async {})
        });
        assert!(timer.is_set());
        ctx.deactivate_when_idle();
        boxed(async { Ok(0) })
    });
    ran.await.expect("runs");
    let told_again = async || {
        bench.get::<A>(1).get().await == Ok(1) && bench.hooks.activations.load(Ordering::SeqCst) == 2
    };
    until_async("the one that ended with its activation told the next", told_again, LONG).await;
}
