//! A tower layer for every gRPC service of a listener that answers as the gRPC table says where tonic
//! does not: other content types (tonic runs the call), malformed `grpc-timeout` (too), deadlines (tonic answers CANCELLED), too
//! large messages (OUT_OF_RANGE), malformed ones (INTERNAL), panics (the stream is reset).

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures::{FutureExt as _, future::BoxFuture};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use millet_core::{CallError, ErrorKind, limits};
use millet_proto::status::to_status;
use tonic::{Code, Status};

use crate::timeout;

/// The layer. One per listener: it numbers the panics it has seen.
#[derive(Clone, Debug)]
pub struct Repair {
    panics: Arc<AtomicU64>,
    default: Duration,
    unhurried: &'static str,
}

impl Default for Repair {
    /// For callers from outside.
    fn default() -> Self {
        Self { panics: Arc::default(), default: limits::DEFAULT_DEADLINE, unhurried: "" }
    }
}

impl Repair {
    /// For nodes among themselves: their calls bring their own time limits, mostly without the header, so
    /// that only the longest is cut here; calls to the path `unhurried` are not.
    pub fn inner(unhurried: &'static str) -> Self {
        Self { panics: Arc::default(), default: limits::MAX_DEADLINE, unhurried }
    }
}

impl<S> tower::Layer<S> for Repair {
    type Service = Repaired<S>;
    fn layer(&self, inner: S) -> Repaired<S> {
        Repaired { inner, layer: self.clone() }
    }
}

/// A service behind [`Repair`].
#[derive(Clone, Debug)]
pub struct Repaired<S> {
    inner: S,
    layer: Repair,
}

impl<S, A, B> tower::Service<Request<A>> for Repaired<S>
where
    S: tower::Service<Request<A>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    A: Send + 'static,
    B: Default + Send + 'static,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<B>, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        if !is_grpc(request.headers()) {
            let mut response = Response::new(B::default());
            *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            return std::future::ready(Ok(response)).boxed();
        }
        let limit = match timeout::in_header(request.headers()) {
            Ok(Some(limit)) => Some(limit),
            Ok(None) if request.uri().path() == self.layer.unhurried => None,
            Ok(None) => Some(self.layer.default),
            Err(kind) => return std::future::ready(Ok(refused(kind, false))).boxed(),
        };
        // A watch without a deadline of its own is not cut: only its first answer is waited for.
        let panics = Arc::clone(&self.layer.panics);
        let path = request.uri().path().to_owned();
        let answer = AssertUnwindSafe(self.inner.call(request)).catch_unwind();
        async move {
            let answered = match limit {
                Some(limit) => {
                    tokio::time::timeout(timeout::for_answer(limit), answer).await.map_err(|_| limit)
                }
                None => Ok(answer.await),
            };
            match answered {
                Ok(Ok(Ok(mut response))) => {
                    repair(response.headers_mut());
                    Ok(response)
                }
                Ok(Ok(Err(e))) => Err(e),
                Ok(Err(_)) => {
                    let id = panics.fetch_add(1, Ordering::Relaxed);
                    tracing::error!(id = format_args!("{id:016x}"), path, "a service panicked");
                    Ok(refused(ErrorKind::Panicked { id }, false))
                }
                Err(limit) => {
                    let why = format!("no answer within the deadline of {limit:?}");
                    Ok(refused(ErrorKind::Unknown { why }, true))
                }
            }
        }
        .boxed()
    }
}

/// tonic's generated services take every content type.
fn is_grpc(headers: &HeaderMap) -> bool {
    let value = headers.get(http::header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
    value.is_some_and(|v| v.starts_with("application/grpc"))
}

fn refused<B: Default>(kind: ErrorKind, late: bool) -> Response<B> {
    answer(&to_status(CallError::Platform(kind.into()), late))
}

fn answer<B: Default>(status: &Status) -> Response<B> {
    let mut response = Response::new(B::default());
    let headers = response.headers_mut();
    headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    if status.add_header(headers).is_err() {
        headers.insert("grpc-status", HeaderValue::from_static("2"));
    }
    response
}

/// Statuses that tonic's decoder makes; they come without a body, so they are in the headers.
fn repair(headers: &mut HeaderMap) {
    let (Some(code), Some(message)) = (headers.get("grpc-status"), headers.get("grpc-message")) else {
        return;
    };
    let (code, message) =
        (Code::from_bytes(code.as_bytes()), String::from_utf8_lossy(message.as_bytes()).replace("%20", " "));
    let better = match code {
        Code::OutOfRange if message.contains("message length too large") => Code::ResourceExhausted,
        Code::Internal if ["decode", "decoding", "compression flag"].iter().any(|t| message.contains(t)) => {
            Code::InvalidArgument
        }
        Code::Cancelled if message.contains("Timeout expired") => Code::DeadlineExceeded,
        _ => return,
    };
    headers.insert("grpc-status", HeaderValue::from(i32::from(better)));
}
