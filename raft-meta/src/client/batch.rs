//! Packs operations of many callers into few requests. Nothing lingers: an operation that finds no
//! request under way leaves at once; what comes while all are under way leaves together.

use std::{sync::Arc, time::Duration};

use millet_core::{BoxFuture, limits, world::Spawner};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::road::{Failure, backoff, patience};

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
    /// One attempt of at most `limit`; answers in order. Fewer than operations (at least one): ask for the rest again.
    fn attempt(
        &self,
        ops: Vec<Self::Op>,
        limit: Duration,
    ) -> BoxFuture<'_, Result<Vec<Self::Answer>, Failure>>;
    /// The answer when it is given up: `Maybe` if any attempt may have done it.
    fn given_up(op: &Self::Op, why: Failure) -> Self::Answer;
    /// What an answer means when an earlier attempt may have done it already, `why` being how that one
    /// ended: a refusal then proves nothing about the earlier one.
    fn repeated(_op: &Self::Op, _why: &str, answer: Self::Answer) -> Self::Answer {
        answer
    }
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
            deliver(&*request, batch, LIMIT).await;
            drop(permit);
        };
        spawner.spawn(name, Box::pin(deliver));
    }
}

/// Repeats until there is an answer, the limit is reached, or nobody waits any more.
async fn deliver<R: Request>(request: &R, mut batch: Vec<Waiting<R>>, limit: Duration) {
    let (mut maybe, mut asking) = (None::<String>, false);
    let mut last = Failure::NotDone("not tried".into());
    let tries = async {
        for n in 1.. {
            batch.retain(|(_, caller)| !caller.is_closed());
            if batch.is_empty() {
                return;
            }
            let ops = batch.iter().map(|(op, _)| op.clone()).collect();
            asking = true;
            let answered = request.attempt(ops, patience(n)).await;
            asking = false;
            match answered {
                Ok(answers) if (1..=batch.len()).contains(&answers.len()) => {
                    for ((op, caller), answer) in batch.drain(..answers.len()).zip(answers) {
                        let answer = match &maybe {
                            Some(why) => R::repeated(&op, why, answer),
                            None => answer,
                        };
                        drop(caller.send(answer));
                    }
                    // An answer that would have been too long is cut, but all of it was carried out: the rest is
                    // asked for at once, and what is said of it then proves nothing about the first time.
                    if !batch.is_empty() {
                        maybe = Some("carried out once, and its answer was cut".into());
                    }
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
    // What an attempt does that is under way at the limit is not known.
    if tokio::time::timeout(limit, tries).await.is_err() && asking {
        maybe = Some(format!("no answer within {} s", limit.as_secs_f32()));
    }
    let why = maybe.map_or(last, Failure::Maybe);
    for (op, caller) in batch {
        drop(caller.send(R::given_up(&op, why.clone())));
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, future::pending};

    use parking_lot::Mutex;

    use super::*;

    /// Answers attempts from a script; doubles each number it is given.
    struct Script(Mutex<VecDeque<Step>>);
    enum Step {
        Answer(usize),
        Fail(Failure),
        Hang,
    }

    impl Request for Script {
        type Op = u64;
        type Answer = Result<u64, Failure>;
        fn weight(_: &u64) -> usize {
            0
        }
        fn attempt(&self, ops: Vec<u64>, _: Duration) -> BoxFuture<'_, Result<Vec<Self::Answer>, Failure>> {
            Box::pin(async move {
                let step = self.0.lock().pop_front();
                match step {
                    Some(Step::Answer(n)) => Ok(ops.into_iter().take(n).map(|op| Ok(op * 2)).collect()),
                    Some(Step::Fail(f)) => Err(f),
                    Some(Step::Hang) => pending().await,
                    None => Err(no()),
                }
            })
        }
        fn given_up(_: &u64, why: Failure) -> Self::Answer {
            Err(why)
        }
    }

    fn no() -> Failure {
        Failure::NotDone("no".into())
    }
    fn maybe() -> Failure {
        Failure::Maybe("lost".into())
    }

    async fn deliver_two(steps: Vec<Step>) -> Vec<Result<u64, Failure>> {
        let (batch, answers): (Vec<_>, Vec<_>) = [1, 2]
            .map(|op| (op, oneshot::channel()))
            .map(|(op, (tx, rx))| ((op, tx), rx))
            .into_iter()
            .unzip();
        deliver(&Script(Mutex::new(steps.into())), batch, Duration::from_millis(150)).await;
        futures::future::join_all(answers).await.into_iter().map(Result::unwrap).collect()
    }

    #[tokio::test]
    async fn what_was_never_done_is_said_to_be_undone() {
        let answers = deliver_two(vec![Step::Fail(no())]).await;
        assert!(answers.iter().all(|a| matches!(a, Err(Failure::NotDone(_)))), "{answers:?}");
    }

    #[tokio::test]
    async fn one_attempt_that_may_have_done_it_makes_the_outcome_unknown() {
        for steps in [vec![Step::Fail(maybe()), Step::Fail(no())], vec![Step::Fail(no()), Step::Hang]] {
            let answers = deliver_two(steps).await;
            assert!(answers.iter().all(|a| matches!(a, Err(Failure::Maybe(_)))), "{answers:?}");
        }
    }

    #[tokio::test]
    async fn a_lost_answer_is_asked_for_again_and_a_cut_one_for_the_rest() {
        let answers = deliver_two(vec![Step::Fail(maybe()), Step::Answer(1), Step::Answer(1)]).await;
        assert!(matches!(answers[..], [Ok(2), Ok(4)]), "{answers:?}");
    }

    #[tokio::test]
    async fn what_was_carried_out_and_its_answer_cut_is_never_said_to_be_undone() {
        let answers = deliver_two(vec![Step::Answer(1), Step::Fail(no())]).await;
        assert!(matches!(answers[..], [Ok(2), Err(Failure::Maybe(_))]), "{answers:?}");
    }

    #[tokio::test]
    async fn a_refusal_ends_it_at_once() {
        let answers =
            deliver_two(vec![Step::Fail(Failure::Refused("wrong cluster".into())), Step::Answer(2)]).await;
        assert!(answers.iter().all(|a| matches!(a, Err(Failure::Refused(_)))), "{answers:?}");
    }
}
