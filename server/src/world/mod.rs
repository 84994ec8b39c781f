//! The outside world: clock, entropy, disk, threads, tasks, network. Everything above it goes through
//! these seams, so that production and the simulator run the same assembly.
//!
//! This folder is the only place that names the operating system, sockets and the task spawner's runtime.

mod clock;
pub mod disk;
mod fatal;
pub mod inherited;
#[cfg(target_os = "linux")]
pub mod launch;
pub mod net;
pub mod os;
mod tasks;

use std::sync::Arc;

use millet_core::{
    clock::Clock,
    world::{Disk, Entropy, Spawner, Threads},
};

pub use clock::{OsClock, OsEntropy};
pub use disk::RealDisk;
pub use fatal::Fatal;
pub use net::{Dial, Incoming, Listener, Net, OsNet, Stream};
pub use tasks::{OsThreads, Tasks};

/// Everything a node needs from outside, in one cheap-to-clone value.
#[derive(Clone)]
pub struct World {
    /// Boot, monotonic and wall clock.
    pub clock: Arc<dyn Clock>,
    /// Random bits.
    pub entropy: Arc<dyn Entropy>,
    /// Files.
    pub disk: Arc<dyn Disk>,
    /// Named OS threads.
    pub threads: Arc<dyn Threads>,
    /// Where grains' tasks start.
    pub spawner: Arc<dyn Spawner>,
    /// Where tasks that serve the network start: apart, so that no turn can hold up a keepalive or a
    /// vote that comes in.
    pub io: Arc<dyn Spawner>,
    /// Bind and connect.
    pub net: Arc<dyn Net>,
    /// Ends the process, saying why: a runtime that hangs must not keep its leases, a member whose disk
    /// fails must not carry on.
    pub fatal: Fatal,
}

impl World {
    /// The real world: grains on one runtime, the network on another (or the same), files on `disk`.
    pub fn real(grains: tokio::runtime::Handle, io: tokio::runtime::Handle, disk: Arc<dyn Disk>) -> Self {
        Self {
            clock: Arc::new(OsClock),
            entropy: Arc::new(OsEntropy::default()),
            disk,
            threads: Arc::new(OsThreads),
            spawner: Arc::new(Tasks::new(grains)),
            io: Arc::new(Tasks::new(io)),
            net: Arc::new(OsNet),
            fatal: fatal::abort(),
        }
    }

    /// The real world with everything on the runtime that runs this: for tests and tools.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn here() -> Self {
        let runtime = tokio::runtime::Handle::current();
        Self::real(runtime.clone(), runtime, Arc::new(RealDisk))
    }
}

/// Reads a text file before there is a world: the configuration.
pub fn read_text(path: &std::path::Path) -> std::io::Result<String> {
    std::fs::read_to_string(path)
}
