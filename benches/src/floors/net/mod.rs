//! The network at its best: an ask between two processes over gRPC (a call each, or one stream for all) or
//! over bare TCP. The server adds in place, without a task, a queue or a counter per key.

mod client;
mod server;
mod tcp;

pub use client::{Stream, Unary};
pub use server::serve;
pub use tcp::{Bare, Framed};

/// What the contract compiles to.
pub mod wire {
    #![allow(missing_docs, clippy::all, reason = "generated")]
    tonic::include_proto!("millet.bench");
}

/// Asks in one batch, at most.
pub const BATCH: usize = 64;
/// Batches that wait for the connection, at most.
pub const BATCHES: usize = 16;
/// Asks that wait for the writer; callers wait when it is full.
pub const WAITING: usize = 4096;

/// What an ask is answered with: the sum of a counter that held nothing.
fn answer(by: u64) -> u64 {
    by + 1
}
