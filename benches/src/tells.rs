//! Producers that send one-way messages to one grain, for the rows `tell` and `mailbox`: the clock runs
//! from the start of the first producer until the grain has taken the last message.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use millet::prelude::*;
use tokio::task::JoinSet;

use crate::{
    counter::{Add, Counter},
    floors::{channel, swap},
};

/// More messages than a round sends, so that nothing is refused and no sender waits.
pub const DEEP: usize = 1 << 21;

/// A counter whose mailbox holds a whole round.
pub struct Deep {
    sum: u64,
}

impl Grain for Deep {
    type Service = DeepService;

    fn options() -> GrainOptions {
        GrainOptions::sharded(1).mailbox(DEEP)
    }

    fn create(_: &mut Create<'_, Self>) -> Self {
        Self { sum: 0 }
    }
}

#[millet::grain(name = "bench.Deep", key = int)]
impl Deep {
    /// Adds and answers the sum.
    async fn add(&mut self, _ctx: &Ctx<Self>, by: u64) -> u64 {
        self.sum += by;
        self.sum
    }
}

/// Something that takes messages for one grain, and can say when it has taken all.
pub trait Sink: Send + Sync + 'static {
    /// Said before a round: what the grain's sum will be, over all rounds.
    fn expect(&self, _sum: u64) {}
    /// Sends 1, so many times.
    fn send(self: Arc<Self>, count: u64) -> impl Future<Output = Result<()>> + Send;
    /// Waits until the grain has taken all that was sent; its sum.
    fn taken(&self) -> impl Future<Output = Result<u64>> + Send;
}

/// So many messages a round, from so many producers, once unmeasured and then `rounds` times; the mean of a
/// round, for each number of producers in turn.
pub async fn rounds<S: Sink, const N: usize>(
    sink: Arc<S>,
    producers: [u64; N],
    messages: u64,
    rounds: u64,
) -> Result<[Duration; N]> {
    let (mut sum, mut means) = (0, [Duration::ZERO; N]);
    for (mean, producers) in means.iter_mut().zip(producers) {
        round(&sink, producers, messages, &mut sum).await?;
        let start = Instant::now();
        for _ in 0..rounds {
            round(&sink, producers, messages, &mut sum).await?;
        }
        *mean = start.elapsed().div_f64(rounds as f64);
    }
    Ok(means)
}

async fn round<S: Sink>(sink: &Arc<S>, producers: u64, messages: u64, sum: &mut u64) -> Result<()> {
    *sum += messages;
    sink.expect(*sum);
    let mut tasks = JoinSet::new();
    for producer in 0..producers {
        let share = messages / producers + u64::from(producer < messages % producers);
        tasks.spawn(sink.clone().send(share));
    }
    while let Some(done) = tasks.join_next().await {
        done.context("a producer panicked")??;
    }
    let taken = sink.taken().await?;
    ensure!(taken == *sum, "the grain has {taken} of {sum} messages");
    Ok(())
}

/// The same grain, active: until its shard is open, tells go one by one by the directory, and an ask may
/// overtake them there.
pub async fn awake<S: Sink>(grain: S) -> Result<S> {
    ensure!(grain.taken().await? == 0, "nothing was sent yet");
    Ok(grain)
}

/// The grain with the deep mailbox.
pub struct DeepGrain(pub Arc<Node>);

impl Sink for DeepGrain {
    async fn send(self: Arc<Self>, count: u64) -> Result<()> {
        let grain = self.0.get::<DeepService>(Key::Int(1));
        for _ in 0..count {
            grain.tell::<deep::Add>(deep::AddArgs { by: 1 })?;
        }
        Ok(())
    }

    async fn taken(&self) -> Result<u64> {
        // An ask queues behind the tells.
        Ok(self.0.get::<DeepService>(Key::Int(1)).add(0).await?)
    }
}

/// A grain with the default mailbox of 1,024: who finds it full yields and sends again.
pub struct PlainGrain(pub Arc<Node>);

impl Sink for PlainGrain {
    async fn send(self: Arc<Self>, count: u64) -> Result<()> {
        let grain = self.0.get::<Counter>(Key::Int(1));
        for _ in 0..count {
            while let Err(error) = grain.tell::<Add>(1) {
                ensure!(matches!(error.kind(), ErrorKind::Overloaded { .. }), error);
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    async fn taken(&self) -> Result<u64> {
        let grain = self.0.get::<Counter>(Key::Int(1));
        loop {
            match grain.call::<Add>(0).await {
                Err(CallError::Platform(e)) if matches!(e.kind(), ErrorKind::Overloaded { .. }) => {
                    tokio::task::yield_now().await;
                }
                answer => return Ok(answer?),
            }
        }
    }
}

/// The swap buffer with a dispatched grain.
pub struct Swap(pub swap::Mailbox);

impl Sink for Swap {
    async fn send(self: Arc<Self>, count: u64) -> Result<()> {
        for _ in 0..count {
            self.0.push(1);
        }
        Ok(())
    }

    fn expect(&self, sum: u64) {
        self.0.expect(sum);
    }

    async fn taken(&self) -> Result<u64> {
        Ok(self.0.reached().await)
    }
}

/// A task with a tokio channel.
pub struct Channel(pub tokio::sync::mpsc::Sender<channel::Message>);

impl Sink for Channel {
    async fn send(self: Arc<Self>, count: u64) -> Result<()> {
        for _ in 0..count {
            self.0.try_send((1, None))?;
        }
        Ok(())
    }

    async fn taken(&self) -> Result<u64> {
        let (tx, rx) = tokio::sync::oneshot::channel();
        self.0.send((0, Some(tx))).await?;
        Ok(rx.await?)
    }
}
