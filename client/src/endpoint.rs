//! The nodes a client may ask, which of them to ask next, and whether a request that failed was sent.

use std::{
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
};

use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioIo};
use tonic::{
    Status,
    transport::{self, Channel, Uri},
};
use tower::ServiceExt as _;

use crate::goodbye::Goodbyes;

/// After a failed connect an endpoint is passed over this many times while others are there: no clock is
/// needed, and a busy client tries again sooner than an idle one.
const PASSES: u32 = 64;

/// One address with its connection, which is made on first use and again when lost.
pub(crate) struct Endpoint {
    pub(crate) address: String,
    pub(crate) channel: Channel,
    pub(crate) goodbyes: Arc<Goodbyes>,
    passes: AtomicU32,
}

impl Endpoint {
    pub(crate) fn new(address: String, channel: &transport::Endpoint) -> Self {
        let goodbyes = Arc::new(Goodbyes::default());
        let watching = goodbyes.clone();
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        let connector = tower::service_fn(move |uri: Uri| {
            let (goodbyes, connecting) = (watching.clone(), tcp.clone().oneshot(uri));
            async move { connecting.await.map(|io| TokioIo::new(goodbyes.watch(io.into_inner()))) }
        });
        let channel = channel.connect_with_connector_lazy(connector);
        Self { address, channel, goodbyes, passes: AtomicU32::new(0) }
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

/// Whether a request failed because the server ended the connection in good order: it may or may not have
/// been served, [`Goodbyes::not_served`] tells.
pub(crate) fn met_goodbye(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if let Some(h2) = error.downcast_ref::<h2::Error>() {
            return h2.is_go_away() && h2.is_remote() && h2.reason() == Some(h2::Reason::NO_ERROR);
        }
        source = error.source();
    }
    false
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
        if let Some(h2) = error.downcast_ref::<h2::Error>()
            && h2.reason() == Some(h2::Reason::REFUSED_STREAM)
        {
            return true;
        }
        source = error.source();
    }
    false
}
