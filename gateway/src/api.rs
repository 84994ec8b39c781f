//! The one dynamic gRPC service: `/{interface}/{method}` for every interface of the registry.
//!
//! The key comes in the metadata `millet-key` (or `millet-key-bin` for keys that are not printable
//! ASCII), the deadline in `grpc-timeout`, a request id to be kept over retries in `millet-request-id`
//! (32 hexadecimal digits). With content type `application/grpc+json` (or metadata `millet-form: json`)
//! message and answer are JSON.
//! Arguments are checked before they travel; the turn itself belongs to its activation, so a caller who
//! goes away only loses the answer.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use base64::Engine as _;
use bytes::Bytes;
use futures::{FutureExt as _, future::BoxFuture};
use http::{HeaderMap, HeaderValue, Method as Verb, Request, Response, StatusCode, header::CONTENT_TYPE};
use millet_core::{
    AppError, BootTime, Call, CallError, Caller, Clock, ErrorKind, GrainId, Outcome, RequestId, limits,
    world::Entropy,
};
use tokio::sync::{Semaphore, SemaphorePermit};
use tonic::{Status, body::Body};

use crate::{
    frame::{Answer, read_one},
    interfaces::{Interfaces, Method, Types},
    json, timeout, validate,
};

/// Calls under way through one API listener; the next is `Overloaded`. Each costs a few KiB beside its
/// message.
pub const API_CALLS: usize = 16_384;
/// Bytes of large messages (over [`SMALL_BYTES`]) under way through one API listener; the next is
/// `Overloaded`.
pub const API_BYTES: usize = 256 * 1024 * 1024;
/// Messages up to this size are bounded by [`API_CALLS`] alone.
const SMALL_BYTES: usize = 16 * 1024;
/// What a caller is told to wait when a bound is reached.
const RETRY_AFTER: Duration = Duration::from_millis(100);

const KEY: &str = "millet-key";
const KEY_BIN: &str = "millet-key-bin";
const REQUEST: &str = "millet-request-id";
/// `json`: as the content type `application/grpc+json`, for clients whose library sets that header itself.
const FORM: &str = "millet-form";

/// The dynamic service. Cheap to clone.
#[derive(Clone)]
pub struct Api(Arc<Inner>);

struct Inner {
    interfaces: Arc<Interfaces>,
    caller: Arc<dyn Caller>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    calls: Semaphore,
    bytes: Semaphore,
}

impl Api {
    /// Offers `interfaces` to callers from outside; calls go through `caller`.
    pub fn new(
        interfaces: Arc<Interfaces>,
        caller: Arc<dyn Caller>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Self {
        let (calls, bytes) = (Semaphore::new(API_CALLS), Semaphore::new(API_BYTES));
        Self(Arc::new(Inner { interfaces, caller, clock, entropy, calls, bytes }))
    }

    /// The registry it offers.
    pub fn interfaces(&self) -> &Interfaces {
        &self.0.interfaces
    }
}

impl<B> tower::Service<Request<B>> for Api
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: std::fmt::Display + Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let inner = Arc::clone(&self.0);
        async move { Ok(inner.respond(request).await) }.boxed()
    }
}

/// How message and answer are written.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    Binary,
    Json,
}

impl Form {
    fn of(headers: &HeaderMap) -> Option<Self> {
        let value = headers.get(CONTENT_TYPE)?.to_str().ok()?;
        let json = headers.get(FORM).is_some_and(|v| v == "json");
        match value.split(';').next()?.trim() {
            "application/grpc" if json => Some(Self::Json),
            "application/grpc" | "application/grpc+proto" => Some(Self::Binary),
            "application/grpc+json" => Some(Self::Json),
            _ => None,
        }
    }
    fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Binary => "application/grpc",
            Self::Json => "application/grpc+json",
        })
    }
}

impl Inner {
    async fn respond<B>(&self, request: Request<B>) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes>,
        B::Error: std::fmt::Display,
    {
        if request.method() != Verb::POST {
            return plain(StatusCode::METHOD_NOT_ALLOWED);
        }
        let Some(form) = Form::of(request.headers()) else {
            return plain(StatusCode::UNSUPPORTED_MEDIA_TYPE);
        };
        // Standard services that are not offered here (channelz, …): as every gRPC server answers.
        if request.uri().path().starts_with("/grpc.") {
            let message = format!("{} is not offered here", request.uri().path());
            return refuse(&Status::unimplemented(message), form);
        }
        match self.call(request, form).await {
            Ok(message) => {
                let mut response = Response::new(Body::new(Answer::new(message)));
                response.headers_mut().insert(CONTENT_TYPE, form.content_type());
                response
            }
            Err(status) => refuse(&status, form),
        }
    }

    async fn call<B>(&self, request: Request<B>, form: Form) -> Result<Bytes, Status>
    where
        B: http_body::Body<Data = Bytes>,
        B::Error: std::fmt::Display,
    {
        let early = |e: ErrorKind| millet_proto::status::to_status(CallError::Platform(e.into()), false);
        let _place = self.calls.try_acquire().map_err(|_| early(overloaded("calls under way")))?;
        let (head, body) = request.into_parts();
        let caller = timeout::of(&head.headers).map_err(early)?;
        let deadline = self.clock.boottime().after(timeout::for_call(caller));
        let (interface, method) = self.interfaces.by_path(head.uri.path()).map_err(early)?;
        let grain = key(&head.headers).and_then(|k| interface.grain(&k)).map_err(early)?;
        let request = self.request_id(&head.headers).map_err(early)?;
        let what = head.uri.path().trim_start_matches('/');
        let left = deadline.since(self.clock.boottime());
        let message = match tokio::time::timeout(left, read_one(body, limits::API_MESSAGE_BYTES, what)).await
        {
            Ok(message) => message.map_err(early)?,
            Err(_) => {
                return Err(early(ErrorKind::DeadlineExceeded {
                    blocker: Some("the request's own arrival".into()),
                }));
            }
        };
        let _room = self.room(message.len()).map_err(early)?;
        let args = method.arguments(message, form).map_err(early)?;
        let outcome = self.dispatch(grain, method, args, request, deadline).await;
        let late = self.clock.boottime() >= deadline;
        method.answer(outcome, form, late)
    }

    async fn dispatch(
        &self,
        target: GrainId,
        method: &Method,
        args: Bytes,
        request: RequestId,
        deadline: BootTime,
    ) -> Outcome {
        if self.clock.boottime() >= deadline {
            return Err(CallError::Platform(ErrorKind::DeadlineExceeded { blocker: None }.into()));
        }
        let context = Arc::new(Vec::new());
        self.caller.call(Call { target, method: method.info.id, args, request, deadline, context }).await
    }

    fn room(&self, bytes: usize) -> Result<Option<SemaphorePermit<'_>>, ErrorKind> {
        if bytes <= SMALL_BYTES {
            return Ok(None);
        }
        let n = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.bytes.try_acquire_many(n).map(Some).map_err(|_| overloaded("bytes of messages under way"))
    }

    fn request_id(&self, headers: &HeaderMap) -> Result<RequestId, ErrorKind> {
        let Some(value) = headers.get(REQUEST) else { return Ok(RequestId(self.entropy.next_u128())) };
        let text = value.to_str().unwrap_or("");
        match u128::from_str_radix(text, 16) {
            Ok(n) if text.len() == 32 => Ok(RequestId(n)),
            _ => Err(ErrorKind::BadArgument { why: format!("{REQUEST} is 32 hexadecimal digits") }),
        }
    }
}

impl Method {
    fn arguments(&self, message: Bytes, form: Form) -> Result<Bytes, ErrorKind> {
        match (form, &self.types) {
            (Form::Json, _) => {
                let text = std::str::from_utf8(&message).map_err(|e| ErrorKind::BadArgument {
                    why: format!("{}: the JSON is {e}", self.info.name),
                })?;
                self.args_from_json(text)
            }
            (Form::Binary, Types::Protobuf { input, .. }) => match validate::check(input, &message) {
                Ok(()) => Ok(message),
                Err(e) => Err(ErrorKind::BadArgument { why: format!("{}: {e}", self.info.name) }),
            },
            // Rust-first: only the grain's own code knows the types.
            (Form::Binary, Types::Named(_)) => Ok(message),
        }
    }

    fn answer(&self, outcome: Outcome, form: Form, late: bool) -> Result<Bytes, Status> {
        let status = |e| millet_proto::status::to_status(e, late);
        match (outcome, form) {
            (Ok(result), Form::Binary) => Ok(result),
            (Ok(result), Form::Json) => self
                .result_to_json(&result)
                .map(Bytes::from)
                .map_err(|e| status(CallError::Platform(e.into()))),
            // For readers of JSON the message of the status is the error itself.
            (Err(CallError::App(e @ AppError::Encoded(_))), Form::Json) => {
                let text = json::error_to_json(&e).to_string();
                let made = status(CallError::App(e));
                let mut shown = Status::new(made.code(), text.chars().take(1024).collect::<String>());
                *shown.metadata_mut() = made.metadata().clone();
                Err(shown)
            }
            (Err(e), _) => Err(status(e)),
        }
    }
}

fn overloaded(what: &str) -> ErrorKind {
    ErrorKind::Overloaded { retry_after: RETRY_AFTER, what: what.to_owned() }
}

/// The key in text form.
fn key(headers: &HeaderMap) -> Result<String, ErrorKind> {
    let bad = |why: String| ErrorKind::BadKey { why };
    if let Some(value) = headers.get(KEY_BIN) {
        let raw = value.as_bytes();
        let raw = raw.strip_suffix(b"==").or_else(|| raw.strip_suffix(b"=")).unwrap_or(raw);
        let bytes = base64::prelude::BASE64_STANDARD_NO_PAD
            .decode(raw)
            .map_err(|e| bad(format!("metadata {KEY_BIN} is not base64: {e}")))?;
        return String::from_utf8(bytes).map_err(|_| bad(format!("metadata {KEY_BIN} is not UTF-8")));
    }
    match headers.get(KEY) {
        Some(value) => std::str::from_utf8(value.as_bytes())
            .map(str::to_owned)
            .map_err(|_| bad(format!("metadata {KEY} is not UTF-8"))),
        None => Err(bad(format!("no key; name the grain in the metadata {KEY}"))),
    }
}

fn refuse(status: &Status, form: Form) -> Response<Body> {
    let mut response = Response::new(Body::default());
    let headers = response.headers_mut();
    if status.add_header(headers).is_err() {
        headers.insert("grpc-status", HeaderValue::from_static("2"));
    }
    headers.insert(CONTENT_TYPE, form.content_type());
    headers.insert("grpc-accept-encoding", HeaderValue::from_static("identity"));
    response
}

fn plain(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::default());
    *response.status_mut() = status;
    response
}
