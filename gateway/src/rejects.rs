//! Connections that a listener turned away, by reason. Logged when their number doubles: whoever attacks
//! a port does not fill the log.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

/// Why a connection was turned away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reject {
    /// It did not send a whole HTTP/2 preface in time.
    Silent,
    /// It began with a TLS handshake.
    Tls,
    /// It began with a request of HTTP/1.
    Http1,
    /// It began with something else.
    Garbage,
    /// It sent more control frames than anybody needs.
    Flood,
}

impl fmt::Display for Reject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Silent => "the connection was silent before its HTTP/2 preface",
            Self::Tls => "the client spoke TLS to a plaintext port; connect without TLS",
            Self::Http1 => "the client spoke HTTP/1; this port speaks gRPC, which is HTTP/2",
            Self::Garbage => "the connection did not begin with an HTTP/2 preface; this port speaks gRPC",
            Self::Flood => "too many control frames (too_many_pings); slow down",
        })
    }
}

/// How many of each; one per listener.
#[derive(Debug)]
pub struct Rejects {
    listener: &'static str,
    counts: [AtomicU64; 5],
}

impl Rejects {
    /// None so far; `listener` names the port in the log.
    pub fn new(listener: &'static str) -> Self {
        Self { listener, counts: Default::default() }
    }

    /// How many connections were turned away for this reason.
    pub fn count(&self, reject: Reject) -> u64 {
        self.counts[reject as usize].load(Ordering::Relaxed)
    }

    pub(crate) fn note(&self, reject: Reject) {
        let count = self.counts[reject as usize].fetch_add(1, Ordering::Relaxed) + 1;
        if count.is_power_of_two() {
            tracing::warn!(listener = self.listener, count, "connections were turned away: {reject}");
        }
    }
}
