//! A task with a tokio channel per counter, a oneshot per reply. Unbounded: the channel at its best.

use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::sync::{mpsc, oneshot};

use crate::drive::Target;

/// What a counter's task is sent: what to add, and who wants to know.
pub type Message = (u64, Option<oneshot::Sender<u64>>);

/// Starts a counter.
pub fn counter() -> mpsc::UnboundedSender<Message> {
    let (tx, mut rx) = mpsc::unbounded_channel::<Message>();
    tokio::spawn(async move {
        let mut sum = 0;
        while let Some((by, reply)) = rx.recv().await {
            sum += by;
            if let Some(reply) = reply {
                // Who no longer waits misses nothing.
                let _ = reply.send(sum);
            }
        }
    });
    tx
}

/// Counters by position, all running.
#[derive(Clone)]
pub struct Tasks(Arc<[mpsc::UnboundedSender<Message>]>);

impl Tasks {
    /// So many.
    pub fn start(count: u64) -> Self {
        Self((0..count).map(|_| counter()).collect())
    }
}

impl Target for Tasks {
    async fn ask(&self, key: u64, by: u64) -> Result<u64> {
        let (tx, rx) = oneshot::channel();
        let counter = self.0.get(usize::try_from(key)?).context("no such counter")?;
        counter.send((by, Some(tx)))?;
        Ok(rx.await?)
    }
}
