//! The mailbox of an activation without the activation: pushed to under its lock, emptied by one task that
//! swaps batches, as a run does.

use std::{
    collections::VecDeque,
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Poll, Waker},
};

use anyhow::{Result, ensure};
use millet_runtime::mailbox::Mailbox;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::tells::{DEEP, Sink};

/// The mailbox, and who reads it.
#[derive(Default)]
pub struct Bare {
    inner: Mutex<Inner>,
    /// The sum at which the reader says so.
    expected: AtomicU64,
    reached: Notify,
}

#[derive(Default)]
struct Inner {
    mailbox: Mailbox<u64>,
    reader: Option<Waker>,
}

impl Bare {
    /// With a task that reads it, for as long as the pool lives.
    pub fn start() -> Arc<Self> {
        let bare = Arc::<Self>::default();
        tokio::spawn(bare.clone().read());
        bare
    }

    fn push(&self, by: u64) -> Result<()> {
        let (pushed, reader) = {
            let mut inner = self.inner.lock();
            (inner.mailbox.push(by, DEEP), inner.reader.take())
        };
        if let Some(reader) = reader {
            reader.wake();
        }
        ensure!(pushed.is_ok(), "the mailbox is full");
        Ok(())
    }

    async fn read(self: Arc<Self>) {
        let (mut batch, mut sum) = (VecDeque::new(), 0);
        loop {
            self.fill(&mut batch).await;
            while let Some(by) = batch.pop_front() {
                sum += by;
                if sum == self.expected.load(Ordering::Acquire) {
                    self.reached.notify_one();
                }
            }
        }
    }

    /// Waits for something.
    async fn fill(&self, batch: &mut VecDeque<u64>) {
        poll_fn(|cx| {
            let mut inner = self.inner.lock();
            if inner.mailbox.is_empty() {
                inner.reader = Some(cx.waker().clone());
                return Poll::Pending;
            }
            inner.mailbox.swap(batch);
            Poll::Ready(())
        })
        .await;
    }
}

impl Sink for Bare {
    async fn send(self: Arc<Self>, count: u64) -> Result<()> {
        (0..count).try_for_each(|_| self.push(1))
    }

    fn expect(&self, sum: u64) {
        self.expected.store(sum, Ordering::Release);
    }

    async fn taken(&self) -> Result<u64> {
        self.reached.notified().await;
        Ok(self.expected.load(Ordering::Acquire))
    }
}
