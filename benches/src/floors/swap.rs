//! A mailbox that is a vector behind a mutex: the reader swaps it for an empty one and works through the
//! batch; each message is one boxed future of a grain behind a pointer.

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Poll, Waker},
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::cell::{Count, Turn};

/// The mailbox.
#[derive(Clone, Default)]
pub struct Mailbox(Arc<Shared>);

#[derive(Default)]
struct Shared {
    inner: Mutex<Inner>,
    /// The sum at which the reader says so.
    expected: AtomicU64,
    reached: Notify,
}

#[derive(Default)]
struct Inner {
    queue: Vec<u64>,
    reader: Option<Waker>,
}

impl Mailbox {
    /// With a grain that reads it, for as long as the pool lives.
    pub fn start() -> Self {
        let mailbox = Self::default();
        tokio::spawn(mailbox.clone().read());
        mailbox
    }

    /// Puts a message in.
    pub fn push(&self, by: u64) {
        let wake = {
            let mut inner = self.0.inner.lock();
            inner.queue.push(by);
            inner.reader.take()
        };
        if let Some(reader) = wake {
            reader.wake();
        }
    }

    /// To be said before the messages that bring the grain's sum there.
    pub fn expect(&self, sum: u64) {
        self.0.expected.store(sum, Ordering::Release);
    }

    /// Waits for the sum that was said; it.
    pub async fn reached(&self) -> u64 {
        self.0.reached.notified().await;
        self.0.expected.load(Ordering::Acquire)
    }

    /// Swaps what has gathered into an empty batch; waits for something.
    async fn take(&self, batch: &mut Vec<u64>) {
        poll_fn(|cx| {
            let mut inner = self.0.inner.lock();
            if inner.queue.is_empty() {
                inner.reader = Some(cx.waker().clone());
                return Poll::Pending;
            }
            std::mem::swap(&mut inner.queue, batch);
            Poll::Ready(())
        })
        .await;
    }

    async fn read(self) {
        let mut grain: Box<dyn Turn> = std::hint::black_box(Box::new(Count::default()));
        let mut batch = Vec::new();
        loop {
            self.take(&mut batch).await;
            for by in batch.drain(..) {
                if grain.turn(by).await == self.0.expected.load(Ordering::Acquire) {
                    self.0.reached.notify_one();
                }
            }
        }
    }
}
