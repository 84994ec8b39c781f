//! A task with a tokio channel per counter, a oneshot per reply; bounded, as a mailbox is.

use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::sync::{mpsc, oneshot};

use crate::drive::Target;

/// What a counter's task is sent: what to add, and who wants to know.
pub type Message = (u64, Option<oneshot::Sender<u64>>);

/// What a counter's channel holds where nothing else is asked for: as many as a grain's mailbox.
const DEPTH: usize = 1024;

/// Starts a counter whose channel holds so many messages.
pub fn counter(depth: usize) -> mpsc::Sender<Message> {
    let (tx, mut rx) = mpsc::channel::<Message>(depth);
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
pub struct Tasks(Arc<[mpsc::Sender<Message>]>);

impl Tasks {
    /// So many.
    pub fn start(count: u64) -> Self {
        Self((0..count).map(|_| counter(DEPTH)).collect())
    }
}

impl Target for Tasks {
    async fn ask(&self, key: u64, by: u64) -> Result<u64> {
        let (tx, rx) = oneshot::channel();
        let counter = self.0.get(usize::try_from(key)?).context("no such counter")?;
        counter.send((by, Some(tx))).await?;
        Ok(rx.await?)
    }
}
