//! Threads and tasks for tests: plain ones, whose panics are seen.

use std::{io, thread};

use millet_core::{
    BoxFuture,
    world::{Spawner, Threads},
};

/// Named OS threads.
#[derive(Clone, Copy, Default, Debug)]
pub struct StdThreads;

impl Threads for StdThreads {
    fn spawn(&self, name: &str, body: Box<dyn FnOnce() + Send>) -> io::Result<()> {
        thread::Builder::new().name(name.to_owned()).spawn(body).map(drop)
    }

    fn drive(&self, name: &str, task: BoxFuture<'static, ()>) -> io::Result<()> {
        self.run(name, task, Box::new(|| ()))
    }

    fn run(
        &self,
        name: &str,
        task: BoxFuture<'static, ()>,
        gone: Box<dyn FnOnce() + Send>,
    ) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let body = move || {
            runtime.block_on(task);
            drop(runtime);
            gone();
        };
        self.spawn(name, Box::new(body))
    }

    fn cores(&self) -> usize {
        2
    }
}

/// Tasks on a tokio runtime.
#[derive(Clone, Debug)]
pub struct TokioSpawner(tokio::runtime::Handle);

impl TokioSpawner {
    /// On the runtime this is called in.
    ///
    /// # Panics
    /// Outside a runtime.
    pub fn current() -> Self {
        Self(tokio::runtime::Handle::current())
    }
}

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
