//! How activations begin and end: panics, failing activation, idleness, sessions, shards, drain.

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use common::{Bench, Kind, LONG, Probe, Service, States, boxed, envelope, grain, kind};
use millet_core::{BootTime, CallError, Clock, ErrorKind, Grant, Ran, SessionId, ShardId};
use millet_directory::Residents;
use millet_runtime::{Create, EndReason, GrainOptions};
use millet_testkit::until_async;
use tokio::sync::Notify;

struct A;
impl Kind for A {
    const NAME: &'static str = "t.A";
}
/// With a write-through state, collected quickly.
struct Short;
impl Kind for Short {
    const NAME: &'static str = "t.Short";
    fn options() -> GrainOptions {
        GrainOptions::default().idle_after(Duration::from_millis(20))
    }
    fn states(c: &mut Create<'_, Probe<Self>>) -> States {
        States { one: Some(c.state("one")), ..States::default() }
    }
}
/// Sharded, with a state.
struct Stub;
impl Kind for Stub {
    const NAME: &'static str = "t.Stub";
    fn options() -> GrainOptions {
        GrainOptions::sharded(1)
    }
    fn states(c: &mut Create<'_, Probe<Self>>) -> States {
        States {
            one: Some(c.state::<i64>("one").write_behind(Duration::from_secs(3600))),
            ..States::default()
        }
    }
}
const GRANT: Grant = Grant { generation: 1, index: 50 };

async fn stub_bench() -> Bench {
    use millet_core::store::StateStore;
    let bench = Bench::of::<Stub>();
    bench.owners.sharded.lock().insert(Stub::NAME.into(), GRANT);
    let ty = grain::<Stub>(1).ty;
    bench.store.open_shard(&ty, ShardId(0), GRANT, SessionId(1)).await.expect("opened");
    bench
}

/// Starts a turn that waits to be released. Returns what releases it, and the caller's task.
async fn hold<K: Kind>(bench: &Bench, key: u64) -> (Arc<Notify>, tokio::task::JoinHandle<common::Heard>) {
    let (entered, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (g, e, r) = (bench.get::<K>(key), entered.clone(), release.clone());
    let caller = tokio::spawn(async move {
        g.run(move |g, _| {
            boxed(async move {
                if g.states.one.is_some() {
                    **g.one() += 1;
                }
                g.plain += 1;
                e.notify_one();
                r.notified().await;
                Ok(g.value())
            })
        })
        .await
    });
    entered.notified().await;
    (release, caller)
}

fn in_10_s(bench: &Bench) -> BootTime {
    bench.clock.boottime().after(Duration::from_secs(10))
}

/// A panic answers its caller with an id, ends the activation, and the calls behind it run on the next.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_ends_one_activation_and_nothing_else() {
    let bench = Bench::of::<A>();
    bench.get::<A>(1).add(5).await.expect("runs");
    let (entered, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (g, e, r) = (bench.get::<A>(1), entered.clone(), release.clone());
    let victim = tokio::spawn(async move {
        g.run(move |_, _| {
            boxed(async move {
                e.notify_one();
                r.notified().await;
                panic!("boom (this test panics on purpose)")
            })
        })
        .await
    });
    entered.notified().await;
    let g = bench.get::<A>(1);
    let mut behind = Box::pin(async move { g.add(1).await });
    assert!(futures::poll!(&mut behind).is_pending());
    bench.get::<A>(1).tell_add(1).expect("taken");
    release.notify_one();
    let heard = victim.await.expect("the caller does not panic");
    assert!(matches!(kind(heard), ErrorKind::Panicked { id } if id != 0));
    assert_eq!(behind.await, Ok(1), "a new activation, with fresh state");
    assert_eq!(bench.get::<A>(1).get().await, Ok(2), "the tell was re-delivered too");
    assert_eq!(bench.hooks.activations.load(Ordering::SeqCst), 2);
    assert_eq!(bench.runtime.stats().panics, 1);
}

/// The third panic within a minute puts a grain into quarantine: visible, and over after a minute.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_panics_quarantine() {
    let bench = Bench::of::<A>();
    for _ in 0..3 {
        let heard = bench.get::<A>(1).run(|_, _| panic!("boom (this test panics on purpose)")).await;
        assert!(matches!(kind(heard), ErrorKind::Panicked { .. }));
        until_async("the activation has ended", async || bench.runtime.activations() == 0, LONG).await;
    }
    assert!(matches!(kind(bench.get::<A>(1).get().await), ErrorKind::Quarantined { .. }));
    assert_eq!(bench.runtime.stats().quarantined, 1);
    assert_eq!(bench.get::<A>(2).get().await, Ok(0), "others are not touched");
    bench.clock.skip(Duration::from_secs(61));
    bench.owners.thaw();
    assert_eq!(bench.get::<A>(1).get().await, Ok(0));
}

/// A failing `activate` tells every waiter why, and is not tried again before its wait is over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_activate_backs_off() {
    let bench = Bench::of::<A>();
    *bench.hooks.fail_activate.lock() = Some("no table".into());
    let waiters: Vec<_> = (0..8)
        .map(|_| {
            let g = bench.get::<A>(1);
            tokio::spawn(async move { g.get().await })
        })
        .collect();
    for w in waiters {
        assert!(
            matches!(kind(w.await.expect("no panic")), ErrorKind::ActivateFailed { why } if why.contains("no table"))
        );
    }
    let tried = bench.hooks.activations.load(Ordering::SeqCst);
    assert_eq!(tried, 1, "no hot loop");
    *bench.hooks.fail_activate.lock() = None;
    assert!(
        matches!(kind(bench.get::<A>(1).get().await), ErrorKind::ActivateFailed { why } if why.contains("next try in"))
    );
    bench.clock.skip(Duration::from_millis(1100));
    assert_eq!(bench.get::<A>(1).get().await, Ok(0));
    assert_eq!(bench.hooks.activations.load(Ordering::SeqCst), 2);
}

/// Idle activations end, saying why; the next call finds their state, under a new claim (R1).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_an_idle_activation_gives_its_grant_up_and_the_next_claims_anew() {
    let bench = Bench::of::<Short>();
    bench.get::<Short>(1).add(5).await.expect("runs");
    let first = bench.owners.grant_of(&grain::<Short>(1)).expect("held");
    until_async("it is collected", async || bench.runtime.activations() == 0, LONG).await;
    assert_eq!(bench.hooks.ends.lock()[..], [(grain::<Short>(1), EndReason::Idle)]);
    assert_eq!(bench.owners.given_up.lock()[..], [(grain::<Short>(1), first)]);
    assert_eq!(bench.get::<Short>(1).get().await, Ok(5), "its state is back");
    let second =
        bench.owners.given_up.lock().get(1).map(|(_, g)| *g).or(bench.owners.grant_of(&grain::<Short>(1)));
    assert!(second.expect("held or given up again") > first);
}

/// R1 under load: calls race with collection, the fake directory panics if a dead grant is claimed, and
/// no acknowledged addition is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn r1_calls_that_race_with_collection_never_use_a_dead_grant() {
    let bench = Bench::of::<Short>();
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let g = bench.get::<Short>(1);
            tokio::spawn(async move {
                for n in 0..200 {
                    g.add(1).await.expect("runs");
                    g.run(|_, ctx| {
                        ctx.deactivate_when_idle();
                        boxed(async { Ok(0) })
                    })
                    .await
                    .expect("runs");
                    if n % 10 == 0 {
                        tokio::task::yield_now().await;
                    }
                }
            })
        })
        .collect();
    for c in callers {
        c.await.expect("no panic");
    }
    assert_eq!(bench.get::<Short>(1).get().await, Ok(800));
    assert!(bench.owners.given_up.lock().len() > 1, "it was collected in between");
}

/// R4: a frozen session starts nothing and answers at once; outputs wait; a thaw brings all back with memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r4_a_frozen_session_refuses_and_thaws_with_its_memory() {
    let bench = Bench::of::<A>();
    bench.get::<A>(2).add(3).await.expect("runs");
    bench.owners.freeze();
    assert!(matches!(kind(bench.get::<A>(2).get().await), ErrorKind::Unavailable { .. }));
    bench.owners.thaw();
    assert_eq!(bench.get::<A>(2).get().await, Ok(3), "the same activation");
    let session = bench.owners.session();
    let heard = bench
        .get::<A>(1)
        .with_deadline(Duration::from_secs(60))
        .run({
            let (owners, session) = (bench.owners.clone(), session.clone());
            move |_, _| {
                // Past its deadline when the turn ends; renewed from elsewhere a moment later.
                let clock = owners.clone();
                owners.freeze();
                assert!(!session.valid_at(owners.now()));
                tokio::spawn(async move { clock.thaw() });
                boxed(async { Ok(9) })
            }
        })
        .await;
    assert_eq!(heard, Ok(9), "the output waited for the thaw");
}

/// R12, R13: the exit check. A turn that ends after its session did is not heard: `Unknown`, and its value
/// is dropped. The next activation lives under the new session.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r12_r13_the_output_of_a_dead_session_is_dropped() {
    let bench = Bench::of::<A>();
    let (release, caller) = hold::<A>(&bench, 1).await;
    let old = bench.owners.die();
    bench.runtime.session_ended(old);
    release.notify_one();
    let heard = caller.await.expect("no panic");
    assert_eq!(heard.as_ref().expect_err("dropped").ran(), Ran::Unknown);
    assert!(matches!(kind(heard), ErrorKind::Unknown { .. }));
    assert_eq!(bench.runtime.stats().fenced_outputs, 1);
    assert_eq!(bench.get::<A>(1).get().await, Ok(0), "a new activation");
}

/// R12(i): validity is that of the activation's own session, also when the process has a new, valid one
/// and nobody has told the runtime yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r12_a_new_session_does_not_vouch_for_an_old_activation() {
    let bench = Bench::of::<A>();
    let (release, caller) = hold::<A>(&bench, 1).await;
    bench.owners.die();
    release.notify_one();
    assert!(matches!(kind(caller.await.expect("no panic")), ErrorKind::Unknown { .. }));
}

/// R12(v): while a turn of an earlier activation runs, the grain is not activated again in this process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r12_no_second_activation_beside_a_running_turn() {
    let bench = Bench::of::<A>();
    let (release, caller) = hold::<A>(&bench, 1).await;
    let old = bench.owners.die();
    bench.runtime.session_ended(old);
    let g = bench.get::<A>(1);
    let mut next = Box::pin(async move { g.get().await });
    assert!(futures::poll!(&mut next).is_pending());
    bench.get::<A>(2).get().await.expect("others run under the new session");
    assert_eq!(bench.hooks.activations.load(Ordering::SeqCst), 2, "1 before, and the other grain");
    assert!(futures::poll!(&mut next).is_pending());
    release.notify_one();
    assert!(matches!(kind(caller.await.expect("no panic")), ErrorKind::Unknown { .. }));
    assert_eq!(next.await, Ok(0), "then it is");
    assert_eq!(bench.hooks.activations.load(Ordering::SeqCst), 3);
}

/// R13: what waits behind a running turn when the session dies did not run: it goes on elsewhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r13_queued_calls_of_a_dead_session_are_sent_elsewhere_and_run_once() {
    let bench = Bench::of::<A>();
    let other = Bench::of::<A>();
    *bench.owners.elsewhere.lock() = Some(other.runtime.clone());
    let (release, caller) = hold::<A>(&bench, 1).await;
    let g = bench.get::<A>(1);
    let mut queued = Box::pin(async move { g.add(4).await });
    assert!(futures::poll!(&mut queued).is_pending());
    let old = bench.owners.die();
    bench.runtime.session_ended(old);
    assert_eq!(queued.await, Ok(4), "the arguments came back and went the directory's road");
    assert_eq!(other.get::<A>(1).get().await, Ok(4));
    release.notify_one();
    assert!(matches!(kind(caller.await.expect("no panic")), ErrorKind::Unknown { .. }));
}

/// A claim that says `Moved` sends the arguments along the directory's road.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r13_a_refused_claim_gives_the_arguments_back() {
    let bench = Bench::of::<A>();
    let other = Bench::of::<A>();
    *bench.owners.elsewhere.lock() = Some(other.runtime.clone());
    bench
        .owners
        .refuse
        .lock()
        .insert(grain::<A>(1), ErrorKind::Moved { holder: None, node: None, grant: None });
    assert_eq!(bench.get::<A>(1).add(4).await, Ok(4));
    assert_eq!(other.get::<A>(1).get().await, Ok(4));
    assert_eq!(bench.runtime.activations(), 0);
}

/// Calls made by a turn are outputs: they do not leave after the session has died.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r12_outbound_calls_are_exit_checked() {
    let bench = Bench::of::<A>();
    let owners = bench.owners.clone();
    let said = Arc::new(parking_lot::Mutex::new(String::new()));
    let s = said.clone();
    let heard = bench
        .get::<A>(1)
        .run(move |_, ctx| {
            owners.die();
            let other = ctx.get::<Service<A>>(2);
            boxed(async move {
                *s.lock() = format!("{:?} {:?}", other.add(1).await, other.tell_add(1));
                Ok(0)
            })
        })
        .await;
    assert!(matches!(kind(heard), ErrorKind::Unknown { .. }));
    assert!(said.lock().matches("lost its lease").count() == 2, "{}", said.lock());
    assert_eq!(bench.get::<A>(2).get().await, Ok(0), "nothing arrived");
}

/// R30: a callee shown a higher grant than its own ends at once; the call is refused unrun.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r30_an_outranked_activation_ends_at_once() {
    let bench = Bench::of::<A>();
    bench.get::<A>(1).add(3).await.expect("runs");
    let mut shown = envelope::<A>(1, "Add", 1);
    shown.grant = Some(Grant { generation: 1, index: 9_999 });
    let heard = bench.runtime.dispatch(shown).await;
    assert!(matches!(heard, Err(CallError::Platform(p)) if *p.kind() == ErrorKind::Fenced));
    assert_eq!(bench.runtime.activations(), 0);
    assert_eq!(bench.get::<A>(1).get().await, Ok(0));
}

/// R11: for sharded types an older generation is told so; the turn does not run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r11_an_envelope_of_an_older_generation_is_refused() {
    let bench = stub_bench().await;
    bench.get::<Stub>(1).add(3).await.expect("runs");
    let mut old = envelope::<Stub>(1, "Add", 1);
    old.grant = Some(Grant { generation: 0, index: 9_999 });
    let heard = bench.runtime.dispatch(old).await;
    assert!(
        matches!(heard, Err(CallError::Platform(p)) if matches!(p.kind(), ErrorKind::Moved { grant: Some(GRANT), .. }))
    );
    assert_eq!(bench.get::<Stub>(1).get().await, Ok(3));
}

/// R8: a shard is closed when its turns and spawned work have ended and its changes are stored; a turn
/// that does not end in time leaves it here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r8_closing_a_shard_ends_turns_and_work_and_flushes() {
    let bench = stub_bench().await;
    let ty = grain::<Stub>(1).ty;
    let dropped = Arc::new(AtomicBool::new(false));
    struct OnDrop(Arc<AtomicBool>);
    impl Drop for OnDrop {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let work = OnDrop(dropped.clone());
    bench
        .get::<Stub>(1)
        .run(move |g, ctx| {
            **g.one() = 8;
            ctx.spawn(
                async move {
                    let _work = work;
                    std::future::pending::<()>().await;
                },
                |_, _, ()| (),
            );
            boxed(async { Ok(0) })
        })
        .await
        .expect("runs");
    assert_eq!(bench.store.count("save"), 0, "write-behind");
    let (release, caller) = hold::<Stub>(&bench, 2).await;
    let soon = bench.clock.boottime().after(Duration::from_millis(50));
    assert!(!bench.runtime.close_shard(&ty, ShardId(0), GRANT, soon).await, "a turn still runs");
    release.notify_one();
    assert_eq!(caller.await.expect("no panic"), Ok(1), "and is heard");
    assert!(bench.runtime.close_shard(&ty, ShardId(0), GRANT, in_10_s(&bench)).await);
    assert_eq!(bench.runtime.activations(), 0);
    assert!(dropped.load(Ordering::SeqCst), "spawned work has ended");
    assert!(bench.hooks.ends.lock().iter().all(|(_, why)| *why == EndReason::ShardMoved));
    assert_eq!(bench.store.count("save"), 2, "flushed");
    assert!(bench.owners.given_up.lock().is_empty(), "shards are given up by the directory");
    assert_eq!(bench.get::<Stub>(1).get().await, Ok(8));
}

/// R8: an activation whose claim was granted just before its shard is closed ends before its first turn.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r8_closing_a_shard_reaches_activations_that_are_being_born() {
    let bench = stub_bench().await;
    let ty = grain::<Stub>(1).ty;
    // Not granted at once, so that the claim is under way when the shard is closed.
    bench.owners.sharded.lock().clear();
    let (claimed, go) = bench.owners.hold_claims();
    let g = bench.get::<Stub>(1).with_deadline(Duration::from_secs(2));
    let call = tokio::spawn(async move { g.add(1).await });
    claimed.notified().await;
    let soon = bench.clock.boottime().after(Duration::from_millis(30));
    assert!(!bench.runtime.close_shard(&ty, ShardId(0), GRANT, soon).await, "it may be granted yet");
    *bench.owners.elsewhere.lock() = Some(Bench::of::<A>().runtime);
    go.notify_one();
    assert!(bench.runtime.close_shard(&ty, ShardId(0), GRANT, in_10_s(&bench)).await);
    assert_eq!(bench.runtime.stats().turns, 0, "no turn ran");
    let heard = kind(call.await.expect("no panic"));
    assert!(matches!(heard, ErrorKind::NoSuchGrain { .. }), "it was sent elsewhere: {heard:?}");
}

/// A graceful leave: every leased activation ends in good order and its claim is given up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_ends_all_leased_activations_in_good_order() {
    let bench = Bench::of::<A>();
    for key in 0..100 {
        bench.get::<A>(key).add(1).await.expect("runs");
    }
    let (release, caller) = hold::<A>(&bench, 7).await;
    let soon = bench.clock.boottime().after(Duration::from_millis(50));
    assert_eq!(bench.runtime.drain(soon).await, 1, "one turn still runs");
    release.notify_one();
    assert_eq!(bench.runtime.drain(in_10_s(&bench)).await, 0);
    assert_eq!(caller.await.expect("no panic"), Ok(2));
    assert_eq!(bench.owners.given_up.lock().len(), 100);
    assert!(bench.hooks.ends.lock().iter().all(|(_, why)| *why == EndReason::Drain));
}

/// Dropping the runtime frees its grains: several nodes live and die in one test process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_runtime_frees_its_grains() {
    let bench = Bench::of::<A>();
    bench.get::<A>(1).add(1).await.expect("runs");
    let hooks = bench.hooks.clone();
    let runtime = Arc::downgrade(&bench.runtime);
    drop(bench);
    until_async("the runtime is gone", async || runtime.strong_count() == 0, LONG).await;
    until_async("its grains are gone", async || Arc::strong_count(&hooks) == 1, LONG).await;
}

/// R12: a reference outlives its runtime, and a turn is still under way: the grain is not activated beside it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r12_a_dropped_runtime_makes_no_activation_for_who_still_holds_a_reference() {
    let bench = Bench::of::<A>();
    let (release, caller) = hold::<A>(&bench, 1).await;
    let (grain, hooks) = (bench.get::<A>(1), bench.hooks.clone());
    let runtime = Arc::downgrade(&bench.runtime);
    drop(bench);
    until_async("the runtime is gone", async || runtime.strong_count() == 0, LONG).await;
    let heard = kind(grain.add(1).await);
    assert!(matches!(heard, ErrorKind::Unavailable { .. }), "{heard:?}");
    assert_eq!(hooks.activations.load(std::sync::atomic::Ordering::SeqCst), 1);
    release.notify_one();
    // It ends with nobody to end it for; what it answers is not looked at.
    let _ = caller.await;
    drop(grain);
    until_async("its grains are gone", async || Arc::strong_count(&hooks) == 1, LONG).await;
}
