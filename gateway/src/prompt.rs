//! A connection must say the HTTP/2 preface soon after it is made: whoever connects and stays silent, or
//! says something else, is cut off (tonic would keep a silent connection for ever, keepalive or not, and
//! answer others with HTTP/2).

use std::{
    future::Future as _,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};
use tonic::transport::server::Connected;

use crate::rejects::{Reject, Rejects};

/// How long a new connection may be silent before its first complete HTTP/2 preface.
pub const FIRST_BYTES: Duration = Duration::from_secs(5);
/// What an HTTP/2 client says first.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How a TLS client begins: a handshake record of some version 3.
const TLS: &[u8] = &[0x16, 0x03];

/// A connection whose preface must come in time; after it, it is the plain connection.
pub struct Prompt<IO> {
    io: IO,
    waiting: Option<Pin<Box<Sleep>>>,
    /// How much of the preface has come.
    seen: usize,
    rejects: Arc<Rejects>,
}

impl<IO> Prompt<IO> {
    /// Gives `io` the time `within` for its preface; who is turned away is noted in `rejects`.
    pub fn new(io: IO, within: Duration, rejects: Arc<Rejects>) -> Self {
        Self { io, waiting: Some(Box::pin(tokio::time::sleep(within))), seen: 0, rejects }
    }

    fn reject(&mut self, why: Reject) -> io::Error {
        self.rejects.note(why);
        let kind = if why == Reject::Silent { io::ErrorKind::TimedOut } else { io::ErrorKind::InvalidData };
        io::Error::new(kind, why.to_string())
    }

    /// Compares with the preface.
    fn check(&mut self, bytes: &[u8]) -> Result<(), Reject> {
        let rest = &PREFACE[self.seen..];
        let n = rest.len().min(bytes.len());
        if bytes[..n] != rest[..n] {
            return Err(if self.seen > 0 { Reject::Garbage } else { speaks(bytes) });
        }
        self.seen += n;
        if self.seen == PREFACE.len() {
            self.waiting = None;
        }
        Ok(())
    }
}

/// What somebody speaks who does not speak HTTP/2.
fn speaks(bytes: &[u8]) -> Reject {
    const VERBS: [&[u8]; 6] = [b"GET ", b"POST", b"HEAD", b"PUT ", b"OPTI", b"CONN"];
    if bytes.starts_with(TLS) {
        Reject::Tls
    } else if VERBS.iter().any(|verb| bytes.starts_with(verb)) {
        Reject::Http1
    } else {
        Reject::Garbage
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Prompt<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        if self.waiting.is_none() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        if self.waiting.as_mut().is_some_and(|s| s.as_mut().poll(cx).is_ready()) {
            return Poll::Ready(Err(self.reject(Reject::Silent)));
        }
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        match self.check(&buf.filled()[before..]) {
            Ok(()) => Poll::Ready(Ok(())),
            Err(why) => {
                buf.set_filled(before);
                Poll::Ready(Err(self.reject(why)))
            }
        }
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

    fn pair() -> (tokio::io::DuplexStream, Prompt<tokio::io::DuplexStream>, Arc<Rejects>) {
        let (client, server) = tokio::io::duplex(64);
        let rejects = Arc::new(Rejects::new("test"));
        (client, Prompt::new(server, FIRST_BYTES, rejects.clone()), rejects)
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_connection_is_cut_off() {
        let (mut client, mut server, rejects) = pair();
        client.write_all(b"PRI * ").await.expect("room");
        let error = server.read_exact(&mut [0; 24]).await.expect_err("a slow loris");
        assert_eq!((error.kind(), rejects.count(Reject::Silent)), (io::ErrorKind::TimedOut, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_preface_of_one_byte_a_second_is_cut_off() {
        let (mut client, mut server, _) = pair();
        let slow = async {
            for byte in PREFACE {
                client.write_all(&[*byte]).await.expect("room");
                // tidy: sleep: paused clock; the pace is what is tested
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        let mut preface = [0; 24];
        let reading = server.read_exact(&mut preface);
        let error =
            tokio::select! { read = reading => read.expect_err("too slow"), () = slow => panic!("taken") };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_has_spoken_may_be_silent() {
        let (mut client, mut server, _) = pair();
        client.write_all(PREFACE).await.expect("room");
        server.read_exact(&mut [0; 24]).await.expect("in time");
        let silent = tokio::time::timeout(FIRST_BYTES * 10, server.read_u8()).await;
        assert!(silent.is_err(), "still open");
    }

    #[tokio::test]
    async fn whoever_speaks_something_else_is_cut_off_at_once_and_named() {
        for (said, wanted) in [
            (&[0x16, 3, 1, 0, 200, 1][..], Reject::Tls),
            (b"GET / HTTP/1.1\r\n", Reject::Http1),
            (b"\0\0\0\0", Reject::Garbage),
            (b"PRI * HTTP/9", Reject::Garbage),
        ] {
            let (mut client, mut server, rejects) = pair();
            client.write_all(said).await.expect("room");
            let error = server.read_exact(&mut [0; 24]).await.expect_err("no HTTP/2");
            assert_eq!((error.to_string(), rejects.count(wanted)), (wanted.to_string(), 1));
        }
    }
}
