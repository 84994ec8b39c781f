//! Packs operations of many callers into few requests. Nothing lingers: an operation that finds no
//! request under way leaves at once; what comes while all are under way leaves together.

use std::{sync::Arc, time::Duration};

use millet_core::{BoxFuture, limits, world::Spawner};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::road::{Failure, backoff};

/// Requests under way at once. Enough to fill a link with 1 ms of delay, few enough that batches form.
const IN_FLIGHT: usize = 4;
/// Bytes of values in one request, unless one alone is longer.
const BATCH_BYTES: usize = 1024 * 1024;
/// Operations waiting in front of the requests: beyond, callers wait.
const WAITING: usize = 4 * limits::BATCH_OPS;
/// How long an operation is tried before its caller hears that it failed; callers with less time stop
/// waiting earlier.
const LIMIT: Duration = limits::DEFAULT_DEADLINE;

/// One kind of batched request.
pub(super) trait Request: Send + Sync + 'static {
    /// What is asked.
    type Op: Clone + Send + Sync + 'static;
    /// What comes back for each.
    type Answer: Send + 'static;
    /// Bytes it adds to a request.
    fn weight(op: &Self::Op) -> usize;
    /// One attempt; answers in order. Fewer than operations (at least one): ask for the rest again.
    fn attempt(&self, ops: Vec<Self::Op>) -> BoxFuture<'_, Result<Vec<Self::Answer>, Failure>>;
    /// The answer when it is given up: `Maybe` if any attempt may have done it.
    fn given_up(op: &Self::Op, why: Failure) -> Self::Answer;
}

type Waiting<R> = (<R as Request>::Op, oneshot::Sender<<R as Request>::Answer>);

/// The entrance.
pub(super) struct Batcher<R: Request> {
    queue: mpsc::Sender<Waiting<R>>,
}

impl<R: Request> Batcher<R> {
    pub(super) fn start(request: R, name: &'static str, spawner: &Arc<dyn Spawner>) -> Self {
        let (queue, incoming) = mpsc::channel(WAITING);
        let task = run(Arc::new(request), name, incoming, Arc::clone(spawner));
        spawner.spawn(name, Box::pin(task));
        Self { queue }
    }

    /// Asks and waits.
    ///
    /// Cancel safety: dropped, the operation may or may not be done; it is not repeated any more.
    pub(super) async fn ask(&self, op: R::Op) -> R::Answer {
        let (tx, rx) = oneshot::channel();
        let stopped = || Failure::Maybe("this node's client has stopped".into());
        if let Err(mpsc::error::SendError((op, _))) = self.queue.send((op.clone(), tx)).await {
            return R::given_up(&op, Failure::NotDone("this node's client has stopped".into()));
        }
        rx.await.unwrap_or_else(|_| R::given_up(&op, stopped()))
    }
}

async fn run<R: Request>(
    request: Arc<R>,
    name: &'static str,
    mut incoming: mpsc::Receiver<Waiting<R>>,
    spawner: Arc<dyn Spawner>,
) {
    let free = Arc::new(Semaphore::new(IN_FLIGHT));
    while let Some(first) = incoming.recv().await {
        let Ok(permit) = Arc::clone(&free).acquire_owned().await else { return };
        let mut bytes = R::weight(&first.0);
        let mut batch = vec![first];
        while batch.len() < limits::BATCH_OPS && bytes < BATCH_BYTES {
            let Ok(next) = incoming.try_recv() else { break };
            bytes += R::weight(&next.0);
            batch.push(next);
        }
        let request = Arc::clone(&request);
        let deliver = async move {
            deliver(&*request, batch).await;
            drop(permit);
        };
        spawner.spawn(name, Box::pin(deliver));
    }
}

/// Repeats until there is an answer, the limit is reached, or nobody waits any more.
async fn deliver<R: Request>(request: &R, mut batch: Vec<Waiting<R>>) {
    let mut maybe = None;
    let mut last = Failure::NotDone("not tried".into());
    let tries = async {
        for n in 1.. {
            batch.retain(|(_, caller)| !caller.is_closed());
            if batch.is_empty() {
                return;
            }
            match request.attempt(batch.iter().map(|(op, _)| op.clone()).collect()).await {
                Ok(answers) if (1..=batch.len()).contains(&answers.len()) => {
                    for ((_, caller), answer) in batch.drain(..answers.len()).zip(answers) {
                        drop(caller.send(answer));
                    }
                    // An answer that would have been too long is cut: the rest is asked for at once.
                    continue;
                }
                Ok(answers) => {
                    maybe =
                        Some(format!("{} operations were sent, {} answers came", batch.len(), answers.len()));
                    return;
                }
                Err(f @ Failure::Refused(_)) => {
                    last = f;
                    return;
                }
                Err(f) => {
                    if let Failure::Maybe(text) = &f {
                        maybe = Some(text.clone());
                    }
                    last = f;
                }
            }
            tokio::time::sleep(backoff(n)).await;
        }
    };
    // At the limit an attempt may be under way: what it does is not known.
    if tokio::time::timeout(LIMIT, tries).await.is_err() && maybe.is_none() {
        maybe = Some(format!("no answer within {} s", LIMIT.as_secs()));
    }
    let why = maybe.map_or(last, Failure::Maybe);
    for (op, caller) in batch {
        drop(caller.send(R::given_up(&op, why.clone())));
    }
}
