//! A counter without a task: whoever asks an idle one runs its turn in place; who comes meanwhile queues,
//! and a task is started for the queue. Looked up by key in a sharded map, made there at the first ask.

use std::sync::Arc;

use anyhow::Result;
use hashbrown::HashMap;
use millet_core::BoxFuture;
use parking_lot::{Mutex, RwLock};
use tokio::sync::oneshot;

use crate::drive::Target;

/// Shards of the map; more than threads, so that they seldom meet.
const SHARDS: usize = 64;

/// A grain behind a pointer: one boxed future a turn.
pub trait Turn: Send {
    /// Adds and answers the sum.
    fn turn<'a>(&'a mut self, by: u64) -> BoxFuture<'a, u64>;
}

/// Counts.
#[derive(Default)]
pub struct Count(u64);

impl Turn for Count {
    fn turn<'a>(&'a mut self, by: u64) -> BoxFuture<'a, u64> {
        Box::pin(async move {
            self.0 += by;
            self.0
        })
    }
}

struct Cell(Mutex<Inner>);

struct Inner {
    /// Away while a turn runs.
    grain: Option<Box<dyn Turn>>,
    waiting: Vec<(u64, oneshot::Sender<u64>)>,
}

impl Cell {
    fn new() -> Self {
        Self(Mutex::new(Inner { grain: Some(Box::new(Count::default())), waiting: Vec::new() }))
    }

    async fn ask(self: &Arc<Self>, by: u64) -> Result<u64> {
        let heard = {
            let mut inner = self.0.lock();
            match inner.grain.take() {
                Some(grain) => Ok(grain),
                None => {
                    let (tx, rx) = oneshot::channel();
                    inner.waiting.push((by, tx));
                    Err(rx)
                }
            }
        };
        let mut grain = match heard {
            Ok(grain) => grain,
            Err(rx) => return Ok(rx.await?),
        };
        let sum = grain.turn(by).await;
        let mut inner = self.0.lock();
        if inner.waiting.is_empty() {
            inner.grain = Some(grain);
        } else {
            drop(inner);
            tokio::spawn(self.clone().drain(grain));
        }
        Ok(sum)
    }

    async fn drain(self: Arc<Self>, mut grain: Box<dyn Turn>) {
        loop {
            let batch = {
                let mut inner = self.0.lock();
                if inner.waiting.is_empty() {
                    inner.grain = Some(grain);
                    return;
                }
                std::mem::take(&mut inner.waiting)
            };
            for (by, reply) in batch {
                // Who no longer waits misses nothing.
                let _ = reply.send(grain.turn(by).await);
            }
        }
    }
}

/// The cells, by key.
#[derive(Clone)]
pub struct Cells(Arc<[Shard]>);

type Shard = RwLock<HashMap<u64, Arc<Cell>>>;

impl Cells {
    /// None yet.
    pub fn new() -> Self {
        Self((0..SHARDS).map(|_| RwLock::default()).collect())
    }

    fn get(&self, key: u64) -> Arc<Cell> {
        // Fibonacci hashing; the high bits choose the shard.
        let shard = &self.0[(key.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 58) as usize];
        if let Some(cell) = shard.read().get(&key) {
            return cell.clone();
        }
        shard.write().entry(key).or_insert_with(|| Arc::new(Cell::new())).clone()
    }
}

impl Target for Cells {
    async fn ask(&self, key: u64, by: u64) -> Result<u64> {
        self.get(key).ask(by).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asks that meet are all run, one after the other.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn asks_that_collide_are_all_counted() {
        let cells = Cells::new();
        let callers: Vec<_> = (0..8)
            .map(|_| {
                let cells = cells.clone();
                tokio::spawn(async move {
                    for _ in 0..5_000 {
                        cells.ask(7, 1).await.unwrap();
                    }
                })
            })
            .collect();
        for caller in callers {
            caller.await.unwrap();
        }
        assert_eq!(cells.ask(7, 0).await.unwrap(), 40_000);
    }
}
