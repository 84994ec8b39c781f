//! How turns run: exclusive, shared, chains, deadlines, cancellation, bounds.

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use common::{Bench, Heard, Kind, LONG, Service, boxed, envelope, kind};
use millet_core::{CallError, ErrorKind, Ran, limits};
use millet_directory::Residents;
use millet_runtime::GrainOptions;
use millet_testkit::until_async;
use tokio::{
    sync::{Barrier, Notify, Semaphore},
    task::JoinHandle,
};

struct A;
impl Kind for A {
    const NAME: &'static str = "t.A";
}
struct B;
impl Kind for B {
    const NAME: &'static str = "t.B";
}
struct Small;
impl Kind for Small {
    const NAME: &'static str = "t.Small";
    fn options() -> GrainOptions {
        GrainOptions::default().mailbox(3)
    }
}

/// A turn of grain 1 that has begun, and what lets it end.
async fn held<K: Kind>(bench: &Bench) -> (JoinHandle<Heard>, Arc<Notify>) {
    let (entered, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (grain, e, r) = (bench.get::<K>(1), entered.clone(), release.clone());
    let turn = tokio::spawn(grain.run(move |_, _| {
        boxed(async move {
            e.notify_one();
            r.notified().await;
            Ok(0)
        })
    }));
    entered.notified().await;
    (turn, release)
}

/// R14: ids are drawn in copies of a counter, one for some threads each: no two calls have the same.
#[test]
fn r14_calls_of_many_threads_have_ids_of_their_own() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads");
    let entered = runtime.enter();
    let bench = Bench::of::<A>();
    let seen = Arc::new(parking_lot::Mutex::new(std::collections::HashSet::new()));
    std::thread::scope(|threads| {
        for thread in 0..40 {
            let (seen, grain, handle) = (seen.clone(), bench.get::<A>(thread), runtime.handle().clone());
            threads.spawn(move || {
                for _ in 0..50 {
                    let seen = seen.clone();
                    let call = grain.run(move |_, ctx| {
                        let id = ctx.request_id();
                        boxed(async move {
                            seen.lock().insert(id);
                            Ok(0)
                        })
                    });
                    handle.block_on(call).expect("runs");
                }
            });
        }
    });
    assert_eq!(seen.lock().len(), 40 * 50);
    drop(entered);
}

/// Exclusive turns never interleave: a read-modify-write over an await is exact under many senders.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn exclusive_turns_are_exact_under_many_senders() {
    let bench = Bench::of::<A>();
    let senders: Vec<_> = (0..32)
        .map(|_| {
            let grain = bench.get::<A>(1);
            tokio::spawn(async move {
                for _ in 0..100 {
                    grain
                        .run(move |g, _| {
                            boxed(async move {
                                let seen = g.plain;
                                tokio::task::yield_now().await;
                                g.plain = seen + 1;
                                Ok(0)
                            })
                        })
                        .await
                        .expect("runs");
                }
            })
        })
        .collect();
    for s in senders {
        s.await.expect("no panic");
    }
    assert_eq!(bench.get::<A>(1).get().await, Ok(3200));
    assert_eq!(bench.hooks.activations.load(Ordering::SeqCst), 1, "single flight");
    assert_eq!(bench.owners.claims.load(Ordering::SeqCst), 1);
}

/// Shared turns overlap one another: each waits for all the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shared_turns_overlap() {
    let bench = Bench::of::<A>();
    let barrier = Arc::new(Barrier::new(8));
    let readers: Vec<_> = (0..8)
        .map(|_| {
            let (grain, barrier) = (bench.get::<A>(1), barrier.clone());
            tokio::spawn(async move {
                grain
                    .look(move |_, _| {
                        boxed(async move {
                            barrier.wait().await;
                            Ok(1)
                        })
                    })
                    .await
            })
        })
        .collect();
    for r in readers {
        assert_eq!(tokio::time::timeout(LONG, r).await.expect("they meet").expect("no panic"), Ok(1));
    }
}

/// A writer waits until the readers have ended, and no reader that came later goes ahead of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_excludes_readers_and_is_not_starved_by_them() {
    let bench = Bench::of::<A>();
    let (entered, release) = (Arc::new(Notify::new()), Arc::new(Semaphore::new(0)));
    let reader = || {
        let (grain, entered, release) = (bench.get::<A>(1), entered.clone(), release.clone());
        async move {
            grain
                .look(move |g, _| {
                    let seen = g.plain;
                    boxed(async move {
                        entered.notify_one();
                        release.acquire().await.expect("open").forget();
                        assert_eq!(g.plain, seen, "a writer ran beside a reader");
                        Ok(seen)
                    })
                })
                .await
        }
    };
    let first = tokio::spawn(reader());
    entered.notified().await;
    // Both are in the mailbox before the first reader may end: the writer first.
    bench.get::<A>(1).tell_add(7).expect("taken");
    let mut second = Box::pin(reader());
    assert!(futures::poll!(&mut second).is_pending());
    release.add_permits(2);
    assert_eq!(first.await.expect("no panic"), Ok(0));
    assert_eq!(second.await, Ok(7), "the later reader runs after the writer");
}

/// Nothing a caller does can drop a turn half-way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_caller_does_not_tear_a_turn() {
    let bench = Bench::of::<A>();
    let (entered, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (grain, e, r) = (bench.get::<A>(1), entered.clone(), release.clone());
    let caller = tokio::spawn(async move {
        grain
            .run(move |g, _| {
                boxed(async move {
                    g.plain = 1;
                    e.notify_one();
                    r.notified().await;
                    g.plain = 2;
                    Ok(0)
                })
            })
            .await
    });
    entered.notified().await;
    caller.abort();
    assert!(caller.await.expect_err("aborted").is_cancelled());
    release.notify_one();
    assert_eq!(bench.get::<A>(1).get().await, Ok(2));
}

/// G5: no turn starts after its deadline; the error names what was in the way and says that it did not run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g5_a_turn_never_starts_after_its_deadline() {
    let bench = Bench::of::<A>();
    let (slow, release) = held::<A>(&bench).await;
    bench.clock.skip(Duration::from_millis(10));
    let ran = Arc::new(AtomicBool::new(false));
    let (grain, r) = (bench.get::<A>(1).with_deadline(Duration::from_millis(40)), ran.clone());
    let heard = grain
        .run(move |_, _| {
            r.store(true, Ordering::SeqCst);
            boxed(async { Ok(0) })
        })
        .await;
    let error = heard.expect_err("too late");
    assert_eq!(error.ran(), Ran::No);
    assert!(error.to_string().contains("t.A/1.Do for"), "{error}");
    release.notify_one();
    slow.await.expect("no panic").expect("runs");
    bench.get::<A>(1).get().await.expect("the queue is empty now");
    assert!(!ran.load(Ordering::SeqCst), "it must not start after its deadline");
    assert_eq!(bench.runtime.stats().expired, 1);
}

/// A call that did start and is not done by its deadline is `Unknown`, and names the turn.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g5_a_started_call_is_unknown_at_its_deadline() {
    let bench = Bench::of::<A>();
    let release = Arc::new(Notify::new());
    let r = release.clone();
    let grain = bench.get::<A>(1).with_deadline(Duration::from_millis(30));
    let heard = grain
        .run(move |_, _| {
            boxed(async move {
                r.notified().await;
                Ok(0)
            })
        })
        .await;
    assert!(matches!(kind(heard), ErrorKind::Unknown { why } if why.contains("t.A/1.Do")));
    release.notify_one();
    bench.get::<A>(1).get().await.expect("still alive");
}

/// A deadline that has passed already: nothing is activated.
#[tokio::test]
async fn a_deadline_in_the_past_is_refused() {
    let bench = Bench::of::<A>();
    let heard = bench.get::<A>(1).with_deadline(Duration::ZERO).get().await;
    assert!(matches!(kind(heard), ErrorKind::DeadlineExceeded { .. }));
}

/// A grain that calls itself, directly or through another, is told at once, with the chain.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_cycle_is_an_error_at_once() {
    let bench = Bench::new(|b| b.grain::<common::Probe<A>>().grain::<common::Probe<B>>());
    let heard = bench
        .get::<A>(1)
        .run(|_, ctx| {
            let me = ctx.get::<Service<A>>(1);
            boxed(async move { me.add(1).await.map_err(|e| e.to_string()) })
        })
        .await;
    assert_eq!(heard, Err(CallError::App("t.A/1: the call would wait for itself: t.A/1 -> t.A/1".into())));
    let heard = bench
        .get::<A>(1)
        .run(|_, ctx| {
            let b = ctx.get::<Service<B>>(2);
            boxed(async move {
                let r = b.run(|_, ctx| {
                    let a = ctx.get::<Service<A>>(1);
                    boxed(async move { a.get().await.map_err(|e| e.to_string()) })
                });
                r.await.map_err(|e| e.to_string())
            })
        })
        .await;
    let Err(CallError::App(said)) = heard else { panic!("{heard:?}") };
    assert!(said.contains("t.A/1 -> t.B/2 -> t.A/1"), "{said}");
}

/// Shared turns may come back to a grain that waits in a shared turn, also past a waiting writer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shared_turns_may_re_enter() {
    let bench = Bench::new(|b| b.grain::<common::Probe<A>>().grain::<common::Probe<B>>());
    bench.get::<A>(1).add(5).await.expect("runs");
    let (entered, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (a, e, g) = (bench.get::<A>(1), entered.clone(), go.clone());
    let outer = tokio::spawn(async move {
        a.look(move |_, ctx| {
            let b = ctx.get::<Service<B>>(2);
            boxed(async move {
                e.notify_one();
                g.notified().await;
                let r = b.look(|_, ctx| {
                    let a = ctx.get::<Service<A>>(1);
                    boxed(async move { a.get().await.map_err(|e| e.to_string()) })
                });
                r.await.map_err(|e| e.to_string())
            })
        })
        .await
    });
    entered.notified().await;
    bench.get::<A>(1).tell_add(1).expect("taken");
    go.notify_one();
    assert_eq!(tokio::time::timeout(LONG, outer).await.expect("no deadlock").expect("no panic"), Ok(5));
    assert_eq!(bench.get::<A>(1).get().await, Ok(6));
}

/// A full mailbox refuses with `Overloaded`, which did not run; what it took is run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g6_a_full_mailbox_refuses() {
    let bench = Bench::of::<Small>();
    let (slow, release) = held::<Small>(&bench).await;
    for _ in 0..3 {
        bench.get::<Small>(1).tell_add(1).expect("there is room for three");
    }
    let refused = bench.get::<Small>(1).tell_add(1).expect_err("full");
    assert!(matches!(refused.kind(), ErrorKind::Overloaded { .. }), "{refused}");
    assert!(matches!(kind(bench.get::<Small>(1).add(1).await), ErrorKind::Overloaded { .. }));
    release.notify_one();
    slow.await.expect("no panic").expect("runs");
    assert_eq!(bench.get::<Small>(1).get().await, Ok(3));
    assert_eq!(bench.runtime.stats().overloaded, 2);
}

/// Calls in wire form run the same turns; wrong ones are refused with their name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wire_calls_take_the_same_road() {
    let bench = Bench::of::<A>();
    bench.owners.prefers_here.store(false, Ordering::SeqCst);
    assert_eq!(bench.get::<A>(1).add(5).await, Ok(5), "encoded, through the directory");
    assert_eq!(bench.owners.remote_calls.load(Ordering::SeqCst), 1);
    assert_eq!(bench.get::<A>(1).add(1).await, Ok(6), "found in the catalog");
    assert_eq!(bench.owners.remote_calls.load(Ordering::SeqCst), 1);
    let text = millet_core::Key::text("x").expect("a key");
    let heard = bench.runtime.get::<Service<A>>(text).get().await;
    assert!(matches!(kind(heard), ErrorKind::BadKey { .. }));
}

/// Effect keys name request and effect: the same when a request is retried, in the first grain and in
/// those it calls; different for every call of one turn.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r14_effect_keys_survive_a_retry() {
    let bench = Bench::of::<A>();
    for _ in 0..2 {
        bench.runtime.dispatch(envelope::<A>(1, "Relay", 2)).await.expect("runs");
    }
    let keys = bench.hooks.effects.lock().clone();
    assert_eq!(keys.len(), 4);
    assert_eq!(keys[..2], keys[2..], "a retry repeats the keys");
    assert_ne!(keys[0], keys[1], "two calls of one turn differ");
    assert_ne!(keys[0].request.0, 77, "a nested call has a request of its own");
    bench.get::<A>(2).add(1).await.expect("runs");
    bench.get::<A>(2).add(1).await.expect("runs");
    let keys = bench.hooks.effects.lock().clone();
    assert_ne!(keys[4], keys[5], "two requests differ");
}

/// Nested calls inherit what is left of the deadline.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nested_calls_inherit_the_deadline() {
    let bench = Bench::of::<A>();
    let heard = bench
        .get::<A>(1)
        .with_deadline(Duration::from_secs(3))
        .run(|_, ctx| {
            let other = ctx.get::<Service<A>>(2).with_deadline(Duration::from_secs(50));
            boxed(async move {
                let left = other.run(|_, ctx| {
                    let ms = i64::try_from(ctx.deadline_left().as_millis()).expect("small");
                    boxed(async move { Ok(ms) })
                });
                left.await.map_err(|e| e.to_string())
            })
        })
        .await;
    let left = heard.expect("runs");
    assert!(left > 0 && left <= 3000, "{left} ms left");
}

/// A shared call that is refused as it comes to the readers under way (here: too late) does not cost the
/// next one its wake-up: that one still joins them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g5_a_reader_refused_on_joining_loses_no_wake_up() {
    let bench = Bench::of::<A>();
    let (started, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (s, w) = (started.clone(), go.clone());
    let open = tokio::spawn(bench.get::<A>(1).look(move |_, _| {
        boxed(async move {
            s.notify_one();
            w.notified().await;
            Ok(1)
        })
    }));
    started.notified().await;
    let mut late = envelope::<A>(1, "Get", 0);
    late.deadline = bench.owners.now();
    drop(bench.runtime.dispatch(late));
    until_async("the late one is refused", async || bench.runtime.stats().expired == 1, LONG).await;
    let joins = tokio::time::timeout(LONG / 2, bench.get::<A>(1).get()).await;
    assert_eq!(joins.expect("joins the open reader"), Ok(0));
    go.notify_one();
    assert_eq!(open.await.expect("no panic"), Ok(1));
}

/// Tells wait for nobody, so nothing but their number slows their sender down: one over the limit is
/// refused, and says so.
#[tokio::test]
async fn g6_tells_on_their_way_are_bounded() {
    let bench = Bench::of::<A>();
    bench.owners.prefers_here.store(false, Ordering::SeqCst);
    bench.owners.stuck.store(true, Ordering::SeqCst);
    let far = bench.get::<A>(1);
    for _ in 0..limits::TELLS {
        far.tell_add(1).expect("on its way");
    }
    let refused = far.tell_add(1).expect_err("one too many");
    assert!(matches!(refused.kind(), ErrorKind::Overloaded { .. }), "{refused}");
}
