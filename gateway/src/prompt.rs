//! A connection must speak soon after it is made: whoever connects and stays silent is cut off (tonic
//! would keep such a connection for ever, keepalive or not).

use std::{
    future::Future as _,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};
use tonic::transport::server::Connected;

/// How long a new connection may be silent before its first complete HTTP/2 preface.
pub const FIRST_BYTES: Duration = Duration::from_secs(5);
/// `PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n`
const PREFACE_BYTES: usize = 24;

/// A connection whose first bytes must come in time; after them it is the plain connection.
pub struct Prompt<IO> {
    io: IO,
    waiting: Option<Pin<Box<Sleep>>>,
    left: usize,
}

impl<IO> Prompt<IO> {
    /// Gives `io` the time `within` for its first bytes.
    pub fn new(io: IO, within: Duration) -> Self {
        Self { io, waiting: Some(Box::pin(tokio::time::sleep(within))), left: PREFACE_BYTES }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Prompt<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        if self.waiting.is_none() {
            return read;
        }
        if let Poll::Ready(done) = read {
            self.left = self.left.saturating_sub(buf.filled().len() - before);
            if self.left == 0 {
                self.waiting = None;
            }
            return Poll::Ready(done);
        }
        let late = self.waiting.as_mut().is_some_and(|s| s.as_mut().poll(cx).is_ready());
        if late {
            let why = "the connection was silent before its HTTP/2 preface";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, why)));
        }
        Poll::Pending
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Prompt<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bytes)
    }
    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

impl<IO: Connected> Connected for Prompt<IO> {
    type ConnectInfo = IO::ConnectInfo;
    fn connect_info(&self) -> Self::ConnectInfo {
        self.io.connect_info()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_silent_connection_is_cut_off() {
        let (mut client, server) = tokio::io::duplex(64);
        let mut server = Prompt::new(server, FIRST_BYTES);
        client.write_all(b"PRI * ").await.expect("room");
        let error = server.read_exact(&mut [0; 24]).await.expect_err("a slow loris");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_has_spoken_may_be_silent() {
        let (mut client, server) = tokio::io::duplex(64);
        let mut server = Prompt::new(server, FIRST_BYTES);
        client.write_all(&[7; 24]).await.expect("room");
        server.read_exact(&mut [0; 24]).await.expect("in time");
        let silent = tokio::time::timeout(FIRST_BYTES * 10, server.read_u8()).await;
        assert!(silent.is_err(), "still open");
    }
}
