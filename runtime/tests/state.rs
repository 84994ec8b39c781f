//! Persistent state: three modes, and what becomes of it when saves fail or leases end.

mod common;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use common::{Bench, FlakyStore, Kind, LONG, Probe, States, boxed, grain, kind};
use millet_core::{
    ErrorKind, Grant, Ran, SessionId, ShardId,
    store::{StateStore, StoreError},
};
use millet_directory::Residents;
use millet_runtime::{Create, EndReason, GrainOptions};
use millet_testkit::until_async;
use tokio::sync::Semaphore;

struct Through;
impl Kind for Through {
    const NAME: &'static str = "t.Through";
    fn states(c: &mut Create<'_, Probe<Self>>) -> States {
        States { one: Some(c.state("one")), two: Some(c.state("two")), ..States::default() }
    }
}
struct Behind;
impl Kind for Behind {
    const NAME: &'static str = "t.Behind";
    fn states(c: &mut Create<'_, Probe<Self>>) -> States {
        States {
            one: Some(c.state::<i64>("one").write_behind(Duration::from_millis(30))),
            ..States::default()
        }
    }
}
struct Slow;
impl Kind for Slow {
    const NAME: &'static str = "t.Slow";
    fn states(c: &mut Create<'_, Probe<Self>>) -> States {
        States {
            one: Some(c.state::<i64>("one").write_behind(Duration::from_secs(3600))),
            ..States::default()
        }
    }
}
struct Manual;
impl Kind for Manual {
    const NAME: &'static str = "t.Manual";
    fn states(c: &mut Create<'_, Probe<Self>>) -> States {
        States { one: Some(c.state::<i64>("one").manual()), ..States::default() }
    }
}
struct Forgetful;
impl Kind for Forgetful {
    const NAME: &'static str = "t.Forgetful";
    fn states(c: &mut Create<'_, Probe<Self>>) -> States {
        States { forgotten: Some(c.state("inventory")), ..States::default() }
    }
}
struct Stub;
impl Kind for Stub {
    const NAME: &'static str = "t.Stub";
    fn options() -> GrainOptions {
        GrainOptions::sharded(1)
    }
    fn states(c: &mut Create<'_, Probe<Self>>) -> States {
        States { one: Some(c.state("one")), ..States::default() }
    }
}

/// What the store has under a slot, as JSON.
async fn stored<K: Kind>(bench: &Bench, key: u64, slot: &str) -> Option<String> {
    use millet_core::{Epoch, store::Token};
    let epoch = Epoch { grant: Grant { generation: 9, index: 0 }, activation: 0 };
    let peek = bench.store.inner.open(&grain::<K>(key), slot, Token { epoch, session: SessionId(9) }).await;
    peek.expect("opens").value.map(|b| String::from_utf8(b.to_vec()).expect("JSON"))
}

/// Ends the activation in good order and waits for it.
async fn end<K: Kind>(bench: &Bench, key: u64) {
    let quit = bench.get::<K>(key).run(|_, ctx| {
        ctx.deactivate_when_idle();
        boxed(async { Ok(0) })
    });
    quit.await.expect("runs");
    until_async("it has ended", async || bench.runtime.activations() == 0, LONG).await;
}

/// Write-through: stored before the reply leaves; reads and unchanged turns save nothing; it comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn write_through_is_stored_before_the_reply() {
    let bench = Bench::of::<Through>();
    let gate = Arc::new(Semaphore::new(0));
    *bench.store.gate.lock() = Some(gate.clone());
    let g = bench.get::<Through>(1);
    let mut call = Box::pin(async move { g.add(5).await });
    assert!(futures::poll!(&mut call).is_pending());
    until_async("the save is asked for", async || bench.store.count("save") == 1, LONG).await;
    assert!(futures::poll!(&mut call).is_pending(), "no reply before the store has answered");
    gate.add_permits(1);
    assert_eq!(call.await, Ok(5));
    assert_eq!(bench.get::<Through>(1).get().await, Ok(5));
    assert_eq!(bench.store.count("save"), 1, "one changed state, one save");
    end::<Through>(&bench, 1).await;
    assert_eq!(bench.get::<Through>(1).get().await, Ok(5));
    assert_eq!(stored::<Through>(&bench, 1, "one").await.as_deref(), Some("5"));
}

/// Write-behind: many changes, one save, and the last value is stored; also at an orderly end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn write_behind_saves_after_its_interval_and_at_the_end() {
    let bench = Bench::of::<Behind>();
    for _ in 0..50 {
        bench.get::<Behind>(1).add(1).await.expect("runs");
    }
    until_async("a save", async || bench.store.count("save") > 0, LONG).await;
    until_async(
        "it is clean",
        async || bench.runtime.stats().saves as usize == bench.store.count("save"),
        LONG,
    )
    .await;
    assert!(bench.store.count("save") < 10, "batched");
    let slow = Bench::of::<Slow>();
    slow.get::<Slow>(1).add(3).await.expect("runs");
    assert_eq!(slow.store.count("save"), 0);
    end::<Slow>(&slow, 1).await;
    assert_eq!(slow.store.count("save"), 1);
    assert_eq!(slow.get::<Slow>(1).get().await, Ok(3));
}

/// Manual: saved when told, cleared when told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn manual_saves_when_told() {
    let bench = Bench::of::<Manual>();
    bench.get::<Manual>(1).add(3).await.expect("runs");
    assert_eq!(bench.store.count("save"), 0);
    let save = bench.get::<Manual>(1).run(|g, ctx| {
        boxed(async move {
            g.one().save(ctx).await.map_err(|e| e.to_string())?;
            **g.one() += 100;
            Ok(0)
        })
    });
    save.await.expect("saved");
    end::<Manual>(&bench, 1).await;
    assert_eq!(bench.get::<Manual>(1).get().await, Ok(3), "the change after the save is gone");
    let clear = bench
        .get::<Manual>(1)
        .run(|g, ctx| boxed(async move { g.one().clear(ctx).await.map(|()| 0).map_err(|e| e.to_string()) }));
    clear.await.expect("cleared");
    end::<Manual>(&bench, 1).await;
    assert_eq!(bench.get::<Manual>(1).get().await, Ok(0));
}

/// R3: a save with an unknown outcome ends the activation, its caller hears `Unknown`, and the next
/// activation opens with a higher number before it reads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r3_a_save_with_unknown_outcome_ends_the_activation() {
    for done in [false, true] {
        let bench = Bench::of::<Through>();
        bench.get::<Through>(1).add(5).await.expect("runs");
        bench.store.fail_saves.lock().push_back((StoreError::Unknown("link lost".into()), done));
        let heard = bench.get::<Through>(1).add(1).await;
        assert_eq!(heard.as_ref().expect_err("unknown").ran(), Ran::Unknown);
        let after = bench.get::<Through>(1).get().await.expect("a new activation");
        assert_eq!(after, if done { 6 } else { 5 }, "what the store has, not what memory had");
        let opens: Vec<_> = bench.store.log.lock().iter().filter(|l| l.0 == "open").map(|l| l.2).collect();
        assert_eq!(opens, [1, 1, 2, 2], "opened again, with a higher number");
        assert_eq!(bench.get::<Through>(1).add(1).await, Ok(after + 1));
        assert_eq!(bench.runtime.stats().saves_failed, 1);
    }
}

/// R13: the turn ran, whatever the store says of its save; another state of the turn may be stored already.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r13_a_turn_whose_state_is_refused_as_too_large_is_not_said_to_have_not_run() {
    let bench = Bench::of::<Through>();
    bench.get::<Through>(1).add(5).await.expect("runs");
    bench.store.fail_saves.lock().push_back((StoreError::TooLarge { bytes: 9, limit: 8 }, false));
    let heard = bench.get::<Through>(1).add(1).await.expect_err("refused");
    assert_eq!(heard.ran(), Ran::Unknown, "{heard:?}");
    assert!(heard.to_string().contains("of 9 bytes"), "{heard}");
    assert_eq!(bench.get::<Through>(1).get().await, Ok(5));
}

/// R3: a dropped future of a save leaves its outcome unknown, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r3_a_dropped_save_ends_the_activation() {
    let bench = Bench::of::<Manual>();
    *bench.store.gate.lock() = Some(Arc::new(Semaphore::new(0)));
    let torn = bench.get::<Manual>(1).run(|g, ctx| {
        **g.one() = 5;
        boxed(async move {
            let given_up = tokio::time::timeout(Duration::from_millis(10), g.one().save(ctx)).await;
            assert!(given_up.is_err());
            Ok(1)
        })
    });
    assert!(matches!(kind(torn.await), ErrorKind::Unknown { .. }));
    *bench.store.gate.lock() = None;
    assert_eq!(bench.get::<Manual>(1).get().await, Ok(0));
    assert_eq!(bench.hooks.activations.load(Ordering::SeqCst), 2);
}

/// R3, sharded: activations load under the shard's floor; after an unknown outcome the next one opens.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r3_a_sharded_grain_opens_after_an_unknown_outcome() {
    let bench = Bench::of::<Stub>();
    let grant = Grant { generation: 1, index: 50 };
    bench.owners.sharded.lock().insert(Stub::NAME.into(), grant);
    bench.store.open_shard(&grain::<Stub>(1).ty, ShardId(0), grant, SessionId(1)).await.expect("opened");
    bench.get::<Stub>(1).add(5).await.expect("runs");
    end::<Stub>(&bench, 1).await;
    bench.get::<Stub>(1).add(5).await.expect("runs");
    assert_eq!((bench.store.count("load"), bench.store.count("open")), (2, 0), "activation writes nothing");
    bench.store.fail_saves.lock().push_back((StoreError::Unknown("link lost".into()), true));
    assert!(matches!(kind(bench.get::<Stub>(1).add(1).await), ErrorKind::Unknown { .. }));
    assert_eq!(bench.get::<Stub>(1).get().await, Ok(11));
    assert_eq!((bench.store.count("load"), bench.store.count("open")), (2, 1));
    end::<Stub>(&bench, 1).await;
    bench.get::<Stub>(1).get().await.expect("runs");
    assert_eq!((bench.store.count("load"), bench.store.count("open")), (3, 1), "settled");
}

/// A store that does nothing for a while is asked again; one that fences ends the activation.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r13_a_fenced_save_is_unknown_and_an_unavailable_store_is_asked_again() {
    let bench = Bench::of::<Through>();
    {
        let mut opens = bench.store.fail_opens.lock();
        opens.push_back(StoreError::Unavailable("electing".into()));
        opens.push_back(StoreError::Unknown("link lost".into()));
        bench.store.fail_saves.lock().push_back((StoreError::Unavailable("electing".into()), false));
    }
    assert_eq!(bench.get::<Through>(1).add(5).await, Ok(5));
    // Another activation, elsewhere, has opened the grain.
    assert_eq!(stored::<Through>(&bench, 1, "one").await.as_deref(), Some("5"));
    assert!(matches!(kind(bench.get::<Through>(1).add(1).await), ErrorKind::Unknown { .. }));
    until_async("it has ended", async || bench.runtime.activations() == 0, LONG).await;
    assert_eq!(stored::<Through>(&bench, 1, "one").await.as_deref(), Some("5"));
}

/// R25: every state's store is opened at birth, before anything is written to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r25_every_store_is_opened_before_its_first_write() {
    let bench = Bench::of::<Through>();
    bench.get::<Through>(1).add(5).await.expect("runs");
    let log: Vec<_> = bench.store.log.lock().iter().map(|(what, slot, _)| format!("{what} {slot}")).collect();
    assert_eq!(log, ["open one", "open two", "save one"]);
}

/// R28: on lease loss changed state is dropped, counted, never saved.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r28_dirty_state_of_a_dead_session_is_dropped_and_counted() {
    let bench = Bench::of::<Slow>();
    for key in 0..3 {
        bench.get::<Slow>(key).add(1).await.expect("runs");
    }
    let old = bench.owners.die();
    bench.runtime.session_ended(old);
    until_async("all have ended", async || bench.runtime.activations() == 0, LONG).await;
    assert_eq!(bench.store.count("save"), 0, "never saved");
    assert_eq!(bench.runtime.stats().dirty_dropped, 3);
    assert!(bench.hooks.ends.lock().is_empty(), "no `deactivate` without a lease");
    assert_eq!(bench.get::<Slow>(1).get().await, Ok(0));
}

/// R12: saves are outputs. A turn whose session died saves nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r12_saves_are_exit_checked() {
    let bench = Bench::of::<Through>();
    let owners = bench.owners.clone();
    let heard = bench
        .get::<Through>(1)
        .run(move |g, _| {
            **g.one() = 7;
            owners.die();
            boxed(async { Ok(7) })
        })
        .await;
    assert!(matches!(kind(heard), ErrorKind::Unknown { .. }));
    assert_eq!(bench.store.count("save"), 0);
    assert_eq!(bench.get::<Through>(1).get().await, Ok(0));
}

/// A state that `persist` does not visit would be neither loaded nor saved: refused, with its name and the fix.
#[tokio::test]
async fn a_state_that_is_not_visited_is_refused() {
    let bench = Bench::of::<Forgetful>();
    let ErrorKind::ActivateFailed { why } = kind(bench.get::<Forgetful>(1).get().await) else {
        panic!("activated")
    };
    assert!(why.contains("\"inventory\"") && why.contains("millet::states!"), "{why}");
}

/// What is stored and cannot be read fails the activation with the state's name, and is not overwritten.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unreadable_state_is_an_error_and_stays() {
    use millet_core::{
        Epoch,
        store::{Token, Version, Write},
    };
    let store = Arc::new(FlakyStore::default());
    let id = grain::<Through>(1);
    let token = Token { epoch: Epoch::default(), session: SessionId(1) };
    let write = Write { grain: &id, slot: "one", shard: None, token, version: Version(0) };
    store.inner.open(&id, "one", token).await.expect("opens");
    store.inner.save(write, bytes::Bytes::from_static(b"\"text\"")).await.expect("saved");
    let bench = Bench::with_store(store, |b| b.grain::<Probe<Through>>());
    let ErrorKind::ActivateFailed { why } = kind(bench.get::<Through>(1).get().await) else {
        panic!("activated")
    };
    assert!(why.contains("\"one\""), "{why}");
    assert_eq!(stored::<Through>(&bench, 1, "one").await.as_deref(), Some("\"text\""));
}

/// A drain stores what is changed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_flushes() {
    use millet_core::Clock;
    let bench = Bench::of::<Slow>();
    bench.get::<Slow>(1).add(4).await.expect("runs");
    let until = bench.clock.boottime().after(Duration::from_secs(10));
    assert_eq!(bench.runtime.drain(until).await, 0);
    assert_eq!(bench.hooks.ends.lock()[..], [(grain::<Slow>(1), EndReason::Drain)]);
    assert_eq!(stored::<Slow>(&bench, 1, "one").await.as_deref(), Some("4"));
}
