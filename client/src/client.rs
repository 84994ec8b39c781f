//! The client: where a call goes, how long it may take, and what its failure means.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::uri::PathAndQuery;
use millet_core::{CallError, ErrorKind, Key, Method, Outcome, PlatformError, RequestId, Service, limits};
use parking_lot::Mutex;
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep},
};
use tonic::{
    Request, Status,
    metadata::{AsciiMetadataValue, BinaryMetadataValue},
    transport,
};

use crate::{
    endpoint::{Endpoint, Endpoints, never_sent},
    wire::Plain,
};

/// Result bytes that a client takes beside the message limit: framing.
const SLACK_BYTES: usize = 64 * 1024;
/// What one answer may have under way before it is read.
const STREAM_WINDOW: u32 = 1024 * 1024;
/// What all answers of a connection may.
const CONNECTION_WINDOW: u32 = 8 * 1024 * 1024;
/// Calls under way on one connection: less than the 1,024 streams that a node's listener takes. One more
/// would wait inside the connection, where the end of the connection leaves it with an error that does not
/// say whether it was sent.
const STREAMS: usize = 1000;
/// Paths remembered; a program has a method or two per grain type.
const PATHS: usize = 4096;

/// An address that is none.
#[derive(Debug, thiserror::Error)]
pub enum BadAddress {
    /// It does not parse.
    #[error("{address:?} is no address ({why}); write host:port or http://host:port")]
    Malformed {
        /// As given.
        address: String,
        /// What is wrong.
        why: String,
    },
    /// There is none.
    #[error("no address; name at least one node's API listener")]
    None,
}

/// How a client behaves. All have defaults.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// Calls under way; more wait for their turn within their deadline. Default 4096.
    pub in_flight: usize,
    /// For one connection attempt. Default 1 s.
    pub connect_timeout: Duration,
    /// Between pings on a connection; one unanswered for as long closes it. Default 5 s.
    pub keepalive: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { in_flight: 4096, connect_timeout: Duration::from_secs(1), keepalive: Duration::from_secs(5) }
    }
}

/// Calls grains from outside the cluster through any of its nodes. Cheap to clone.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    endpoints: Endpoints,
    places: Semaphore,
    paths: Mutex<HashMap<(&'static str, &'static str), PathAndQuery>>,
    requests: Requests,
}

impl Client {
    /// A client of the nodes whose API listeners are at `addresses` (`host:port`). Connections are made
    /// on first use. Call it within a tokio runtime.
    ///
    /// # Errors
    /// An address does not parse, or there is none.
    pub fn connect<A: AsRef<str>>(addresses: impl IntoIterator<Item = A>) -> Result<Self, BadAddress> {
        Self::with(addresses, &Options::default())
    }

    /// As [`Client::connect`], with other options.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub fn with<A: AsRef<str>>(
        addresses: impl IntoIterator<Item = A>,
        options: &Options,
    ) -> Result<Self, BadAddress> {
        let all: Vec<Endpoint> =
            addresses.into_iter().map(|a| endpoint(a.as_ref(), options)).collect::<Result<_, _>>()?;
        Self::of(all, options)
    }

    /// A client over channels that the caller has made, each with the address it leads to: for networks
    /// that are not the system's, a simulated one among them. Of the options, only `in_flight` counts.
    ///
    /// # Errors
    /// There is no channel.
    pub fn over(
        channels: impl IntoIterator<Item = (String, transport::Channel)>,
        options: &Options,
    ) -> Result<Self, BadAddress> {
        let all = channels.into_iter().map(|(address, channel)| Endpoint::new(address, channel)).collect();
        Self::of(all, options)
    }

    fn of(all: Vec<Endpoint>, options: &Options) -> Result<Self, BadAddress> {
        if all.is_empty() {
            return Err(BadAddress::None);
        }
        Ok(Self(Arc::new(Inner {
            endpoints: Endpoints::new(all),
            places: Semaphore::new(options.in_flight.clamp(1, Semaphore::MAX_PERMITS)),
            paths: Mutex::default(),
            requests: Requests::new(),
        })))
    }

    /// Calls a method of a grain and waits for its end, at most `deadline` (itself at most
    /// [`limits::MAX_DEADLINE`]).
    ///
    /// # Errors
    /// The grain's own, or the platform's; `ran()` says whether the turn ran.
    ///
    /// Cancel safety: dropping the future abandons the reply; a turn that has started runs to its end.
    pub async fn call<M: Method>(
        &self,
        key: impl Into<Key>,
        args: M::Args,
        deadline: Duration,
    ) -> Result<M::Res, CallError<M::Error>> {
        self.call_as::<M>(self.new_request(), key, args, deadline).await
    }

    /// As [`Client::call`], under a request id of the caller's: the same over retries of one deed.
    ///
    /// # Errors
    /// As [`Client::call`].
    ///
    /// Cancel safety: as [`Client::call`].
    pub async fn call_as<M: Method>(
        &self,
        request: RequestId,
        key: impl Into<Key>,
        args: M::Args,
        deadline: Duration,
    ) -> Result<M::Res, CallError<M::Error>> {
        let key = key.into();
        if key.kind() != M::Service::KEYS {
            let why =
                format!("{} has {:?} keys, {key:?} is another kind", M::Service::NAME, M::Service::KEYS);
            return Err(refused(ErrorKind::BadKey { why }));
        }
        let args = M::encode_args(&args).map_err(refused)?;
        let path = self.0.path(M::Service::NAME, M::INFO.name).map_err(refused)?;
        M::decode_result(self.0.send(Outgoing { path, key, request, args, json: false }, deadline).await)
    }

    /// Calls a method by name: arguments and result are JSON (proto3-JSON for contract-first grains). The
    /// gateway knows the types; a Rust-first grain's own error comes as JSON in `App`, a contract-first
    /// refusal as its message.
    ///
    /// # Errors
    /// As [`Client::call`].
    ///
    /// Cancel safety: as [`Client::call`].
    pub async fn call_json(
        &self,
        service: &str,
        key: &str,
        method: &str,
        args: &str,
        deadline: Duration,
    ) -> Result<String, CallError<String>> {
        let path = format!("/{service}/{method}");
        let path: PathAndQuery = path
            .parse()
            .map_err(|_| refused(ErrorKind::NoSuchMethod { method: format!("{service:?}.{method:?}") }))?;
        // The gateway knows the kind of key and parses its text form.
        let key = Key::text(key).map_err(refused)?;
        let args = Bytes::copy_from_slice(args.as_bytes());
        let outgoing = Outgoing { path, key, request: self.new_request(), args, json: true };
        let bytes = self.0.send_json(outgoing, deadline).await?;
        String::from_utf8(bytes.into()).map_err(|e| unknown(format!("the answer is not text: {e}")))
    }

    /// A request id that no other call of any client has.
    pub fn new_request(&self) -> RequestId {
        self.0.requests.next()
    }
}

/// Numbers requests: 64 random bits per client, then a count.
struct Requests {
    client: u64,
    count: AtomicU64,
}

impl Requests {
    fn new() -> Self {
        use std::hash::{BuildHasher as _, RandomState};
        // std seeds its hashers from the system's entropy, once per thread, and makes each differ. Nothing
        // else goes in: a simulated run has its entropy from a seed, and its process id from nowhere.
        let client = RandomState::new().hash_one(now());
        Self { client, count: AtomicU64::new(1) }
    }
    fn next(&self) -> RequestId {
        RequestId((u128::from(self.client) << 64) | u128::from(self.count.fetch_add(1, Ordering::Relaxed)))
    }
}

/// The timer's own clock, which is what deadlines here are measured on.
fn now() -> Instant {
    sleep(Duration::ZERO).deadline()
}

fn endpoint(address: &str, options: &Options) -> Result<Endpoint, BadAddress> {
    let uri = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
    let malformed = |why: String| BadAddress::Malformed { address: address.to_owned(), why };
    let endpoint = transport::Endpoint::from_shared(uri).map_err(|e| malformed(e.to_string()))?;
    if endpoint.uri().port().is_none() {
        return Err(malformed("it has no port".into()));
    }
    let channel = endpoint
        .connect_timeout(options.connect_timeout)
        .concurrency_limit(STREAMS)
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keep_alive_interval(options.keepalive)
        .keep_alive_timeout(options.keepalive)
        .keep_alive_while_idle(true)
        .connect_lazy();
    Ok(Endpoint::new(address.to_owned(), channel))
}

fn refused<E>(kind: ErrorKind) -> CallError<E> {
    CallError::Platform(PlatformError::new(kind))
}

fn unknown<E>(why: String) -> CallError<E> {
    refused(ErrorKind::Unknown { why })
}

/// A call ready to leave.
struct Outgoing {
    path: PathAndQuery,
    key: Key,
    request: RequestId,
    args: Bytes,
    json: bool,
}

impl Outgoing {
    fn request(&self, left: Duration) -> Request<Bytes> {
        let mut request = Request::new(self.args.clone());
        let metadata = request.metadata_mut();
        let text = self.key.to_string();
        match AsciiMetadataValue::try_from(text.as_str()) {
            Ok(value) if text.bytes().all(|b| b.is_ascii_graphic()) => {
                metadata.insert("millet-key", value);
            }
            _ => {
                metadata.insert_bin("millet-key-bin", BinaryMetadataValue::from_bytes(text.as_bytes()));
            }
        }
        if let Ok(id) = AsciiMetadataValue::try_from(format!("{:032x}", self.request.0)) {
            metadata.insert("millet-request-id", id);
        }
        request.set_timeout(left);
        request
    }
}

impl Inner {
    /// Paths are built once per method.
    fn path(&self, service: &'static str, method: &'static str) -> Result<PathAndQuery, ErrorKind> {
        if let Some(path) = self.paths.lock().get(&(service, method)) {
            return Ok(path.clone());
        }
        let path: PathAndQuery = format!("/{service}/{method}")
            .parse()
            .map_err(|_| ErrorKind::NoSuchMethod { method: format!("{service}.{method}") })?;
        let mut paths = self.paths.lock();
        if paths.len() < PATHS {
            paths.insert((service, method), path.clone());
        }
        Ok(path)
    }

    async fn send(&self, outgoing: Outgoing, deadline: Duration) -> Outcome {
        match self.send_raw(&outgoing, deadline).await {
            Ok(bytes) => Ok(bytes),
            Err(Failure::Status(status)) => Err(meaning(&status)),
            Err(Failure::Kind(kind)) => Err(refused(kind)),
        }
    }

    async fn send_json(&self, outgoing: Outgoing, deadline: Duration) -> Result<Bytes, CallError<String>> {
        match self.send_raw(&outgoing, deadline).await {
            Ok(bytes) => Ok(bytes),
            Err(Failure::Status(status)) => Err(match meaning(&status) {
                CallError::App(_) => CallError::App(status.message().to_owned()),
                CallError::Platform(p) => CallError::Platform(p),
            }),
            Err(Failure::Kind(kind)) => Err(refused(kind)),
        }
    }

    async fn send_raw(&self, outgoing: &Outgoing, deadline: Duration) -> Result<Bytes, Failure> {
        let deadline = deadline.min(limits::MAX_DEADLINE);
        let end = now() + deadline;
        let sent = AtomicBool::new(false);
        match tokio::time::timeout_at(end, self.attempts(outgoing, end, &sent)).await {
            Ok(answer) => answer,
            Err(_) if sent.load(Ordering::Relaxed) => {
                Err(Failure::Kind(ErrorKind::Unknown { why: format!("no answer within {deadline:?}") }))
            }
            Err(_) => Err(Failure::Kind(ErrorKind::DeadlineExceeded {
                blocker: Some("this client's calls under way".into()),
            })),
        }
    }

    /// Asks one endpoint after the other, as long as the request surely was not sent.
    async fn attempts(&self, outgoing: &Outgoing, end: Instant, sent: &AtomicBool) -> Result<Bytes, Failure> {
        let Ok(_place) = self.places.acquire().await else {
            return Err(Failure::Kind(ErrorKind::Unavailable { what: "the client was closed".into() }));
        };
        let mut reasons = Vec::new();
        for endpoint in self.endpoints.order() {
            let left = end.saturating_duration_since(now());
            if left.is_zero() {
                return Err(Failure::Kind(ErrorKind::DeadlineExceeded { blocker: reasons.pop() }));
            }
            match attempt(endpoint, outgoing, left, sent).await {
                Ok(bytes) => {
                    endpoint.answered();
                    return Ok(bytes);
                }
                Err(status) if never_sent(&status) => {
                    endpoint.failed();
                    sent.store(false, Ordering::Relaxed);
                    reasons.push(format!("{}: {}", endpoint.address, reason(&status)));
                }
                Err(status) => return Err(Failure::Status(status)),
            }
        }
        let what = format!("no node can be reached ({})", reasons.join("; "));
        Err(Failure::Kind(ErrorKind::Unavailable { what }))
    }
}

/// Why a call failed: what the other side said, or what this side knows.
enum Failure {
    Status(Status),
    Kind(ErrorKind),
}

async fn attempt(
    endpoint: &Endpoint,
    outgoing: &Outgoing,
    left: Duration,
    sent: &AtomicBool,
) -> Result<Bytes, Status> {
    let mut request = outgoing.request(left);
    if outgoing.json {
        // tonic sets the content type itself, so the form is told apart.
        request.metadata_mut().insert("millet-form", AsciiMetadataValue::from_static("json"));
    }
    let mut grpc = tonic::client::Grpc::new(endpoint.channel.clone())
        .max_decoding_message_size(limits::MESSAGE_BYTES + SLACK_BYTES);
    grpc.ready().await.map_err(|e| Status::from_error(e.into()))?;
    sent.store(true, Ordering::Relaxed);
    grpc.unary(request, outgoing.path.clone(), Plain).await.map(tonic::Response::into_inner)
}

/// What a status means for the caller: the gateway's own words where it has spoken; else the turn may
/// have run.
fn meaning(status: &Status) -> CallError<millet_core::AppError> {
    millet_proto::status::from_status(status)
        .unwrap_or_else(|| unknown(format!("link lost: {}", reason(status))))
}

/// The innermost cause, which says most.
fn reason(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        text = error.to_string();
        source = error.source();
    }
    text
}
