//! The one place where tasks and threads start. Tasks are tracked until they end; a panic is logged with
//! the task's name and counted.

use std::{
    io,
    panic::AssertUnwindSafe,
    sync::Arc,
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Wake},
    time::Duration,
};

use futures::FutureExt;
use millet_core::{
    BoxFuture,
    world::{Spawner, Threads},
};
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

/// Starts tasks on one tokio runtime.
#[derive(Clone, Debug)]
pub struct Tasks {
    runtime: Handle,
    tracker: TaskTracker,
    panics: Arc<AtomicU64>,
}

impl Tasks {
    /// Tasks of the runtime behind this handle.
    pub fn new(runtime: Handle) -> Self {
        Self { runtime, tracker: TaskTracker::new(), panics: Arc::default() }
    }

    /// How many tasks have panicked.
    pub fn panics(&self) -> u64 {
        self.panics.load(Ordering::Relaxed)
    }

    /// How many tasks have not ended.
    pub fn running(&self) -> usize {
        self.tracker.len()
    }

    /// Waits until every task has ended, at most for `limit`; false if some have not.
    pub async fn drained(&self, limit: Duration) -> bool {
        self.tracker.close();
        tokio::time::timeout(limit, self.tracker.wait()).await.is_ok()
    }
}

impl Spawner for Tasks {
    fn spawn(&self, name: &'static str, task: BoxFuture<'static, ()>) {
        let panics = self.panics.clone();
        let watched = async move {
            if let Err(panic) = AssertUnwindSafe(task).catch_unwind().await {
                panics.fetch_add(1, Ordering::Relaxed);
                tracing::error!(task = name, panic = said(panic.as_ref()), "a task panicked");
            }
        };
        drop(self.runtime.spawn(self.tracker.track_future(watched)));
    }

    fn spawn_blocking(&self, name: &'static str, work: Box<dyn FnOnce() + Send>) {
        let panics = self.panics.clone();
        let token = self.tracker.token();
        drop(self.runtime.spawn_blocking(move || {
            if let Err(panic) = std::panic::catch_unwind(AssertUnwindSafe(work)) {
                panics.fetch_add(1, Ordering::Relaxed);
                tracing::error!(task = name, panic = said(panic.as_ref()), "blocking work panicked");
            }
            drop(token);
        }));
    }
}

/// What a panic said, where it is text.
pub(crate) fn said(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

/// Starts OS threads.
#[derive(Clone, Copy, Debug)]
pub struct OsThreads;

impl Threads for OsThreads {
    fn spawn(&self, name: &str, body: Box<dyn FnOnce() + Send>) -> io::Result<()> {
        std::thread::Builder::new().name(name.to_owned()).spawn(body).map(drop)
    }

    fn drive(&self, name: &str, task: BoxFuture<'static, ()>) -> io::Result<()> {
        self.spawn(name, Box::new(|| parked(task)))
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
        std::thread::available_parallelism().map_or(1, usize::from)
    }
}

/// Polls a future on this thread, which sleeps in between: no reactor stands behind it, so that a wake is
/// one futex and no more.
fn parked(mut task: BoxFuture<'static, ()>) {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
        fn wake_by_ref(self: &Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut cx = Context::from_waker(&waker);
    while task.as_mut().poll(&mut cx).is_pending() {
        std::thread::park();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panicking_task_is_counted_and_drained() {
        let tasks = Tasks::new(Handle::current());
        tasks.spawn("bad", Box::pin(async { panic!("on purpose") }));
        tasks.spawn_blocking("bad", Box::new(|| panic!("on purpose")));
        assert!(tasks.drained(Duration::from_secs(5)).await);
        assert_eq!((tasks.panics(), tasks.running()), (2, 0));
    }
}
