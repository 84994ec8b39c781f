//! What stands before HTTP/2 on every port: the guard that waits for the preface, and the one that counts
//! control frames. However the bytes are cut into reads, what passes is what came, or its beginning.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use millet_gateway::{Calm, Prompt, Rejects};
use tokio::io::{AsyncRead, AsyncReadExt as _, ReadBuf};

use crate::bytes::Input;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes that come in pieces.
struct Pieces<'a> {
    bytes: &'a [u8],
    size: usize,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let n = self.size.min(to.remaining()).min(self.bytes.len());
        let (now, later) = self.bytes.split_at(n);
        to.put_slice(now);
        self.bytes = later;
        Poll::Ready(Ok(()))
    }
}

pub(crate) fn run(input: &[u8]) {
    let mut input = Input(input);
    let (size, proper) = (usize::from(input.byte()) + 1, input.byte() & 1 == 0);
    let rest = input.rest();
    let sent = if proper { [PREFACE, rest].concat() } else { rest.to_vec() };
    let whole = pass(&sent, sent.len().max(1));
    assert!(sent.starts_with(&whole), "the guards changed what was sent");
    let pieces = pass(&sent, size);
    assert!(sent.starts_with(&pieces), "the guards changed what was sent in pieces");
}

fn pass(sent: &[u8], size: usize) -> Vec<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    runtime.expect("a runtime").block_on(async {
        let rejects = Arc::new(Rejects::new("fuzz"));
        let io = Prompt::new(Pieces { bytes: sent, size }, Duration::from_secs(60), Arc::clone(&rejects));
        let mut io = Calm::new(io, rejects);
        let mut passed = Vec::new();
        drop(io.read_to_end(&mut passed).await);
        passed
    })
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    // SETTINGS, its acknowledgement, PING, HEADERS, an empty DATA.
    let frames: &[&[u8]] = &[
        &[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 100],
        &[0, 0, 0, 4, 1, 0, 0, 0, 0],
        &[0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8],
        &[0, 0, 1, 1, 4, 0, 0, 0, 1, 0x82],
        &[0, 0, 0, 0, 0, 0, 0, 0, 1],
    ];
    let mut all = vec![[&[6, 0][..], &frames.concat()].concat(), [&[0, 1][..], PREFACE].concat()];
    all.push([&[255, 1][..], b"GET / HTTP/1.1\r\n"].concat());
    all.push(vec![255, 1, 0x16, 3, 1, 0, 200, 1]);
    all.extend(frames.iter().map(|f| [&[255, 0][..], f].concat()));
    all
}
