//! The asking process over gRPC.

use std::sync::Arc;

use anyhow::{Result, bail};
use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

use super::{
    BATCH, BATCHES, WAITING,
    wire::{Ask, Batch, floor_client::FloorClient},
};
use crate::drive::Target;

async fn connect(address: &str) -> Result<FloorClient<Channel>> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?.tcp_nodelay(true);
    Ok(FloorClient::new(endpoint.connect().await?))
}

/// One gRPC call an ask, all over one connection.
#[derive(Clone)]
pub struct Unary(FloorClient<Channel>);

impl Unary {
    /// Connects.
    pub async fn connect(address: &str) -> Result<Self> {
        Ok(Self(connect(address).await?))
    }
}

impl Target for Unary {
    async fn ask(&self, key: u64, by: u64) -> Result<u64> {
        Ok(self.0.clone().one(Ask { id: 0, key, by }).await?.into_inner().by)
    }
}

/// One stream for all asks. Its writer yields once before it drains the queue, so that who is ready to ask
/// gets into the same batch.
#[derive(Clone)]
pub struct Stream {
    asks: mpsc::Sender<(Ask, oneshot::Sender<u64>)>,
}

type Pending = Arc<Mutex<HashMap<u64, oneshot::Sender<u64>>>>;

impl Stream {
    /// Connects and opens the stream.
    pub async fn connect(address: &str) -> Result<Self> {
        let mut client = connect(address).await?;
        let (asks, queue) = mpsc::channel(WAITING);
        let (frames, outbound) = mpsc::channel(BATCHES);
        let pending = Pending::default();
        tokio::spawn(write(queue, frames, pending.clone()));
        let mut replies = client.many(ReceiverStream::new(outbound)).await?.into_inner();
        tokio::spawn(async move {
            while let Ok(Some(batch)) = replies.message().await {
                let mut pending = pending.lock();
                for reply in batch.asks {
                    if let Some(caller) = pending.remove(&reply.id) {
                        // Who no longer waits misses nothing.
                        let _ = caller.send(reply.by);
                    }
                }
            }
            // The stream has ended: nobody waits for ever.
            pending.lock().clear();
        });
        Ok(Self { asks })
    }
}

async fn write(
    mut queue: mpsc::Receiver<(Ask, oneshot::Sender<u64>)>,
    frames: mpsc::Sender<Batch>,
    pending: Pending,
) {
    let (mut id, mut gathered) = (0, Vec::with_capacity(BATCH));
    while let Some(first) = queue.recv().await {
        tokio::task::yield_now().await;
        gathered.push(first);
        while gathered.len() < BATCH
            && let Ok(next) = queue.try_recv()
        {
            gathered.push(next);
        }
        let mut asks = Vec::with_capacity(gathered.len());
        {
            let mut pending = pending.lock();
            for (ask, caller) in gathered.drain(..) {
                id += 1;
                pending.insert(id, caller);
                asks.push(Ask { id, ..ask });
            }
        }
        if frames.send(Batch { asks }).await.is_err() {
            return;
        }
    }
}

impl Target for Stream {
    async fn ask(&self, key: u64, by: u64) -> Result<u64> {
        let (tx, rx) = oneshot::channel();
        if self.asks.send((Ask { id: 0, key, by }, tx)).await.is_err() {
            bail!("the stream has ended");
        }
        Ok(rx.await?)
    }
}
