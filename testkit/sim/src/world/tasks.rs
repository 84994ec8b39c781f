//! A machine's tasks and threads. There are no threads: what would have one is a task like the others, so
//! that one seed gives one order of events.

use std::{
    future::Future,
    io,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use millet_core::{
    BoxFuture,
    world::{Spawner, Threads},
};
use tokio::{runtime::Handle, time::Sleep};

use super::Machine;

/// A future that runs only while its machine does. A panic is noted, and ends it.
pub struct Gated {
    machine: Arc<Machine>,
    name: String,
    task: BoxFuture<'static, ()>,
    /// The first poll passes a stopped machine: nobody else knows of the task before it.
    begun: bool,
}

impl Gated {
    /// `task` on `machine`.
    pub fn new(machine: Arc<Machine>, name: &str, task: BoxFuture<'static, ()>) -> Self {
        Self { machine, name: name.to_owned(), task, begun: false }
    }
}

impl Future for Gated {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        super::stall::runs(this.machine.number);
        if std::mem::replace(&mut this.begun, true) {
            ready!(this.machine.poll_running(cx));
        }
        let polled = std::panic::catch_unwind(AssertUnwindSafe(|| this.task.as_mut().poll(cx)));
        polled.unwrap_or_else(|panic| {
            let said = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
            let said = said.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
            this.machine.panics.lock().push(format!("{}: {said}", this.name));
            Poll::Ready(())
        })
    }
}

/// Waits for the machine's disk before each poll that follows a wake.
struct Slow {
    machine: Arc<Machine>,
    task: BoxFuture<'static, ()>,
    delay: Option<Pin<Box<Sleep>>>,
    asked: bool,
}

impl Future for Slow {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if !std::mem::replace(&mut this.asked, true) {
            // The first poll only begins to wait for work.
            return this.task.as_mut().poll(cx);
        }
        let delay = this.machine.disk_delay();
        if this.delay.is_none() && delay > Duration::ZERO {
            this.delay = Some(Box::pin(tokio::time::sleep(delay)));
        }
        if let Some(delay) = &mut this.delay {
            ready!(delay.as_mut().poll(cx));
        }
        this.delay = None;
        this.task.as_mut().poll(cx)
    }
}

/// The World's spawner and threads on one machine.
pub struct SimTasks(pub Arc<Machine>);

impl SimTasks {
    fn start(&self, name: &str, task: BoxFuture<'static, ()>) {
        // A destructor may ask after the process has gone.
        if let Ok(runtime) = Handle::try_current() {
            drop(runtime.spawn(Gated::new(self.0.clone(), name, task)));
        }
    }
}

impl Spawner for SimTasks {
    fn spawn(&self, name: &'static str, task: BoxFuture<'static, ()>) {
        self.start(name, task);
    }
    fn spawn_blocking(&self, name: &'static str, work: Box<dyn FnOnce() + Send>) {
        self.start(name, Box::pin(async { work() }));
    }
}

impl Threads for SimTasks {
    fn spawn(&self, name: &str, body: Box<dyn FnOnce() + Send>) -> io::Result<()> {
        self.start(name, Box::pin(async { body() }));
        Ok(())
    }

    fn drive(&self, name: &str, task: BoxFuture<'static, ()>) -> io::Result<()> {
        let slow = Slow { machine: self.0.clone(), task, delay: None, asked: false };
        self.start(name, Box::pin(slow));
        Ok(())
    }

    fn run(
        &self,
        name: &str,
        task: BoxFuture<'static, ()>,
        gone: Box<dyn FnOnce() + Send>,
    ) -> io::Result<()> {
        let body = async {
            task.await;
            gone();
        };
        self.start(name, Box::pin(body));
        Ok(())
    }

    fn cores(&self) -> usize {
        2
    }
}
