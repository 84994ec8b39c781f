//! How a connection that the server ends by GOAWAY ends for the calls on it.
//!
//! RFC 9113, section 6.8: streams above the last id that GOAWAY names were not and will not be acted
//! upon. h2 reports those, and streams that were cut off in the middle, by the same error; so the frames of
//! each connection are counted here. Once every stream up to that id has been answered, whoever still has
//! that error was not served, and may ask another node (G3: a graceful leave fails no call).

use std::{
    collections::BTreeSet,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::Notify,
};

/// What a client says first, before any frame.
const PREFACE: usize = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();
const HEADER: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
/// The bit of a stream id that is reserved.
const ID: u32 = 0x7fff_ffff;

/// What this module wants to know of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    /// The last stream id, of a GOAWAY.
    last: u32,
}

/// Cuts bytes into frames, in pieces of any size.
#[derive(Debug)]
struct Scanner {
    skip: usize,
    head: [u8; HEADER + 4],
    have: usize,
}

impl Scanner {
    fn after(skip: usize) -> Self {
        Self { skip, head: [0; HEADER + 4], have: 0 }
    }

    fn scan(&mut self, mut bytes: &[u8], mut see: impl FnMut(Frame)) {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let wanted = if self.have >= HEADER { self.head.len() } else { HEADER };
            let taken = (wanted - self.have).min(bytes.len());
            self.head[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if let Some(frame) = self.complete() {
                see(frame);
            }
        }
    }

    /// The frame whose head has been read; a GOAWAY's reaches four bytes into its payload.
    fn complete(&mut self) -> Option<Frame> {
        if self.have < HEADER {
            return None;
        }
        let word = |at: usize| {
            let b = &self.head[at..at + 4];
            u32::from_be_bytes([b[0], b[1], b[2], b[3]]) & ID
        };
        let (kind, flags, stream, last) = (self.head[3], self.head[4], word(5), word(HEADER));
        let payload = u32::from_be_bytes([0, self.head[0], self.head[1], self.head[2]]) as usize;
        if kind == GOAWAY && payload >= 4 && self.have < self.head.len() {
            return None;
        }
        self.skip = payload - (self.have - HEADER);
        self.have = 0;
        Some(Frame { kind, flags, stream, last })
    }
}

/// One connection: the streams that wait for an answer, and the server's last word.
#[derive(Debug, Default)]
struct Streams {
    open: BTreeSet<u32>,
    last: Option<u32>,
}

impl Streams {
    fn sent(&mut self, frame: Frame) {
        match frame.kind {
            HEADERS if self.last.is_none_or(|last| frame.stream <= last) => {
                self.open.insert(frame.stream);
            }
            RST_STREAM => {
                self.open.remove(&frame.stream);
            }
            _ => {}
        }
    }

    fn received(&mut self, frame: Frame) {
        match frame.kind {
            HEADERS | DATA if frame.flags & END_STREAM != 0 => {
                self.open.remove(&frame.stream);
            }
            RST_STREAM => {
                self.open.remove(&frame.stream);
            }
            GOAWAY => {
                let last = self.last.map_or(frame.last, |l| l.min(frame.last));
                self.last = Some(last);
                self.open.retain(|id| *id <= last);
            }
            _ => {}
        }
    }

    fn is_said(&self) -> bool {
        self.last.is_some()
    }

    fn is_answered(&self) -> bool {
        self.open.is_empty()
    }
}

/// All connections to one address.
#[derive(Debug, Default)]
pub(crate) struct Goodbyes {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    live: Vec<(u64, Streams)>,
    /// Counts connections made and ended.
    moment: u64,
    /// The last time that a connection ended with calls unanswered after a GOAWAY.
    cut_off: u64,
}

impl Goodbyes {
    /// To be asked before a call, for [`Goodbyes::not_served`].
    pub(crate) fn moment(&self) -> u64 {
        self.state.lock().moment
    }

    /// Whether a call that began at `moment` and failed because of a GOAWAY surely was not served. Waits
    /// for the connections that are saying goodbye; whoever calls gives it a limit.
    pub(crate) async fn not_served(&self, moment: u64) -> bool {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let state = self.state.lock();
                if state.cut_off > moment {
                    return false;
                }
                if state.live.iter().all(|(_, streams)| !streams.is_said() || streams.is_answered()) {
                    return true;
                }
            }
            changed.await;
        }
    }

    /// Watches a new connection.
    pub(crate) fn watch<T>(self: &Arc<Self>, io: T) -> Watched<T> {
        let mut state = self.state.lock();
        state.moment += 1;
        let id = state.moment;
        state.live.push((id, Streams::default()));
        drop(state);
        let (sent, received) = (Scanner::after(PREFACE), Scanner::after(0));
        Watched { io, goodbyes: self.clone(), id, sent, received }
    }

    fn with(&self, id: u64, f: impl FnOnce(&mut Streams)) {
        let mut state = self.state.lock();
        if let Some((_, streams)) = state.live.iter_mut().find(|(at, _)| *at == id) {
            f(streams);
            if streams.is_said() {
                self.changed.notify_waiters();
            }
        }
    }

    fn ended(&self, id: u64) {
        let mut state = self.state.lock();
        state.moment += 1;
        let Some(at) = state.live.iter().position(|(live, _)| *live == id) else { return };
        let (_, streams) = state.live.swap_remove(at);
        if streams.is_said() && !streams.is_answered() {
            state.cut_off = state.moment;
        }
        self.changed.notify_waiters();
    }
}

/// A connection whose frames are counted.
pub(crate) struct Watched<T> {
    io: T,
    goodbyes: Arc<Goodbyes>,
    id: u64,
    sent: Scanner,
    received: Scanner,
}

impl<T> Drop for Watched<T> {
    fn drop(&mut self) {
        self.goodbyes.ended(self.id);
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        let mut frames = Vec::new();
        this.received.scan(&buf.filled()[before..], |frame| frames.push(frame));
        this.goodbyes.with(this.id, |streams| frames.into_iter().for_each(|f| streams.received(f)));
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.io).poll_write(cx, bytes))?;
        let mut frames = Vec::new();
        this.sent.scan(&bytes[..written], |frame| frames.push(frame));
        this.goodbyes.with(this.id, |streams| frames.into_iter().for_each(|f| streams.sent(f)));
        Poll::Ready(Ok(written))
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
        let head = [length[1], length[2], length[3], kind, flags];
        [&head[..], &stream.to_be_bytes(), payload].concat()
    }
    fn goaway(last: u32) -> Vec<u8> {
        frame(GOAWAY, 0, 0, &[last.to_be_bytes(), [0; 4]].concat())
    }
    fn request(stream: u32) -> Vec<u8> {
        [frame(HEADERS, 4, stream, b"head"), frame(DATA, END_STREAM, stream, b"arguments")].concat()
    }
    fn answer(stream: u32) -> Vec<u8> {
        [frame(DATA, 0, stream, &[7; 300]), frame(HEADERS, 4 | END_STREAM, stream, b"")].concat()
    }

    /// What `bytes` mean, in pieces of `piece` bytes.
    fn scan(skip: usize, bytes: &[u8], piece: usize) -> Vec<Frame> {
        let (mut scanner, mut frames) = (Scanner::after(skip), Vec::new());
        bytes.chunks(piece).for_each(|part| scanner.scan(part, |f| frames.push(f)));
        frames
    }

    #[test]
    fn frames_are_found_in_pieces_of_any_size() {
        let bytes = [vec![0; PREFACE], request(1), goaway(5), answer(1)].concat();
        let whole = scan(PREFACE, &bytes, bytes.len());
        assert_eq!(whole.iter().map(|f| f.kind).collect::<Vec<_>>(), [HEADERS, DATA, GOAWAY, DATA, HEADERS]);
        assert_eq!((whole[1].stream, whole[2].last), (1, 5));
        for piece in 1..40 {
            assert_eq!(scan(PREFACE, &bytes, piece), whole, "in pieces of {piece}");
        }
    }

    fn connection(goodbyes: &Arc<Goodbyes>, sent: &[Vec<u8>], received: &[Vec<u8>]) -> Watched<()> {
        let watched = goodbyes.watch(());
        goodbyes.with(watched.id, |s| {
            scan(0, &sent.concat(), 7).into_iter().for_each(|f| s.sent(f));
            scan(0, &received.concat(), 7).into_iter().for_each(|f| s.received(f));
        });
        watched
    }

    #[tokio::test]
    async fn g3_a_stream_above_the_last_id_was_not_served_once_all_others_are_answered() {
        let goodbyes = Arc::new(Goodbyes::default());
        let moment = goodbyes.moment();
        let sent = [request(1), request(3), request(5)];
        let watched = connection(&goodbyes, &sent, &[goaway(ID), answer(1), goaway(3)]);
        let soon = std::time::Duration::from_millis(1);
        let early = tokio::time::timeout(soon, goodbyes.not_served(moment)).await;
        assert!(early.is_err(), "stream 3 may be the one that asks");
        let (verdict, ()) = tokio::join!(goodbyes.not_served(moment), async {
            goodbyes.with(watched.id, |s| {
                scan(0, &answer(3), 7).into_iter().for_each(|f| s.received(f));
            });
        });
        assert!(verdict);
    }

    #[tokio::test]
    async fn a_connection_that_is_cut_after_its_goaway_leaves_its_calls_unknown() {
        let goodbyes = Arc::new(Goodbyes::default());
        let moment = goodbyes.moment();
        let watched = connection(&goodbyes, &[request(1), request(3)], &[goaway(ID), answer(1)]);
        let (verdict, ()) = tokio::join!(goodbyes.not_served(moment), async { drop(watched) });
        assert!(!verdict, "stream 3 was neither answered nor turned away");
        assert!(goodbyes.not_served(goodbyes.moment()).await, "later calls had nothing to do with it");
    }
}
