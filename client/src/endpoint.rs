//! The nodes a client may ask, which of them to ask next, and whether a request that failed was sent.

use std::{
    error::Error,
    sync::atomic::{AtomicU32, AtomicUsize, Ordering},
};

use tonic::{Status, transport::Channel};

/// After a failed connect an endpoint is passed over this many times while others are there: no clock is
/// needed, and a busy client tries again sooner than an idle one.
const PASSES: u32 = 64;

/// One address with its connection, which is made on first use and again when lost.
pub(crate) struct Endpoint {
    pub(crate) address: String,
    pub(crate) channel: Channel,
    passes: AtomicU32,
}

impl Endpoint {
    pub(crate) fn new(address: String, channel: Channel) -> Self {
        Self { address, channel, passes: AtomicU32::new(0) }
    }
    pub(crate) fn failed(&self) {
        self.passes.store(PASSES, Ordering::Relaxed);
    }
    pub(crate) fn answered(&self) {
        if self.passes.load(Ordering::Relaxed) != 0 {
            self.passes.store(0, Ordering::Relaxed);
        }
    }
    fn is_passed_over(&self) -> bool {
        self.passes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok()
    }
}

/// All endpoints, asked in turn.
pub(crate) struct Endpoints {
    all: Vec<Endpoint>,
    next: AtomicUsize,
}

impl Endpoints {
    pub(crate) fn new(all: Vec<Endpoint>) -> Self {
        Self { all, next: AtomicUsize::new(0) }
    }

    /// Every endpoint once: those that connect first, in turn, then the others.
    pub(crate) fn order(&self) -> impl Iterator<Item = &Endpoint> {
        let start = self.next.fetch_add(1, Ordering::Relaxed);
        let turn = move |i| &self.all[(start.wrapping_add(i)) % self.all.len()];
        let first = (0..self.all.len()).position(|i| !turn(i).is_passed_over()).unwrap_or(0);
        (0..self.all.len()).map(move |i| turn((first + i) % self.all.len()))
    }
}

/// Whether the server ended the connection in good order without this request: h2 gives this error to
/// streams above the last id that GOAWAY names, which were not and will not be acted upon (RFC 9113,
/// section 6.8), and to requests it no longer writes; a stream that was cut off later has an error of I/O.
fn is_goodbye(error: &h2::Error) -> bool {
    error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR)
}

/// Whether a failed request surely never reached a server: no connection, the connection was closed
/// before the request was written, or the server refused the stream unread.
pub(crate) fn never_sent(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled) {
            return true;
        }
        if let Some(h2) = error.downcast_ref::<h2::Error>() {
            return h2.reason() == Some(h2::Reason::REFUSED_STREAM) || is_goodbye(h2);
        }
        source = error.source();
    }
    false
}
