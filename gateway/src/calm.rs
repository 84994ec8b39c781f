//! Cuts off connections that flood us with HTTP/2 control frames: h2 answers every PING and SETTINGS and
//! offers no limit on them, so the frames are counted where the bytes come in. Everything else that
//! floods (rapid reset, CONTINUATION, streams) h2 and the server's settings stop themselves.

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

use crate::{
    prompt::PREFACE,
    rejects::{Reject, Rejects},
};

/// Control frames a connection may send at once: far more than any client needs to open a thousand
/// streams, cancel them all and probe its bandwidth; far less than what keeps a core busy.
pub const CONTROL_FRAMES: u32 = 10_000;
/// See [`CONTROL_FRAMES`]: so many more every second.
pub const CONTROL_FRAMES_PER_SECOND: u32 = 500;
/// And one more for so many bytes that we send: whoever is served answers, cancels, and moves windows.
/// The answer to a PING is 17 bytes, so that PINGs do not pay for themselves.
const BYTES_PER_FRAME: u64 = 64;
/// Between two looks at a connection that has used its allowance.
const SECOND: Duration = Duration::from_secs(1);

/// How much is left to a connection. Pure: fed with what was read and written, and with seconds.
#[derive(Debug)]
struct Allowance {
    /// Of the client's preface.
    preface: usize,
    header: [u8; HEADER],
    have: usize,
    /// Of the payload of the frame at hand.
    payload: usize,
    frames: u32,
    written: u64,
}

/// Length (3), type, flags, stream (4).
const HEADER: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
/// END_STREAM on DATA, ACK on SETTINGS and PING.
const FLAG_1: u8 = 1;

impl Allowance {
    fn new() -> Self {
        Self {
            preface: PREFACE.len(),
            header: [0; HEADER],
            have: 0,
            payload: 0,
            frames: CONTROL_FRAMES,
            written: 0,
        }
    }

    /// Counts the frames in these bytes; false if they are too many.
    fn read(&mut self, mut bytes: &[u8]) -> bool {
        let skip = self.preface.min(bytes.len());
        self.preface -= skip;
        bytes = &bytes[skip..];
        while !bytes.is_empty() {
            let skip = self.payload.min(bytes.len());
            self.payload -= skip;
            bytes = &bytes[skip..];
            let taken = (HEADER - self.have).min(bytes.len());
            self.header[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have == HEADER {
                self.have = 0;
                if !self.frame() {
                    return false;
                }
            }
        }
        true
    }

    fn frame(&mut self) -> bool {
        let [a, b, c, kind, flags, ..] = self.header;
        self.payload = u32::from_be_bytes([0, a, b, c]) as usize;
        let counted = match kind {
            DATA => self.payload == 0 && flags & FLAG_1 == 0,
            HEADERS | CONTINUATION => false,
            SETTINGS | PING => flags & FLAG_1 == 0,
            // PRIORITY, RST_STREAM, WINDOW_UPDATE and what no version knows.
            _ => true,
        };
        if !counted {
            return true;
        }
        self.frames = self.frames.saturating_sub(1);
        self.frames > 0
    }

    fn wrote(&mut self, bytes: usize) {
        self.written += bytes as u64;
        let earned = self.written / BYTES_PER_FRAME;
        self.written %= BYTES_PER_FRAME;
        self.earn(u32::try_from(earned).unwrap_or(u32::MAX));
    }

    fn earn(&mut self, frames: u32) {
        self.frames = self.frames.saturating_add(frames).min(CONTROL_FRAMES);
    }

    fn is_full(&self) -> bool {
        self.frames == CONTROL_FRAMES
    }
}

/// A connection whose control frames are counted; one that sends too many is closed.
pub struct Calm<IO> {
    io: IO,
    allowance: Allowance,
    /// Runs only while the allowance is not full: idle connections have no timer.
    second: Option<Pin<Box<Sleep>>>,
    rejects: Arc<Rejects>,
    closed: bool,
}

impl<IO> Calm<IO> {
    /// Counts what `io` reads; what is cut off is noted in `rejects`.
    pub fn new(io: IO, rejects: Arc<Rejects>) -> Self {
        Self { io, allowance: Allowance::new(), second: None, rejects, closed: false }
    }

    fn seconds(&mut self, cx: &mut Context<'_>) {
        while !self.allowance.is_full() {
            let second = self.second.get_or_insert_with(|| Box::pin(tokio::time::sleep(SECOND)));
            if second.as_mut().poll(cx).is_pending() {
                return;
            }
            self.allowance.earn(CONTROL_FRAMES_PER_SECOND);
            self.second = None;
        }
        self.second = None;
    }

    fn flooded() -> io::Error {
        io::Error::new(io::ErrorKind::ConnectionAborted, Reject::Flood.to_string())
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Calm<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.closed {
            return Poll::Ready(Err(Self::flooded()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        self.seconds(cx);
        if self.allowance.read(&buf.filled()[before..]) {
            return Poll::Ready(Ok(()));
        }
        self.closed = true;
        self.rejects.note(Reject::Flood);
        buf.set_filled(before);
        Poll::Ready(Err(Self::flooded()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Calm<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let n = ready!(Pin::new(&mut self.io).poll_write(cx, bytes))?;
        self.allowance.wrote(n);
        Poll::Ready(Ok(n))
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
        let n = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, bytes))?;
        self.allowance.wrote(n);
        Poll::Ready(Ok(n))
    }
    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

impl<IO: Connected> Connected for Calm<IO> {
    type ConnectInfo = IO::ConnectInfo;
    fn connect_info(&self) -> Self::ConnectInfo {
        self.io.connect_info()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let [_, a, b, c] = u32::try_from(payload).expect("small").to_be_bytes();
        [vec![a, b, c, kind, flags, 0, 0, 0, 1], vec![0xff; payload]].concat()
    }
    fn spent(kind: u8, flags: u8, payload: usize) -> u32 {
        let mut a = Allowance::new();
        assert!(a.read(PREFACE) && a.read(&frame(kind, flags, payload)));
        CONTROL_FRAMES - a.frames
    }

    #[test]
    fn work_is_free_and_control_frames_are_counted() {
        for (kind, flags, payload, wanted) in [
            (DATA, 0, 100, 0),
            (DATA, FLAG_1, 0, 0),
            (DATA, 0, 0, 1),
            (HEADERS, 4, 50, 0),
            (CONTINUATION, 4, 50, 0),
            (SETTINGS, 0, 12, 1),
            (SETTINGS, FLAG_1, 0, 0),
            (PING, 0, 8, 1),
            (PING, FLAG_1, 8, 0),
            (2, 0, 5, 1),
            (3, 0, 4, 1),
            (8, 0, 4, 1),
            (77, 0, 3, 1),
        ] {
            assert_eq!(spent(kind, flags, payload), wanted, "frame {kind} with flags {flags}");
        }
    }

    /// However the bytes are cut into reads, the same frames are seen.
    #[test]
    fn frames_are_found_across_the_borders_of_reads() {
        let bytes: Vec<u8> = [PREFACE.to_vec(), frame(SETTINGS, 0, 18)]
            .into_iter()
            .chain((0..40).map(|n| frame(if n % 2 == 0 { PING } else { DATA }, 0, 8)))
            .flatten()
            .collect();
        for size in [1, 2, 7, 9, 10, 17, 18, bytes.len()] {
            let mut a = Allowance::new();
            assert!(bytes.chunks(size).all(|piece| a.read(piece)));
            assert_eq!(CONTROL_FRAMES - a.frames, 21, "in pieces of {size}");
        }
    }

    #[test]
    fn a_flood_ends_although_every_ping_is_answered() {
        let mut a = Allowance::new();
        assert!(a.read(PREFACE));
        let ping = frame(PING, 0, 8);
        let answered = |_: &u32| {
            a.wrote(ping.len());
            a.read(&ping)
        };
        let sent = (0..200_000).take_while(answered).count();
        assert!((10_000..15_000).contains(&sent), "{sent}");
    }

    #[test]
    fn whoever_is_served_may_send_control_frames_for_ever() {
        let mut a = Allowance::new();
        assert!(a.read(PREFACE));
        for _ in 0..100_000 {
            a.wrote(120);
            assert!(a.read(&frame(8, 0, 4)), "a window update for every answer");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_ping_a_millisecond_for_a_minute_is_cut_off_and_two_a_second_are_not() {
        for (every, wanted) in [(Duration::from_millis(1), false), (Duration::from_millis(500), true)] {
            let (mut client, server) = tokio::io::duplex(1024);
            let rejects = Arc::new(Rejects::new("test"));
            let mut server = Calm::new(server, rejects.clone());
            let reading = async { tokio::io::copy(&mut server, &mut tokio::io::sink()).await.is_ok() };
            let writing = async move {
                client.write_all(PREFACE).await.expect("open");
                for _ in 0..60_000 {
                    if client.write_all(&frame(PING, 0, 8)).await.is_err() {
                        break;
                    }
                    // tidy: sleep: paused clock; the pace is what is tested
                    tokio::time::sleep(every).await;
                }
            };
            let kept = tokio::select! { kept = reading => kept, () = writing => true };
            assert_eq!((kept, rejects.count(Reject::Flood)), (wanted, u64::from(!wanted)), "every {every:?}");
        }
    }

    #[tokio::test]
    async fn what_is_read_and_written_is_unchanged() {
        let (mut client, server) = tokio::io::duplex(1024);
        let mut server = Calm::new(server, Arc::new(Rejects::new("test")));
        let sent = [PREFACE.to_vec(), frame(DATA, 0, 30)].concat();
        client.write_all(&sent).await.expect("room");
        let mut got = vec![0; sent.len()];
        server.read_exact(&mut got).await.expect("all of it");
        assert_eq!(got, sent);
        server.write_all(b"answer").await.expect("room");
        let mut answer = [0; 6];
        client.read_exact(&mut answer).await.expect("all of it");
        assert_eq!(&answer, b"answer");
    }
}
