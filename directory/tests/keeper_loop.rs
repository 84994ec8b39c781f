//! The keeper's driver over a link that is made by hand: it starts, renews, hedges, and ends.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use millet_core::{
    BootTime, BoxFuture, Clock, NodeId, Revision, SessionId,
    model::{Keepalive, KeepaliveAnswer, NodeInfo, OpenSession, OpenedSession, Verdict},
};
use millet_directory::{
    Keeper, KeeperEvent, KeeperIdentity, KeeperLink, KeeperSettings, MetaError, Vitals, keeper_loop,
};
use millet_testkit::until_async;
use parking_lot::Mutex;

const TTL: Duration = Duration::from_secs(4);
const SOON: Duration = Duration::from_secs(30);

struct TokioClock(tokio::time::Instant);
impl Clock for TokioClock {
    fn boottime(&self) -> BootTime {
        BootTime(0).after(self.0.elapsed())
    }
    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
    fn wall_ms(&self) -> u64 {
        0
    }
}

/// Three members; only the living ones answer.
struct Link {
    dead: AtomicBool,
    alive: [AtomicBool; 3],
    sent: [AtomicUsize; 3],
}
impl KeeperLink for Link {
    fn members(&self) -> usize {
        3
    }
    fn open(&self, open: OpenSession) -> BoxFuture<'_, Result<OpenedSession, MetaError>> {
        Box::pin(async move { Ok(OpenedSession { session: SessionId(1), ttl: open.ttl, worker: None }) })
    }
    fn keepalive(&self, member: usize, k: Keepalive) -> BoxFuture<'_, Result<KeepaliveAnswer, MetaError>> {
        Box::pin(async move {
            self.sent[member].fetch_add(1, Ordering::Relaxed);
            if !self.alive[member].load(Ordering::Acquire) {
                std::future::pending::<()>().await;
            }
            Ok(KeepaliveAnswer {
                session: k.session,
                number: k.number,
                verdict: if self.dead.load(Ordering::Acquire) { Verdict::Dead } else { Verdict::Renewed },
                revision: Revision(0),
                ended: Some(Vec::new()),
                reserved_ms: 0,
                cluster_ms: 0,
            })
        })
    }
}

struct Rig {
    link: Arc<Link>,
    vitals: Arc<Vitals>,
    events: Arc<Mutex<Vec<KeeperEvent>>>,
    fatal: Arc<Mutex<Option<String>>>,
    task: tokio::task::JoinHandle<()>,
}

fn start() -> Rig {
    let clock = Arc::new(TokioClock(tokio::time::Instant::now()));
    let link = Arc::new(Link {
        dead: AtomicBool::new(false),
        alive: [true, true, true].map(AtomicBool::new),
        sent: Default::default(),
    });
    let vitals = Arc::<Vitals>::default();
    let events: Arc<Mutex<Vec<KeeperEvent>>> = Arc::default();
    let fatal: Arc<Mutex<Option<String>>> = Arc::default();
    let node = NodeInfo {
        id: NodeId(1),
        name: String::new(),
        peer_addr: String::new(),
        api_addr: String::new(),
        types: Vec::new(),
    };
    let (told, failed) = (events.clone(), fatal.clone());
    let task = tokio::spawn(keeper_loop(
        Keeper::new(KeeperSettings { ttl: TTL }),
        KeeperIdentity { incarnation: 1, node },
        link.clone(),
        clock,
        vitals.clone(),
        move |event| {
            if matches!(event, KeeperEvent::Ended(_)) {
                let ready = |e: &KeeperEvent| match e {
                    KeeperEvent::Ready { session, .. } => Some(session.clone()),
                    _ => None,
                };
                let lease = told.lock().iter().find_map(ready);
                assert!(lease.is_none_or(|l| l.is_dead()), "the lease dies before anybody is told (R12)");
            }
            told.lock().push(event);
        },
        move |why| *failed.lock() = Some(why),
    ));
    Rig { link, vitals, events, fatal, task }
}

impl Rig {
    fn lease(&self) -> Option<Arc<millet_core::SessionLease>> {
        self.events.lock().iter().find_map(|e| match e {
            KeeperEvent::Ready { session, .. } => Some(session.clone()),
            _ => None,
        })
    }
    fn has(&self, wanted: fn(&KeeperEvent) -> bool) -> bool {
        self.events.lock().iter().any(wanted)
    }
    /// Lets the keeper run for a while, with a main runtime that is well.
    async fn run(&self, time: Duration) {
        let end = tokio::time::Instant::now() + time;
        let passed = async || {
            self.vitals.beat(0, 0);
            tokio::time::Instant::now() >= end
        };
        until_async("time passes", passed, time * 2).await;
    }
}

/// One member dead, then two: hedged keepalives find the living one and nothing ever freezes.
#[tokio::test(start_paused = true)]
async fn r5_dead_members_do_not_freeze_a_node() {
    let rig = start();
    until_async("ready", async || rig.lease().is_some(), SOON).await;
    for dead in [0, 1] {
        rig.link.alive[dead].store(false, Ordering::Release);
        rig.run(Duration::from_secs(10)).await;
    }
    assert!(!rig.has(|e| matches!(e, KeeperEvent::Frozen(_))));
    let others: usize = [0, 1].iter().map(|m| rig.link.sent[*m].load(Ordering::Relaxed)).sum();
    assert!(others < 60, "{others}: once found, the living member is asked first");
    rig.vitals.stop();
    rig.task.await.expect("ends");
}

/// All members silent: frozen at the local deadline, thawed by the first answer, same session.
#[tokio::test(start_paused = true)]
async fn r4_the_driver_freezes_and_thaws_the_lease() {
    let rig = start();
    until_async("ready", async || rig.lease().is_some(), SOON).await;
    let lease = rig.lease().expect("ready");
    rig.link.alive.iter().for_each(|a| a.store(false, Ordering::Release));
    rig.run(Duration::from_secs(9)).await;
    assert!(rig.has(|e| matches!(e, KeeperEvent::Frozen(SessionId(1)))));
    assert!(!lease.is_dead());
    rig.link.alive[2].store(true, Ordering::Release);
    rig.run(Duration::from_secs(1)).await;
    assert!(rig.has(|e| matches!(e, KeeperEvent::Thawed(SessionId(1)))));
    assert!(!rig.has(|e| matches!(e, KeeperEvent::Ended(_))));
    rig.vitals.stop();
    rig.task.await.expect("ends");
}

/// Dead: the lease object dies first, then everyone is told, then a new session is asked for.
#[tokio::test(start_paused = true)]
async fn r12_a_dead_session_takes_its_lease_object_with_it() {
    let rig = start();
    until_async("ready", async || rig.lease().is_some(), SOON).await;
    rig.link.dead.store(true, Ordering::Release);
    rig.run(Duration::from_secs(1)).await;
    assert!(rig.has(|e| matches!(e, KeeperEvent::Ended(_))));
    rig.vitals.stop();
    rig.task.await.expect("the check in the callback held");
}

/// A main runtime that hangs: after ten seconds nothing is renewed any more, and the process is to abort.
#[tokio::test(start_paused = true)]
async fn r26_a_hung_runtime_is_given_up() {
    let rig = start();
    rig.run(Duration::from_secs(20)).await;
    assert!(rig.fatal.lock().is_none(), "all is well");
    until_async("the watchdog bites", async || rig.fatal.lock().is_some(), Duration::from_secs(11)).await;
    rig.task.await.expect("ends");
    let sent: usize = rig.link.sent.iter().map(|s| s.load(Ordering::Relaxed)).sum();
    let end = tokio::time::Instant::now() + Duration::from_secs(5);
    until_async("time passes", async || tokio::time::Instant::now() >= end, SOON).await;
    assert_eq!(sent, rig.link.sent.iter().map(|s| s.load(Ordering::Relaxed)).sum(), "renews nothing");
}
