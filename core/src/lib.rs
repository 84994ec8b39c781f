//! What every Millet crate shares: ids, epochs, envelopes, errors, limits, and the seams
//! (clock, disk, entropy, threads, stores) behind which the outside world sits.
//!
//! No async runtime, no socket and no I/O lives here. Who imports what is written in
//! `docs/architecture.md` and enforced by `cargo xtask tidy`.

pub mod caller;
pub mod clock;
pub mod control;
pub mod envelope;
pub mod epoch;
pub mod error;
pub mod hash;
pub mod id;
pub mod limits;
pub mod memory_store;
pub mod model;
pub mod service;
pub mod session;
pub mod store;
pub mod world;

pub use caller::{Call, Caller};
pub use clock::{BootTime, Clock};
pub use envelope::{Chain, Envelope, Frame, RequestId, Sender};
pub use epoch::{Epoch, Grant};
pub use error::{AppError, CallError, ErrorKind, Outcome, PlatformError, Ran, Refusal};
pub use id::{GrainId, GrainType, Key, KeyKind, MethodId, NodeId, Revision, SessionId, ShardId};
pub use memory_store::MemoryStore;
pub use service::{Method, MethodInfo, Service, ServiceInfo};
pub use session::SessionLease;

/// A boxed future that may be sent between threads: the shape of every dyn-compatible async seam.
pub type BoxFuture<'a, T> = std::pin::Pin<Box<dyn std::future::Future<Output = T> + Send + 'a>>;
