//! A whole member of one, over any disk: started, given work, looked through. No real address is needed
//! to be elected by oneself, so it keeps a made-up one and is reached wherever it listens.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use millet_core::{
    BootTime, Clock, Epoch, GrainId, GrainType, Grant, KeyKind, NodeId, Revision, SessionId,
    model::{Keepalive, NodeInfo, OpenSession, Ownership, TypeDecl, Verdict},
    store::{StateStore, Stored, Token, Version, Write},
    world::Disk,
};
use millet_raft_meta::{
    Dial, EngineKind, Member, MemberError, MemberOptions, Timing,
    client::{Acquired, ClientOptions, KeeperClient, MetaClient, StateClient},
};
use millet_testkit::{SeededEntropy, StdThreads, TokioSpawner, until_async, until_some};
use parking_lot::Mutex;
use tokio::{net::TcpListener, task::JoinHandle};
use tonic::transport::{Endpoint, server::TcpIncoming};

use crate::book::{Book, Event, value};

/// Eight members on two busy cores wait for each other too.
pub const LIMIT: Duration = Duration::from_secs(120);
/// Tries of `init`, which gives an election 15 s: on a busy machine the first may come too late.
const INITS: usize = 4;
/// What the member is called in its own cluster.
const NAME: &str = "alone:1";
/// Grains whose state is written.
pub const GRAINS: u64 = 6;

struct Real(Instant);
impl Clock for Real {
    fn boottime(&self) -> BootTime {
        BootTime(u64::try_from(self.0.elapsed().as_nanos()).unwrap() + 1)
    }
    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
    fn wall_ms(&self) -> u64 {
        1_700_000_000_000
    }
}

fn dial() -> Dial {
    Arc::new(|addr| {
        let endpoint = Endpoint::from_shared(format!("http://{addr}")).unwrap();
        endpoint.tcp_nodelay(true).connect_lazy()
    })
}

/// Alone, it need not wait for anybody.
fn timing() -> Timing {
    let ms = Duration::from_millis;
    Timing {
        tick: ms(50),
        heartbeat: ms(50),
        election_min: ms(60),
        election_max: ms(120),
        quorum_probe: ms(300),
    }
}

/// How a member is started.
#[derive(Clone)]
pub struct Setup {
    pub disk: Arc<dyn Disk>,
    pub dir: std::path::PathBuf,
    pub engine: EngineKind,
    pub snapshot_every: u64,
}

impl Setup {
    pub fn new(disk: Arc<dyn Disk>, dir: &Path, engine: EngineKind) -> Self {
        Self { disk, dir: dir.to_owned(), engine, snapshot_every: 25 }
    }
}

/// Members that were started, so that one whose test has lost interest is ended all the same.
#[derive(Clone, Default)]
pub struct Started(Arc<(Mutex<Vec<Arc<Member>>>, AtomicUsize)>);

impl Started {
    async fn start(&self, options: MemberOptions) -> Result<Arc<Member>, MemberError> {
        let all = Arc::clone(&self.0);
        all.1.fetch_add(1, Ordering::SeqCst);
        // A task of its own: a start that is dropped half-way leaves threads behind.
        let start = tokio::spawn(async move {
            let started = Member::start(options).await.map(Arc::new);
            all.0.lock().extend(started.as_ref().ok().cloned());
            all.1.fetch_sub(1, Ordering::SeqCst);
            started
        });
        start.await.expect("a start does not panic")
    }

    /// Whether there is one.
    pub fn any(&self) -> bool {
        !self.0.0.lock().is_empty()
    }

    /// Why one of them has stopped by itself; waits for it.
    pub async fn failed(&self) -> String {
        let failed = async || {
            let members = self.0.0.lock().clone();
            for member in members {
                if let Ok(why) = tokio::time::timeout(Duration::from_millis(1), member.failed()).await {
                    return Some(why);
                }
            }
            None
        };
        until_some("a member fails", failed, 4 * LIMIT).await
    }

    /// Ends them as a crash would.
    pub async fn abandon(&self) {
        until_async("every start has ended", async || self.0.1.load(Ordering::SeqCst) == 0, LIMIT).await;
        let members = std::mem::take(&mut *self.0.0.lock());
        for member in members {
            member.abandon().await;
        }
    }
}

pub struct One {
    pub member: Arc<Member>,
    server: JoinHandle<()>,
    pub state: StateClient,
    pub meta: MetaClient,
    keeper: KeeperClient,
}

impl Drop for One {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// The cluster's id. Only what is to be repeated is.
async fn init(member: &Member) -> Result<String, MemberError> {
    for _ in 1..INITS {
        match member.init(&[NAME.into()]).await {
            Err(MemberError::Unavailable(_)) => {}
            made => return made.map(|place| place.cluster),
        }
    }
    member.init(&[NAME.into()]).await.map(|place| place.cluster)
}

impl One {
    /// Opens the directory, makes the cluster if there is none yet, and waits until it leads.
    pub async fn start(setup: &Setup, started: &Started) -> Result<Self, MemberError> {
        static NEXT: AtomicUsize = AtomicUsize::new(1);
        let seed = u64::from(std::process::id()) << 32 | NEXT.fetch_add(1, Ordering::Relaxed) as u64;
        let options = MemberOptions {
            dir: setup.dir.clone(),
            addr: NAME.into(),
            cluster: None,
            clock: Arc::new(Real(Instant::now())),
            entropy: Arc::new(SeededEntropy::new(seed)),
            disk: Arc::clone(&setup.disk),
            threads: Arc::new(StdThreads),
            dial: dial(),
            engine: setup.engine,
            snapshot_every: setup.snapshot_every,
            log_segment_bytes: MemberOptions::LOG_SEGMENT_BYTES,
            timing: timing(),
            generation: 1,
        };
        let member = started.start(options).await?;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let members = vec![listener.local_addr().unwrap().to_string()];
        let services = member.services();
        let server = tokio::spawn(async move {
            // It ends with the test.
            let _ = services.serve(TcpIncoming::from(listener).with_nodelay(Some(true))).await;
        });
        let cluster = init(&member).await?;
        let spawner = Arc::new(TokioSpawner::current());
        let options =
            ClientOptions { cluster: cluster.clone(), members: members.clone(), dial: dial(), spawner };
        Ok(Self {
            member,
            server,
            state: StateClient::new(&options),
            meta: MetaClient::new(&options),
            keeper: KeeperClient::new(&cluster, &members, dial()),
        })
    }

    /// Ends in order; the error is a disk that failed meanwhile.
    pub async fn stop(self) -> Result<(), MemberError> {
        self.member.stop().await
    }

    /// A session that lives longer than the test.
    async fn session(&self, life: u64) -> SessionId {
        let ask = OpenSession {
            incarnation: u128::from(life) + 1,
            attempt: 1,
            node: node(),
            ttl: Duration::from_secs(60),
        };
        let session =
            until_some("a session", async || self.keeper.open(ask.clone()).await.ok(), LIMIT).await.session;
        let (mut number, mut heard) = (0, 0);
        let renewed = async || {
            number += 1;
            let keepalive =
                Keepalive { session, number, heard, revision: Revision(0), activations: 0, reserve_ms: 0 };
            let answer = self.keeper.keepalive(0, keepalive).await.ok()?;
            // Only who hears its answers is renewed (R22).
            heard = answer.number;
            (answer.verdict == Verdict::Renewed).then_some(())
        };
        until_some("the session is renewed", renewed, LIMIT).await;
        session
    }

    /// Life `life` of the workload: leases, then saves of `sizes` in turn to a few grains. Never fails:
    /// whoever drives it stops listening when the disk has failed or the process is killed.
    pub async fn work(&self, life: u64, from: &Book, sizes: &[usize], tell: &mut impl FnMut(Event)) {
        let session = self.session(life).await;
        for n in 0..3 {
            let grain = life * 10 + n;
            let granted = async || match self.meta.acquire(&player(grain), session).await {
                Ok(Acquired::Granted { grant, .. }) => Some(grant),
                _ => None,
            };
            let grant = until_some("a lease", granted, LIMIT).await;
            tell(Event::Granted(grain, grant.index));
        }
        let token = token(life, session);
        let mut versions: Vec<u64> =
            (0..GRAINS).map(|g| from.rows.get(&g).map_or(0, |r| r.saved.0)).collect();
        for grain in 0..GRAINS {
            let opened = async || self.state.open(&player(grain), "s", token).await.ok();
            let stored = until_some("the grain is opened", opened, LIMIT).await;
            assert_eq!(stored.version, Version(versions[grain as usize]), "it was looked at before");
        }
        for (n, bytes) in sizes.iter().copied().enumerate() {
            let grain = (n as u64 + life) % GRAINS;
            let version = versions[grain as usize];
            tell(Event::Try(grain, version + 1, bytes));
            let saved = async || {
                let write =
                    Write { grain: &player(grain), slot: "s", shard: None, token, version: Version(version) };
                self.state.save(write, value(grain, version + 1, bytes)).await.ok()
            };
            let answered = until_some("a save is answered", saved, LIMIT).await;
            tell(Event::Saved(grain, answered.0));
            versions[grain as usize] = answered.0;
        }
    }

    /// Saves a state that will never be answered, and returns when it was tried.
    pub async fn save_unanswered(&self, bytes: usize) {
        let (session, grain) = (SessionId(u64::MAX), player(0));
        let token = token(9, session);
        let opened = async || self.state.open(&grain, "s", token).await.ok();
        let stored = until_some("the grain is opened", opened, LIMIT).await;
        let write = Write { grain: &grain, slot: "s", shard: None, token, version: stored.version };
        self.state.save(write, value(0, stored.version.0 + 1, bytes)).await.unwrap_err();
    }

    /// Everything that was answered is there, nothing else is.
    pub async fn check(&self, life: u64, book: &mut Book) -> Result<(), String> {
        for (grain, index) in std::mem::take(&mut book.granted) {
            let looked = async || self.meta.lookup(&player(grain)).await.ok();
            let held = until_some("a look-up", looked, LIMIT).await;
            if held.as_ref().map(|h| h.grant.index) != Some(index) {
                return Err(format!("the lease of grain {grain} was granted at {index}, found {held:?}"));
            }
        }
        let token = token(life, SessionId(u64::MAX));
        for grain in 0..GRAINS {
            let opened = async || self.state.open(&player(grain), "s", token).await.ok();
            let stored: Stored = until_some("the grain is opened", opened, LIMIT).await;
            book.check(grain, &stored)?;
        }
        Ok(())
    }
}

/// Tokens rise from life to life.
fn token(life: u64, session: SessionId) -> Token {
    Token { epoch: Epoch { grant: Grant { generation: 1, index: life + 1 }, activation: 1 }, session }
}

pub fn player(n: u64) -> GrainId {
    GrainId::new(GrainType::new("realm.Player").unwrap(), n)
}

fn node() -> NodeInfo {
    let players = TypeDecl {
        ty: GrainType::new("realm.Player").unwrap(),
        ownership: Ownership::Leased,
        keys: KeyKind::Int,
    };
    NodeInfo {
        id: NodeId(7),
        name: "node-7".into(),
        peer_addr: "127.0.0.1:1".into(),
        api_addr: String::new(),
        types: vec![players],
    }
}
