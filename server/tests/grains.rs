//! What callers see when a grain of their own node cannot take or run a message: an `activate` that
//! panics, a full mailbox, a tell that is lost.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use millet::{CallError, ErrorKind, Node, Ran, prelude::*};
use millet_testkit::until_async;
use tokio::sync::Semaphore;

const LIMIT: Duration = Duration::from_secs(30);

/// What the test and its grains share.
struct Hooks {
    /// A turn of `note` waits for a permit.
    gate: Semaphore,
    noted: AtomicU64,
}

/// Its key 13 cannot be activated.
pub struct Moody {
    hooks: Arc<Hooks>,
}

impl Grain for Moody {
    type Service = MoodyService;
    fn options() -> GrainOptions {
        GrainOptions::default().mailbox(8)
    }
    fn create(c: &mut Create<'_, Self>) -> Self {
        Self { hooks: Arc::clone(&c.resource::<Arc<Hooks>>()) }
    }
    async fn activate(&mut self, ctx: &Ctx<Self>) -> Result<(), String> {
        assert_ne!(*ctx.key(), Key::Int(13), "not today");
        Ok(())
    }
}

#[millet::grain(name = "test.Moody", key = int)]
impl Moody {
    /// Counts, once it is let through.
    async fn note(&mut self, _ctx: &Ctx<Self>, n: u64) {
        if let Ok(permit) = self.hooks.gate.acquire().await {
            permit.forget();
        }
        self.hooks.noted.fetch_add(n, Ordering::SeqCst);
    }
    /// Says its key.
    async fn who(&self, ctx: &Ctx<Self>) -> String {
        ctx.key().to_string()
    }
}

async fn start() -> (Node, Arc<Hooks>) {
    let hooks = Arc::new(Hooks { gate: Semaphore::new(0), noted: AtomicU64::new(0) });
    let node = Node::builder().in_memory().resource(hooks.clone()).grain::<Moody>();
    (node.start().await.expect("starts"), hooks)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_activate_that_panics_tells_every_waiter_and_hurts_nobody_else() {
    let (node, _hooks) = start().await;
    let waiters = (0..8).map(|_| async { node.get::<MoodyService>(13).who().await });
    for answer in futures::future::join_all(waiters).await {
        let Err(CallError::Platform(error)) = answer else { panic!("it came to life: {answer:?}") };
        assert_eq!(error.ran(), Ran::No);
        assert_eq!(error.grain().map(ToString::to_string).as_deref(), Some("test.Moody/13"));
        let ErrorKind::ActivateFailed { why } = error.kind() else { panic!("{error}") };
        assert!(why.contains("`activate` panicked") && why.contains("not today"), "{why}");
    }
    assert_eq!(node.get::<MoodyService>(12).who().await.as_deref(), Ok("12"));
    node.shutdown().await;
}

/// R29: of many tells each was refused, ran once, or was counted as lost.
#[tokio::test(flavor = "multi_thread")]
async fn r29_every_tell_is_refused_or_runs_once_or_is_counted_as_lost() {
    let (node, hooks) = start().await;
    let tell = |key: u64| node.get::<MoodyService>(key).tell::<moody::Note>(moody::NoteArgs { n: 1 });

    // Nothing is let through: the mailbox fills, and the sender learns of it.
    let mut taken = 0;
    let refused = loop {
        match tell(1) {
            Ok(()) => taken += 1,
            Err(refused) => break refused,
        }
    };
    assert!(matches!(refused.kind(), ErrorKind::Overloaded { .. }), "{refused}");
    assert!((8..100).contains(&taken), "{taken} were taken by a mailbox of 8");
    hooks.gate.add_permits(1000);
    until_async("what was taken runs", async || hooks.noted.load(Ordering::SeqCst) >= taken, LIMIT).await;
    // A call goes through the same mailbox: whatever was before it has run by then, and nothing twice.
    node.get::<MoodyService>(1).note(1).await.expect("answered");
    assert_eq!(hooks.noted.load(Ordering::SeqCst), taken + 1);
    assert_eq!(node.runtime().stats().tells_lost, 0);

    // This one is taken, and then there is no grain to run it.
    tell(13).expect("taken");
    until_async("the loss is counted", async || node.runtime().stats().tells_lost == 1, LIMIT).await;
    assert_eq!(hooks.noted.load(Ordering::SeqCst), taken + 1);
    node.shutdown().await;
}
