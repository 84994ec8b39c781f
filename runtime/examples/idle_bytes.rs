//! Bytes of memory per idle grain: integer key, 8-byte value, catalog and allocator included.
//!
//! `cargo run --release -p millet-runtime --example idle_bytes -- 1000000`: activates that many grains,
//! lets each run one turn, and divides the growth of the resident set by their number. Prints one line
//! for a plain value and one for a `Persistent` one.

use std::{
    marker::PhantomData,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use millet_core::{
    BootTime, BoxFuture, CallError, Clock, Envelope, ErrorKind, GrainId, Grant, KeyKind, Method, MethodId,
    MethodInfo, Outcome, PlatformError, Service, SessionId, SessionLease, ShardId,
};
use millet_directory::{Claim, Owners};
use millet_runtime::{
    Create, Ctx, Dispatch, Grain, GrainOptions, GrainRef, Hosted, HostedMethod, Persistent, Reply, Runtime,
    RuntimeBuilder, RuntimeDeps, WireReply, service::Unwrapped,
};
use millet_testkit::{MemoryStore, SeededEntropy, TokioSpawner};

/// The target in docs/architecture.md.
const TARGET: u64 = 256;

trait Value: Sized + Send + Sync + 'static {
    const NAME: &'static str;
    fn create(c: &mut Create<'_, Cell<Self>>) -> Self;
    fn add(&mut self, n: u64) -> u64;
}

struct Plain(u64);
impl Value for Plain {
    const NAME: &'static str = "bench.Plain";
    fn create(_: &mut Create<'_, Cell<Self>>) -> Self {
        Self(0)
    }
    fn add(&mut self, n: u64) -> u64 {
        self.0 += n;
        self.0
    }
}

struct Kept(Persistent<u64>);
impl Value for Kept {
    const NAME: &'static str = "bench.Kept";
    fn create(c: &mut Create<'_, Cell<Self>>) -> Self {
        Self(c.state::<u64>("value").manual())
    }
    fn add(&mut self, n: u64) -> u64 {
        *self.0 + n
    }
}

struct Cell<V>(V);
impl<V: Value> Grain for Cell<V> {
    type Service = Cells<V>;
    fn options() -> GrainOptions {
        GrainOptions::sharded(1).idle_after(None)
    }
    fn create(c: &mut Create<'_, Self>) -> Self {
        Self(V::create(c))
    }
    fn persist(&mut self, p: &mut millet_runtime::Persist<'_>) {
        if let Some(kept) = (&mut self.0 as &mut dyn std::any::Any).downcast_mut::<Kept>() {
            p.visit(&mut kept.0);
        }
    }
}

struct Cells<V>(PhantomData<fn() -> V>);
struct Add<V>(PhantomData<fn() -> V>);
static ADD: MethodInfo =
    MethodInfo { name: "Add", id: MethodId::of("Add"), shared: false, idempotent: false };

impl<V: Value> Service for Cells<V> {
    const NAME: &'static str = V::NAME;
    const KEYS: KeyKind = KeyKind::Int;
    const METHODS: &'static [MethodInfo] =
        &[MethodInfo { name: "Add", id: MethodId::of("Add"), shared: false, idempotent: false }];
}

struct Msg<V: Value>(u64, Reply<Add<V>>);

impl<V: Value> Hosted for Cells<V> {
    type Msg = Msg<V>;
    type Ref = CellRef<V>;
    fn decode(_: MethodId, args: Bytes, reply: WireReply) -> Result<Msg<V>, (ErrorKind, WireReply)> {
        match Add::<V>::decode_args(args) {
            Ok(n) => Ok(Msg(n, Reply::wire(reply))),
            Err(e) => Err((e, reply)),
        }
    }
    fn info(_: &Msg<V>) -> &'static MethodInfo {
        &ADD
    }
    fn reject(msg: Msg<V>, error: PlatformError) {
        msg.1.send(Err(error.into()));
    }
}

impl<V: Value> Method for Add<V> {
    type Service = Cells<V>;
    type Args = u64;
    type Res = u64;
    type Error = std::convert::Infallible;
    const INFO: MethodInfo =
        MethodInfo { name: "Add", id: MethodId::of("Add"), shared: false, idempotent: false };
    fn encode_args(args: &u64) -> Result<Bytes, ErrorKind> {
        Ok(Bytes::copy_from_slice(&args.to_le_bytes()))
    }
    fn decode_args(args: Bytes) -> Result<u64, ErrorKind> {
        args[..]
            .try_into()
            .map(u64::from_le_bytes)
            .map_err(|_| ErrorKind::BadArgument { why: "8 bytes".into() })
    }
    fn encode_result(result: Result<u64, Self::Error>) -> Outcome {
        let Ok(n) = result;
        Ok(Bytes::copy_from_slice(&n.to_le_bytes()))
    }
    fn decode_result(outcome: Outcome) -> Result<u64, CallError<Self::Error>> {
        let unreadable = || PlatformError::new(ErrorKind::Unknown { why: "not 8 bytes".into() });
        match outcome {
            Ok(b) => b[..].try_into().map(u64::from_le_bytes).map_err(|_| unreadable().into()),
            Err(CallError::Platform(p)) => Err(p.into()),
            Err(CallError::App(_)) => Err(unreadable().into()),
        }
    }
}
impl<V: Value> HostedMethod for Add<V> {
    fn into_msg(args: u64, reply: Reply<Self>) -> Msg<V> {
        Msg(args, reply)
    }
    fn from_msg(msg: Msg<V>) -> Unwrapped<Self> {
        Ok((msg.0, msg.1))
    }
}
impl<V: Value> Dispatch<Cell<V>> for Cells<V> {
    async fn write(g: &mut Cell<V>, ctx: &Ctx<Cell<V>>, msg: Msg<V>) {
        let r = Ok(g.0.add(msg.0));
        ctx.complete(g, msg.1, r).await;
    }
    async fn read(_: &Cell<V>, _: &Ctx<Cell<V>>, _: Msg<V>) {}
}
struct CellRef<V: Value>(GrainRef<Cells<V>>);
impl<V: Value> Clone for CellRef<V> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}
impl<V: Value> From<GrainRef<Cells<V>>> for CellRef<V> {
    fn from(r: GrainRef<Cells<V>>) -> Self {
        Self(r)
    }
}

struct Now(Instant);
impl Clock for Now {
    fn boottime(&self) -> BootTime {
        BootTime(1_000_000_000).after(self.0.elapsed())
    }
    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
    fn wall_ms(&self) -> u64 {
        0
    }
}

/// Every grain is here: one shard, one session.
struct AllHere(Arc<SessionLease>);
impl Owners for AllHere {
    fn claim<'a>(&'a self, grain: &'a GrainId) -> BoxFuture<'a, Result<Claim, ErrorKind>> {
        let claim = self.claim_now(grain);
        Box::pin(async { claim.ok_or(ErrorKind::Fenced) })
    }
    fn claim_now(&self, _: &GrainId) -> Option<Claim> {
        let grant = Grant { generation: 1, index: 1 };
        Some(Claim { session: self.0.clone(), grant, shard: Some(ShardId(0)), previous: None })
    }
    fn give_up(&self, _: &GrainId, _: &Claim) {}
    fn until_valid(&self, _: &Arc<SessionLease>, _: BootTime) -> BoxFuture<'static, bool> {
        Box::pin(async { true })
    }
    fn call(&self, _: Envelope) -> BoxFuture<'static, Outcome> {
        Box::pin(async { Err(PlatformError::new(ErrorKind::Fenced).into()) })
    }
    fn prefers_here(&self, _: &GrainId) -> bool {
        true
    }
}

fn resident_bytes() -> u64 {
    // tidy: seam: a program that measures its own process
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

async fn measure<V: Value>(runtime: &Runtime, grains: u64) -> u64 {
    let before = resident_bytes();
    // tidy: seam: a program that measures
    let began = Instant::now();
    for key in 0..grains {
        let answer = runtime.get::<Cells<V>>(key).0.call::<Add<V>>(1).await;
        assert_eq!(answer, Ok(1), "every grain runs one turn");
    }
    let took = began.elapsed();
    let bytes = resident_bytes().saturating_sub(before) / grains;
    println!(
        "{}: {bytes} bytes per idle grain ({grains} grains, first call {:?} each)",
        V::NAME,
        took / u32::try_from(grains).unwrap_or(1)
    );
    bytes
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let grains = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(1_000_000);
    // tidy: seam: this program's own world
    let clock = Arc::new(Now(Instant::now()));
    let session = SessionLease::opened(SessionId(1), Duration::from_secs(100_000));
    session.renewed(clock.boottime());
    let deps = RuntimeDeps {
        clock,
        spawner: Arc::new(TokioSpawner::current()),
        entropy: Arc::new(SeededEntropy::new(1)),
    };
    let runtime = RuntimeBuilder::new(deps)
        .store("default", Arc::new(MemoryStore::new()))
        .grain::<Cell<Plain>>()
        .grain::<Cell<Kept>>()
        .build(Arc::new(AllHere(Arc::new(session))));
    let runtime = match runtime {
        Ok(r) => r,
        Err(e) => {
            eprintln!("{e}");
            return ExitCode::FAILURE;
        }
    };
    let plain = measure::<Plain>(&runtime, grains).await;
    let kept = measure::<Kept>(&runtime, grains).await;
    let stats = runtime.stats();
    println!("target {TARGET}; {} activations, {} turns", stats.activations, stats.turns);
    if plain <= TARGET && kept <= TARGET { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
