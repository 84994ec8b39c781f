//! One gRPC message in, one out: the framing of unary calls, with limits and statuses as the gRPC table
//! wants them (tonic's own decoder answers OUT_OF_RANGE and INTERNAL).

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use millet_core::ErrorKind;

/// Compression flag and length.
const PREFIX: usize = 5;

/// Reads the one message of a unary call; nothing is allocated for what is merely announced.
///
/// # Errors
/// `TooLarge` as soon as the length is known; `BadArgument` for anything but exactly one whole,
/// uncompressed message.
pub(crate) async fn read_one<B>(body: B, limit: usize, what: &str) -> Result<Bytes, ErrorKind>
where
    B: Body<Data = Bytes>,
    B::Error: std::fmt::Display,
{
    let mut body = std::pin::pin!(body);
    let mut buffer = Gathered::default();
    let mut wanted = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| bad(format!("the request broke off: {e}")))?;
        let Ok(data) = frame.into_data() else { continue };
        buffer.push(data);
        if wanted.is_none() && buffer.len() >= PREFIX {
            wanted = Some(length(buffer.prefix(), limit, what)?);
        }
        if wanted.is_some_and(|n| buffer.len() > PREFIX + n) {
            return Err(bad("more than one message in a unary call".into()));
        }
    }
    match wanted {
        Some(n) if buffer.len() == PREFIX + n => Ok(buffer.message()),
        Some(n) => Err(bad(format!("the message ends after {} of {n} bytes", buffer.len() - PREFIX))),
        None => Err(bad("no message; a unary call sends exactly one, which may be empty".into())),
    }
}

fn bad(why: String) -> ErrorKind {
    ErrorKind::BadArgument { why }
}

fn length(prefix: [u8; PREFIX], limit: usize, what: &str) -> Result<usize, ErrorKind> {
    let [flag, length @ ..] = prefix;
    if flag != 0 {
        return Err(bad("the message is compressed; send it with grpc-encoding identity".into()));
    }
    let n = u32::from_be_bytes(length) as usize;
    if n > limit {
        return Err(ErrorKind::TooLarge { what: format!("a message of {n} bytes ({what})"), limit });
    }
    Ok(n)
}

/// Data so far: the first chunk as it came (most messages are one), more of them copied together.
#[derive(Default)]
struct Gathered {
    first: Bytes,
    rest: BytesMut,
}

impl Gathered {
    fn push(&mut self, data: Bytes) {
        if self.first.is_empty() && self.rest.is_empty() {
            self.first = data;
        } else {
            if self.rest.is_empty() {
                self.rest.put(std::mem::take(&mut self.first));
            }
            self.rest.put(data);
        }
    }
    fn len(&self) -> usize {
        self.first.len() + self.rest.len()
    }
    fn prefix(&self) -> [u8; PREFIX] {
        let bytes = if self.rest.is_empty() { &self.first[..] } else { &self.rest[..] };
        bytes.first_chunk().copied().expect("called with at least a prefix")
    }
    fn message(mut self) -> Bytes {
        let mut bytes =
            if self.rest.is_empty() { std::mem::take(&mut self.first) } else { self.rest.freeze() };
        bytes.advance(PREFIX);
        bytes
    }
}

/// The answer of a unary call that succeeded: one message, then `grpc-status: 0`.
pub(crate) struct Answer {
    prefix: Option<Bytes>,
    message: Option<Bytes>,
    done: bool,
}

impl Answer {
    pub(crate) fn new(message: Bytes) -> Self {
        let mut prefix = BytesMut::with_capacity(PREFIX);
        prefix.put_u8(0);
        prefix.put_u32(u32::try_from(message.len()).expect("results are limited to a few MiB"));
        Self { prefix: Some(prefix.freeze()), message: Some(message), done: false }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(prefix) = self.prefix.take() {
            return Poll::Ready(Some(Ok(Frame::data(prefix))));
        }
        if let Some(message) = self.message.take().filter(|m| !m.is_empty()) {
            return Poll::Ready(Some(Ok(Frame::data(message))));
        }
        if self.done {
            return Poll::Ready(None);
        }
        self.done = true;
        let mut trailers = HeaderMap::with_capacity(1);
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.done
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
