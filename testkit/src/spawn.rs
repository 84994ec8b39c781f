//! Threads and tasks for tests: plain ones, whose panics are seen.

use std::{io, thread};

use millet_core::world::Threads;
#[cfg(feature = "tokio")]
use millet_core::{BoxFuture, world::Spawner};

/// Named OS threads.
#[derive(Clone, Copy, Default, Debug)]
pub struct StdThreads;

impl Threads for StdThreads {
    fn spawn(&self, name: &str, body: Box<dyn FnOnce() + Send>) -> io::Result<()> {
        thread::Builder::new().name(name.to_owned()).spawn(body).map(drop)
    }
}

/// Tasks on a tokio runtime.
#[cfg(feature = "tokio")]
#[derive(Clone, Debug)]
pub struct TokioSpawner(tokio::runtime::Handle);

#[cfg(feature = "tokio")]
impl TokioSpawner {
    /// On the runtime this is called in.
    ///
    /// # Panics
    /// Outside a runtime.
    pub fn current() -> Self {
        Self(tokio::runtime::Handle::current())
    }
}

#[cfg(feature = "tokio")]
impl Spawner for TokioSpawner {
    fn spawn(&self, name: &'static str, task: BoxFuture<'static, ()>) {
        let task = self.0.spawn(task);
        self.0.spawn(async move {
            if let Err(e) = task.await
                && e.is_panic()
            {
                eprintln!("task {name} panicked: {e}");
            }
        });
    }

    fn spawn_blocking(&self, name: &'static str, work: Box<dyn FnOnce() + Send>) {
        let work = self.0.spawn_blocking(work);
        self.0.spawn(async move {
            if let Err(e) = work.await
                && e.is_panic()
            {
                eprintln!("blocking work {name} panicked: {e}");
            }
        });
    }
}
