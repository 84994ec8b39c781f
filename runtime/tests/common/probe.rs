//! A grain whose turns are closures, and its service, written by hand as generated code is.

use std::{
    future::Future,
    marker::PhantomData,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use bytes::Bytes;
use millet_core::{
    AppError, BoxFuture, CallError, ErrorKind, GrainId, KeyKind, Method, MethodId, MethodInfo, Outcome,
    PlatformError,
};
use millet_runtime::{
    Create, Ctx, Dispatch, EffectKey, EndReason, Grain, GrainOptions, GrainRef, Hosted, HostedMethod,
    Persist, Persistent, Reply, WireReply, service::Unwrapped,
};
use parking_lot::Mutex;

/// What differs between the grain types of the tests.
pub trait Kind: Sized + Send + Sync + 'static {
    const NAME: &'static str;
    fn options() -> GrainOptions {
        GrainOptions::default()
    }
    fn states(_c: &mut Create<'_, Probe<Self>>) -> States {
        States::default()
    }
}

/// The states a kind has.
#[derive(Default)]
pub struct States {
    pub one: Option<Persistent<i64>>,
    pub two: Option<Persistent<i64>>,
    /// Declared but never visited.
    pub forgotten: Option<Persistent<i64>>,
}

/// What the tests see of all grains.
#[derive(Default)]
pub struct Hooks {
    /// What `activate` answers.
    pub fail_activate: Mutex<Option<String>>,
    pub activations: AtomicU64,
    /// Effect keys of every `Add`.
    pub effects: Mutex<Vec<EffectKey>>,
    pub ends: Mutex<Vec<(GrainId, EndReason)>>,
}

pub struct Probe<K: Kind> {
    pub states: States,
    pub plain: i64,
    pub hooks: Arc<Hooks>,
    _kind: PhantomData<fn() -> K>,
}

impl<K: Kind> Probe<K> {
    pub fn one(&mut self) -> &mut Persistent<i64> {
        self.states.one.as_mut().expect("this kind has a state")
    }
    pub fn value(&self) -> i64 {
        self.states.one.as_ref().map_or(self.plain, |s| **s)
    }
}

impl<K: Kind> Grain for Probe<K> {
    type Service = Service<K>;
    fn options() -> GrainOptions {
        K::options()
    }
    fn create(c: &mut Create<'_, Self>) -> Self {
        let states = K::states(c);
        let hooks: Arc<Arc<Hooks>> = c.resource();
        Self { states, plain: 0, hooks: (*hooks).clone(), _kind: PhantomData }
    }
    fn persist(&mut self, p: &mut Persist<'_>) {
        if let Some(s) = &mut self.states.one {
            p.visit(s);
        }
        if let Some(s) = &mut self.states.two {
            p.visit(s);
        }
    }
    async fn activate(&mut self, _: &Ctx<Self>) -> Result<(), String> {
        self.hooks.activations.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        self.hooks.fail_activate.lock().clone().map_or(Ok(()), Err)
    }
    async fn deactivate(&mut self, ctx: &Ctx<Self>, why: EndReason) {
        self.hooks.ends.lock().push((ctx.grain(), why));
    }
}

pub type Said = Result<i64, String>;
type Turn<K> = Box<dyn for<'a> FnOnce(&'a mut Probe<K>, &'a Ctx<Probe<K>>) -> BoxFuture<'a, Said> + Send>;
type Peek<K> = Box<dyn for<'a> FnOnce(&'a Probe<K>, &'a Ctx<Probe<K>>) -> BoxFuture<'a, Said> + Send>;

pub struct Service<K>(PhantomData<fn() -> K>);
pub struct Do<K>(PhantomData<fn() -> K>);
pub struct Look<K>(PhantomData<fn() -> K>);
pub struct Add<K>(PhantomData<fn() -> K>);
pub struct Get<K>(PhantomData<fn() -> K>);
/// Adds 1 twice to the grain of this key, and returns its own value.
pub struct Relay<K>(PhantomData<fn() -> K>);

const fn info(name: &'static str, shared: bool) -> MethodInfo {
    MethodInfo { name, id: MethodId::of(name), shared, idempotent: shared }
}
static DO: MethodInfo = info("Do", false);
static LOOK: MethodInfo = info("Look", true);
static ADD: MethodInfo = info("Add", false);
static RELAY: MethodInfo = info("Relay", false);
static GET: MethodInfo = info("Get", true);

impl<K: Kind> millet_core::Service for Service<K> {
    const NAME: &'static str = K::NAME;
    const KEYS: KeyKind = KeyKind::Int;
    const METHODS: &'static [MethodInfo] =
        &[info("Do", false), info("Look", true), info("Add", false), info("Get", true), info("Relay", false)];
}

pub enum Msg<K: Kind> {
    Do(Turn<K>, Reply<Do<K>>),
    Look(Peek<K>, Reply<Look<K>>),
    Add(i64, Reply<Add<K>>),
    Get((), Reply<Get<K>>),
    Relay(i64, Reply<Relay<K>>),
}

impl<K: Kind> Hosted for Service<K> {
    type Msg = Msg<K>;
    type Ref = ProbeRef<K>;
    fn decode(method: MethodId, args: Bytes, reply: WireReply) -> Result<Msg<K>, (ErrorKind, WireReply)> {
        if method == ADD.id {
            match Add::<K>::decode_args(args) {
                Ok(a) => Ok(Msg::Add(a, Reply::wire(reply))),
                Err(e) => Err((e, reply)),
            }
        } else if method == RELAY.id {
            match Relay::<K>::decode_args(args) {
                Ok(a) => Ok(Msg::Relay(a, Reply::wire(reply))),
                Err(e) => Err((e, reply)),
            }
        } else if method == GET.id {
            Ok(Msg::Get((), Reply::wire(reply)))
        } else {
            Err((ErrorKind::BadArgument { why: "closures do not travel".into() }, reply))
        }
    }
    fn info(msg: &Msg<K>) -> &'static MethodInfo {
        match msg {
            Msg::Do(..) => &DO,
            Msg::Look(..) => &LOOK,
            Msg::Add(..) => &ADD,
            Msg::Get(..) => &GET,
            Msg::Relay(..) => &RELAY,
        }
    }
    fn reject(msg: Msg<K>, error: PlatformError) {
        match msg {
            Msg::Do(_, r) => r.send(Err(error.into())),
            Msg::Look(_, r) => r.send(Err(error.into())),
            Msg::Add(_, r) => r.send(Err(error.into())),
            Msg::Get(_, r) => r.send(Err(error.into())),
            Msg::Relay(_, r) => r.send(Err(error.into())),
        }
    }
}

macro_rules! method {
    ($name:ident, $args:ty, $info:expr, $encode:expr, $decode:expr) => {
        impl<K: Kind> Method for $name<K> {
            type Service = Service<K>;
            type Args = $args;
            type Res = i64;
            type Error = String;
            const INFO: MethodInfo = $info;
            fn encode_args(args: &$args) -> Result<Bytes, ErrorKind> {
                ($encode)(args)
            }
            fn decode_args(args: Bytes) -> Result<$args, ErrorKind> {
                ($decode)(args)
            }
            fn encode_result(result: Said) -> Outcome {
                match result {
                    Ok(v) => Ok(Bytes::copy_from_slice(&v.to_le_bytes())),
                    Err(e) => Err(CallError::App(AppError::Encoded(Bytes::from(e)))),
                }
            }
            fn decode_result(outcome: Outcome) -> Result<i64, CallError<String>> {
                match outcome {
                    Ok(b) => Ok(i64::from_le_bytes(b[..].try_into().expect("8 bytes"))),
                    Err(CallError::Platform(p)) => Err(CallError::Platform(p)),
                    Err(CallError::App(AppError::Encoded(b))) => {
                        Err(CallError::App(String::from_utf8_lossy(&b).into_owned()))
                    }
                    Err(CallError::App(AppError::Refusal(r))) => Err(CallError::App(r.message)),
                }
            }
        }
        impl<K: Kind> HostedMethod for $name<K> {
            fn into_msg(args: $args, reply: Reply<Self>) -> Msg<K> {
                Msg::$name(args, reply)
            }
            fn from_msg(msg: Msg<K>) -> Unwrapped<Self> {
                match msg {
                    Msg::$name(args, reply) => Ok((args, reply)),
                    other => Err(other),
                }
            }
        }
    };
}
fn no_bytes<T>(_: &T) -> Result<Bytes, ErrorKind> {
    Err(ErrorKind::BadArgument { why: "closures do not travel".into() })
}
fn no_value<T>(_: Bytes) -> Result<T, ErrorKind> {
    Err(ErrorKind::BadArgument { why: "closures do not travel".into() })
}
method!(Do, Turn<K>, info("Do", false), no_bytes, no_value);
method!(Look, Peek<K>, info("Look", true), no_bytes, no_value);
fn int_bytes(a: &i64) -> Result<Bytes, ErrorKind> {
    Ok(Bytes::copy_from_slice(&a.to_le_bytes()))
}
fn int_value(b: Bytes) -> Result<i64, ErrorKind> {
    b[..].try_into().map(i64::from_le_bytes).map_err(|_| ErrorKind::BadArgument { why: "8 bytes".into() })
}
method!(Add, i64, info("Add", false), int_bytes, int_value);
method!(Relay, i64, info("Relay", false), int_bytes, int_value);
method!(Get, (), info("Get", true), |_: &()| Ok(Bytes::new()), |_: Bytes| Ok(()));

impl<K: Kind> Dispatch<Probe<K>> for Service<K> {
    async fn write(g: &mut Probe<K>, ctx: &Ctx<Probe<K>>, msg: Msg<K>) {
        match msg {
            Msg::Do(turn, reply) => {
                let r = turn(g, ctx).await;
                ctx.complete(g, reply, r).await;
            }
            Msg::Relay(key, reply) => {
                let other = ctx.get::<Service<K>>(u64::try_from(key).expect("a key"));
                let r = async {
                    other.add(1).await.map_err(|e| e.to_string())?;
                    other.add(1).await.map_err(|e| e.to_string())
                };
                let r = r.await;
                ctx.complete(g, reply, r).await;
            }
            Msg::Add(n, reply) => {
                g.hooks.effects.lock().push(ctx.effect_key(0));
                if g.states.one.is_some() {
                    **g.one() += n;
                } else {
                    g.plain += n;
                }
                let r = Ok(g.value());
                ctx.complete(g, reply, r).await;
            }
            Msg::Look(..) | Msg::Get(..) => unreachable!("shared"),
        }
    }
    async fn read(g: &Probe<K>, ctx: &Ctx<Probe<K>>, msg: Msg<K>) {
        match msg {
            Msg::Look(peek, reply) => {
                let r = peek(g, ctx).await;
                ctx.complete_shared(reply, r).await;
            }
            Msg::Get((), reply) => {
                let r = Ok(g.value());
                ctx.complete_shared(reply, r).await;
            }
            Msg::Do(..) | Msg::Add(..) | Msg::Relay(..) => unreachable!("exclusive"),
        }
    }
}

pub struct ProbeRef<K: Kind>(pub GrainRef<Service<K>>);
impl<K: Kind> Clone for ProbeRef<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}
impl<K: Kind> From<GrainRef<Service<K>>> for ProbeRef<K> {
    fn from(r: GrainRef<Service<K>>) -> Self {
        Self(r)
    }
}

pub type Heard = Result<i64, CallError<String>>;

impl<K: Kind> ProbeRef<K> {
    pub fn with_deadline(self, d: Duration) -> Self {
        Self(self.0.with_deadline(d))
    }
    pub fn detached(self) -> Self {
        Self(self.0.detached())
    }
    pub async fn add(&self, n: i64) -> Heard {
        self.0.call::<Add<K>>(n).await
    }
    pub async fn get(&self) -> Heard {
        self.0.call::<Get<K>>(()).await
    }
    pub fn tell_add(&self, n: i64) -> Result<(), PlatformError> {
        self.0.tell::<Add<K>>(n)
    }
    /// Runs a closure as an exclusive turn.
    pub fn run<F>(&self, f: F) -> impl Future<Output = Heard> + Send + use<K, F>
    where
        F: for<'a> FnOnce(&'a mut Probe<K>, &'a Ctx<Probe<K>>) -> BoxFuture<'a, Said> + Send + 'static,
    {
        let r = self.0.clone();
        async move { r.call::<Do<K>>(Box::new(f)).await }
    }
    /// Runs a closure as a shared turn.
    pub fn look<F>(&self, f: F) -> impl Future<Output = Heard> + Send + use<K, F>
    where
        F: for<'a> FnOnce(&'a Probe<K>, &'a Ctx<Probe<K>>) -> BoxFuture<'a, Said> + Send + 'static,
    {
        let r = self.0.clone();
        async move { r.call::<Look<K>>(Box::new(f)).await }
    }
}

pub fn boxed<'a>(f: impl Future<Output = Said> + Send + 'a) -> BoxFuture<'a, Said> {
    Box::pin(f)
}

/// The platform error of a call that must have one.
#[track_caller]
pub fn kind(heard: Heard) -> ErrorKind {
    match heard {
        Err(CallError::Platform(p)) => p.kind().clone(),
        other => panic!("expected a platform error, heard {other:?}"),
    }
}
