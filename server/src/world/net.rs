//! The network seam: bind and connect, and the two adapters that put tonic on top of it.
//!
//! Both ends set `tcp_nodelay`: `serve_with_incoming` ignores tonic's own setting, and a write that waits
//! for an acknowledgement costs 44 ms.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use millet_core::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::{Channel, Endpoint, Uri, server::Connected};

/// A connection.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}

/// Bind and connect.
pub trait Net: Send + Sync + 'static {
    /// Listens on `addr`, `host:port`; port 0 takes a free one.
    fn bind<'a>(&'a self, addr: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>>;
    /// Connects to `addr`, `host:port`.
    ///
    /// Cancel safety: dropping the future gives the attempt up.
    fn connect<'a>(&'a self, addr: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Stream>>>;
}

/// A bound port.
pub trait Listener: Send + 'static {
    /// Where it listens.
    fn local_addr(&self) -> io::Result<SocketAddr>;
    /// The next connection.
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(Box<dyn Stream>, SocketAddr)>>;
}

/// The operating system's TCP.
#[derive(Clone, Copy, Debug)]
pub struct OsNet;

impl Net for OsNet {
    fn bind<'a>(&'a self, addr: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let listener = tokio::net::TcpListener::bind(addr).await?;
            Ok(Box::new(listener) as Box<dyn Listener>)
        })
    }
    fn connect<'a>(&'a self, addr: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Stream>>> {
        Box::pin(async move {
            let stream = tokio::net::TcpStream::connect(addr).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        })
    }
}

impl Listener for tokio::net::TcpListener {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Self::local_addr(self)
    }
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(Box<dyn Stream>, SocketAddr)>> {
        let (stream, from) = ready!(Self::poll_accept(self, cx))?;
        stream.set_nodelay(true)?;
        Poll::Ready(Ok((Box::new(stream), from)))
    }
}

/// A listener's connections as tonic wants them. Errors of one connection do not end it: a moment
/// without file descriptors must not close the port for ever.
pub struct Incoming {
    listener: Box<dyn Listener>,
    pause: Option<Pin<Box<tokio::time::Sleep>>>,
}

/// After a failed accept: long enough not to spin, short enough not to be felt.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

impl Incoming {
    /// The connections of this listener.
    pub fn new(listener: Box<dyn Listener>) -> Self {
        Self { listener, pause: None }
    }
}

impl futures::Stream for Incoming {
    type Item = Result<Accepted, io::Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            match ready!(self.listener.poll_accept(cx)) {
                Ok((stream, from)) => return Poll::Ready(Some(Ok(Accepted { stream, from }))),
                Err(e) => {
                    tracing::warn!(error = %e, "a connection could not be accepted");
                    self.pause = Some(Box::pin(tokio::time::sleep(ACCEPT_PAUSE)));
                }
            }
        }
    }
}

/// One accepted connection.
pub struct Accepted {
    stream: Box<dyn Stream>,
    from: SocketAddr,
}

impl Connected for Accepted {
    type ConnectInfo = SocketAddr;
    fn connect_info(&self) -> SocketAddr {
        self.from
    }
}

impl AsyncRead for Accepted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// Opens tonic channels through a [`Net`].
#[derive(Clone)]
pub struct Dial(Arc<dyn Net>);

type Connecting = BoxFuture<'static, io::Result<TokioIo<Box<dyn Stream>>>>;

/// A peer that does not answer a connect within this is not there; the caller tries again.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// HTTP/2 windows: one maximal message fits a stream's, so that it never waits for a window update.
pub(crate) const STREAM_WINDOW: u32 = 4 * 1024 * 1024;
/// See [`STREAM_WINDOW`]; every lane of a peer shares the connection's.
pub(crate) const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
/// A connection that is silent for this long is pinged; without an answer within the same time it is closed.
pub(crate) const HTTP2_KEEPALIVE: Duration = Duration::from_secs(5);
/// The same for a connection that the grains' threads serve: turns that hold all of them up for some seconds
/// are no reason to lose calls. (The listener gives up after ten.)
pub(crate) const HTTP2_PATIENCE: Duration = Duration::from_secs(15);

impl Dial {
    /// Dials through this network.
    pub fn new(net: Arc<dyn Net>) -> Self {
        Self(net)
    }

    /// A channel that connects when first used, and again after it is lost.
    pub fn lazy(&self, addr: &str) -> Result<Channel, io::Error> {
        Ok(endpoint(addr)?.connect_with_connector_lazy(self.connector(addr)))
    }

    /// A channel that is connected now; fails if nobody listens.
    ///
    /// Cancel safety: dropping the future gives the attempt up.
    pub async fn connect(&self, addr: &str) -> Result<Channel, io::Error> {
        self.connected(addr, endpoint(addr)?).await
    }

    /// As `connect`, for a connection whose tasks start among the grains'.
    pub async fn connect_patiently(&self, addr: &str) -> Result<Channel, io::Error> {
        self.connected(addr, endpoint(addr)?.keep_alive_timeout(HTTP2_PATIENCE)).await
    }

    async fn connected(&self, addr: &str, endpoint: Endpoint) -> Result<Channel, io::Error> {
        let channel = endpoint.connect_with_connector(self.connector(addr)).await;
        channel.map_err(|e| io::Error::new(io::ErrorKind::ConnectionRefused, reason(&e)))
    }

    /// The same as `raft-meta` asks for it: an address that is none gives a channel that fails.
    pub fn or_failing(self) -> millet_raft_meta::Dial {
        Arc::new(move |addr| {
            self.lazy(addr).unwrap_or_else(|e| {
                let (kind, why) = (e.kind(), e.to_string());
                let fail = tower::service_fn(move |_: Uri| {
                    let error = io::Error::new(kind, why.clone());
                    Box::pin(std::future::ready(Err(error))) as Connecting
                });
                Endpoint::from_static("http://nowhere.invalid").connect_with_connector_lazy(fail)
            })
        })
    }

    fn connector(
        &self,
        addr: &str,
    ) -> impl tower::Service<Uri, Response = TokioIo<Box<dyn Stream>>, Error = io::Error, Future = Connecting>
    + Send
    + 'static {
        let (net, addr) = (self.0.clone(), addr.to_owned());
        tower::service_fn(move |_: Uri| {
            let (net, addr) = (net.clone(), addr.clone());
            Box::pin(async move { net.connect(&addr).await.map(TokioIo::new) }) as Connecting
        })
    }
}

fn endpoint(addr: &str) -> Result<Endpoint, io::Error> {
    let bad = |e: &dyn std::fmt::Display| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("{addr:?} is not host:port: {e}"))
    };
    let endpoint = Endpoint::from_shared(format!("http://{addr}")).map_err(|e| bad(&e))?;
    Ok(endpoint
        .connect_timeout(CONNECT_LIMIT)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keep_alive_interval(HTTP2_KEEPALIVE)
        .keep_alive_timeout(HTTP2_KEEPALIVE)
        .keep_alive_while_idle(true))
}

/// An error with its causes: tonic's own text is just "transport error".
pub(crate) fn reason(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut source = e.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}
