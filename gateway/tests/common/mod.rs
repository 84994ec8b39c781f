//! A gateway on a real socket in front of a caller that answers by the key, and a raw gRPC client.
#![allow(dead_code, missing_docs, reason = "each test file uses a part")]

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::{BufMut as _, Bytes, BytesMut};
use http::HeaderMap;
use http_body_util::{BodyExt as _, Full};
use millet_core::{
    AppError, BootTime, BoxFuture, Call, CallError, Caller, Clock, ErrorKind, Key, KeyKind, MethodId,
    MethodInfo, Outcome, PlatformError, Refusal, ServiceInfo, world::Entropy,
};
use millet_gateway::{Api, Health, Interfaces, router};
use tokio::sync::Notify;
use tonic::transport::{Channel, Server};

const ARENA: &[u8] = include_bytes!("../../../stub-gen/tests/golden/arena.descriptors.bin");

const fn info(name: &'static str) -> MethodInfo {
    MethodInfo { name, id: MethodId::of(name), shared: false, idempotent: false }
}

pub const DUEL: ServiceInfo = ServiceInfo {
    name: "arena.Duel",
    keys: KeyKind::Int,
    methods: &[info("Strike"), info("Watch"), info("Type")],
    descriptors: Some(ARENA),
    arguments: &[],
};
pub const ECHO: ServiceInfo = ServiceInfo {
    name: "arena.Echo",
    keys: KeyKind::Text,
    methods: &[info("Say")],
    descriptors: Some(ARENA),
    arguments: &[],
};
pub const RANK: ServiceInfo = ServiceInfo {
    name: "realm.Rank",
    keys: KeyKind::Text,
    methods: &[info("report")],
    descriptors: None,
    arguments: &[&["who", "score"]],
};

pub struct TestClock(pub Instant);
impl Clock for TestClock {
    fn boottime(&self) -> BootTime {
        BootTime(u64::try_from(self.0.elapsed().as_nanos()).expect("a short test"))
    }
    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
    fn wall_ms(&self) -> u64 {
        0
    }
}

#[derive(Default)]
pub struct Counting(AtomicU64);
impl Entropy for Counting {
    fn next_u64(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

/// Answers by the key: `kind N` the N-th error kind, `refuse`, `own`, `panic`, `hang`, `slow` (a turn
/// that goes on after its caller has gone); anything else is an echo.
#[derive(Default)]
pub struct Fake {
    pub calls: Mutex<Vec<Call>>,
    pub finished: Arc<AtomicUsize>,
    pub go: Arc<Notify>,
}

impl Fake {
    pub fn count(&self) -> usize {
        self.calls.lock().expect("no panic holds it").len()
    }
    pub fn last(&self) -> Call {
        self.calls.lock().expect("no panic holds it").last().expect("a call").clone()
    }

    async fn answer(&self, call: Call) -> Outcome {
        let key = call.target.key.to_string();
        if let Some(n) = key.strip_prefix("kind ") {
            let kind = ErrorKind::one_of_each()[n.parse::<usize>().expect("a number")].clone();
            return Err(CallError::Platform(PlatformError::new(kind).at(&call.target)));
        }
        match key.as_str() {
            "refuse" => Err(CallError::App(AppError::Refusal(Refusal {
                code: 9,
                message: "closed".into(),
                details: vec![7],
            }))),
            "own" => Err(CallError::App(AppError::Encoded(Bytes::from_static(&[0x81, 0xa1, b'n', 3])))),
            "panic" => panic!("as asked"),
            "hang" => std::future::pending().await,
            "slow" => {
                let (go, finished) = (Arc::clone(&self.go), Arc::clone(&self.finished));
                let turn = tokio::spawn(async move {
                    go.notified().await;
                    finished.fetch_add(1, Ordering::SeqCst);
                });
                turn.await.expect("runs to its end");
                Ok(Bytes::new())
            }
            _ => Ok(call.args),
        }
    }
}

impl Caller for Fake {
    fn call(&self, call: Call) -> BoxFuture<'_, Outcome> {
        self.calls.lock().expect("no panic holds it").push(call.clone());
        Box::pin(self.answer(call))
    }
}

/// A running gateway; it ends with the value.
pub struct Gateway {
    pub fake: Arc<Fake>,
    pub address: SocketAddr,
    pub health: Health,
    server: Mutex<Option<tokio::runtime::Runtime>>,
}

impl Gateway {
    pub async fn start() -> Self {
        let fake = Arc::new(Fake::default());
        let interfaces = Arc::new(Interfaces::new([DUEL, ECHO, RANK]).expect("good interfaces"));
        let clock = Arc::new(TestClock(Instant::now()));
        let api = Api::new(interfaces, Arc::clone(&fake) as _, clock, Arc::new(Counting::default()));
        let (routes, health) = router(api, true).expect("good descriptors");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let serving = Server::builder().add_routes(routes).serve_with_incoming(incoming);
        // A runtime of its own: tonic's connections are tasks that only end with it.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let server = runtime.expect("a runtime");
        server.spawn(async move { serving.await.expect("serves") });
        Self { fake, address, health, server: Mutex::new(Some(server)) }
    }

    /// Kills it: every connection is closed at once.
    pub fn stop(&self) {
        if let Some(runtime) = self.server.lock().expect("no panic holds it").take() {
            runtime.shutdown_background();
        }
    }

    pub fn client(&self) -> millet_client::Client {
        millet_client::Client::connect([self.address.to_string()]).expect("an address")
    }

    /// A bare HTTP/2 connection: tonic's channel has a timer of its own that answers before the server.
    pub async fn connection(&self) -> Connection {
        let stream = tokio::net::TcpStream::connect(self.address).await.expect("connects");
        let io = hyper_util::rt::TokioIo::new(stream);
        let executor = hyper_util::rt::TokioExecutor::new();
        let (send, connection) = hyper::client::conn::http2::handshake(executor, io).await.expect("HTTP/2");
        tokio::spawn(async move { drop(connection.await) });
        Connection { send, address: self.address }
    }

    pub async fn channel(&self) -> Channel {
        let uri = format!("http://{}", self.address);
        Channel::from_shared(uri).expect("a uri").connect().await.expect("connects")
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.stop();
    }
}

/// See [`Gateway::connection`].
#[derive(Clone)]
pub struct Connection {
    send: hyper::client::conn::http2::SendRequest<Full<Bytes>>,
    address: SocketAddr,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub http: u16,
    pub status: tonic::Status,
    pub message: Bytes,
}

pub fn framed(message: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(0);
    out.put_u32(u32::try_from(message.len()).expect("small"));
    out.put(message);
    out.freeze()
}

/// Sends exactly these bytes with exactly these headers (beside content type).
pub async fn raw(connection: &Connection, path: &str, headers: &[(&str, &str)], body: Bytes) -> Answer {
    let uri = format!("http://{}{path}", connection.address);
    let mut request = http::Request::post(uri).header("te", "trailers");
    if !headers.iter().any(|(k, _)| *k == "content-type") {
        request = request.header("content-type", "application/grpc");
    }
    for (k, v) in headers {
        request = request.header(*k, *v);
    }
    let request = request.body(Full::new(body)).expect("a request");
    let response = connection.send.clone().send_request(request).await.expect("an answer");
    let http = response.status().as_u16();
    let head: HeaderMap = response.headers().clone();
    let body = response.into_body().collect().await.expect("a whole body");
    let trailers = body.trailers().cloned().unwrap_or_default();
    let status =
        tonic::Status::from_header_map(if head.contains_key("grpc-status") { &head } else { &trailers });
    let mut message = body.to_bytes();
    let message = if message.len() >= 5 { message.split_off(5) } else { Bytes::new() };
    Answer { http, status: status.unwrap_or_else(|| tonic::Status::unknown("no status")), message }
}

/// A key for text-keyed calls.
pub fn text(key: &str) -> Key {
    Key::text(key).expect("a good key")
}
