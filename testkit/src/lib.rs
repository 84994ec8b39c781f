//! Test tools of the workspace: bounded waiting, a disk that forgets, clocks that are set by hand,
//! seeded entropy, an in-memory state store, and the conformance suite every state store passes.
//!
//! Used from tests only. The suite for store authors (`store-suite`) needs nothing but `millet-core`.

mod clock;
mod entropy;
pub mod sim_disk;
mod skip;
#[cfg(feature = "tokio")]
mod spawn;
#[cfg(feature = "store-suite")]
pub mod store_suite;
mod wait;

pub use clock::TestClock;
pub use entropy::SeededEntropy;
pub use millet_core::MemoryStore;
pub use sim_disk::{Cut, SimDisk};
pub use skip::{skip, skip_unprivileged};
#[cfg(feature = "tokio")]
pub use spawn::{StdThreads, TokioSpawner};
pub use wait::until;
#[cfg(feature = "tokio")]
pub use wait::{until_async, until_some};
