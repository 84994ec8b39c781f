//! A run: from the message that wakes an activation until both its lanes are empty.
//!
//! The run owns the grain, so that nothing a caller does can drop a turn half-way. Exclusive turns run
//! alone; shared turns overlap one another on this one task and never an exclusive one.

use std::{
    cell::Cell,
    collections::VecDeque,
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use futures::{StreamExt, stream::FuturesUnordered};
use millet_core::{
    BootTime, ErrorKind, MethodId, PlatformError, RequestId,
    control::{Rule, off},
    limits,
    world::Spawner,
};

use crate::{
    Ctx, Dispatch, EndReason, Grain, Hosted,
    activation::{Activation, Next, System},
    fence::Standing,
    life,
    parcel::{Blocker, FirstPoll, Head, Parcel, is_reentrant},
    saving,
    service::{Panic, caught},
};

type Batch<G> = VecDeque<Parcel<<G as Grain>::Service>>;

/// Shared turns of one activation under way at once; more wait in the mailbox.
const OPEN_READERS: usize = 1024;

thread_local! {
    /// First polls of runs on this thread's stack.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// Starts a run. Its first poll may happen here; whatever is not ready then goes to the spawner.
pub(crate) fn start<G: Grain>(
    act: Arc<Activation<G>>,
    spawner: &dyn Spawner,
    grain: Option<Box<G>>,
    first: Option<Parcel<G::Service>>,
    poll: FirstPoll,
) {
    let depth = DEPTH.get();
    let now = match poll {
        FirstPoll::Inline(now) if depth < limits::INLINE_DEPTH => Some(now),
        FirstPoll::Inline(_) | FirstPoll::Spawned => None,
    };
    // A grain that is yet to be activated does not start its turn at once.
    let mut run = Box::pin(run(act, now.filter(|_| grain.is_some()), grain, first));
    if now.is_some() {
        DEPTH.set(depth + 1);
        let polled = run.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        DEPTH.set(depth);
        if polled.is_ready() {
            return;
        }
    }
    spawner.spawn("grain-run", run);
}

/// `now` was read just before, and nothing is waited for before the first turn.
async fn run<G: Grain>(
    act: Arc<Activation<G>>,
    mut now: Option<BootTime>,
    grain: Option<Box<G>>,
    mut first: Option<Parcel<G::Service>>,
) {
    let mut g = match grain {
        Some(g) => g,
        None => match Box::pin(life::birth(&act)).await {
            Ok(g) => g,
            Err(end) => return Box::pin(life::stillborn(&act, first, end)).await,
        },
    };
    let mut ctx = Ctx::new(act, Head::background(BootTime(0), RequestId(0)), false);
    let mut batch = Batch::<G>::new();
    let mut last = LastTurn::default();
    let mut budget = limits::TURN_BUDGET;
    let (mut told, mut woke_a_lane) = (false, false);
    let end = loop {
        let act = ctx.activation();
        if woke_a_lane && !batch.is_empty() {
            // The lane waits where no other thread can take it over, and the next turn may be a long one.
            woke_a_lane = false;
            once_more().await;
        }
        if act.has_system() {
            now = None;
            if let Err(end) = Box::pin(system_lane(act, &mut g)).await {
                break end;
            }
        }
        let Some(parcel) = first.take().or_else(|| batch.pop_front()) else {
            if act.wants_to_quit() && act.may_be_collected(0, 0) {
                break EndReason::Requested;
            }
            match act.refill(g, &mut batch, told) {
                Next::Idle => return,
                Next::More(back) => g = back,
                Next::Nothing(back) => {
                    // Whoever tells one thing after the other is telling the next: going to sleep and being
                    // woken for it costs more than its turn.
                    (g, told) = (back, false);
                    once_more().await;
                }
            }
            continue;
        };
        let now = now.take().unwrap_or_else(|| act.host.deps.clock.boottime());
        let parcel = match admit(act, parcel, &last, now) {
            Admitted::Yes(parcel) => parcel,
            Admitted::Answered => continue,
            Admitted::End(end, parcel) => {
                batch.push_front(parcel);
                break end;
            }
        };
        let info = G::Service::info(&parcel.msg);
        act.mark_turn(info.id, now, true);
        // Not of the message that began the run: one alone is no stream.
        told = parcel.head.one_way && last.0.is_some();
        woke_a_lane = parcel.head.wakes_a_lane();
        last = LastTurn(Some((info.name, now)));
        let panicked = if info.shared {
            readers(act, &g, parcel, &mut batch).await
        } else {
            let deadline = parcel.head.deadline;
            ctx.next(parcel.head);
            // Pinned here once: what either branch awaits is a reference.
            let turn = std::pin::pin!(caught(G::Service::write(&mut g, &ctx, parcel.msg)));
            let ended =
                if off(Rule::OwnTurn) { callers_own(deadline.since(now), turn).await } else { turn.await };
            match ended {
                Ok(()) => false,
                Err(panic) => {
                    answer_panic(ctx.activation(), panic, info.name);
                    true
                }
            }
        };
        let act = ctx.activation();
        act.between_turns();
        if panicked {
            break EndReason::Panicked;
        }
        if act.is_broken() {
            break EndReason::SaveFailed;
        }
        budget -= 1;
        if budget == 0 {
            budget = limits::TURN_BUDGET;
            tokio::task::yield_now().await;
        }
    };
    if let Some(parcel) = first {
        batch.push_front(parcel);
    }
    Box::pin(life::finish(ctx.activation(), g, end, batch)).await;
}

/// Lets other tasks of this worker go first. Unlike tokio's `yield_now`, any worker may go on with it.
async fn once_more() {
    let mut asked = false;
    poll_fn(|cx| match std::mem::replace(&mut asked, true) {
        true => Poll::Ready(()),
        false => {
            cx.waker().wake_by_ref();
            Poll::Pending
        }
    })
    .await;
}

/// A turn that ends with its caller, half-way: what the control `OwnTurn` does without the rule.
async fn callers_own<E>(
    left: std::time::Duration,
    turn: impl Future<Output = Result<(), E>>,
) -> Result<(), E> {
    tokio::time::timeout(left, turn).await.unwrap_or(Ok(()))
}

/// The last turn of this run: what kept a call waiting past its deadline.
#[derive(Default)]
struct LastTurn(Option<(&'static str, BootTime)>);

enum Admitted<G: Grain> {
    /// A turn may start.
    Yes(Parcel<G::Service>),
    /// It was refused and has its answer.
    Answered,
    /// The activation is over; the message did not run.
    End(EndReason, Parcel<G::Service>),
}

/// The entry check: held, session valid, deadline not past. `now` was read just before.
fn admit<G: Grain>(
    act: &Activation<G>,
    parcel: Parcel<G::Service>,
    last: &LastTurn,
    now: BootTime,
) -> Admitted<G> {
    match act.standing_at(now) {
        Standing::Valid => {}
        Standing::Ended => return Admitted::End(lost(act), parcel),
        Standing::Frozen => {
            act.host.refuse(parcel, ErrorKind::Unavailable { what: "this node's session is frozen".into() });
            return Admitted::Answered;
        }
    }
    if now < parcel.head.deadline {
        return Admitted::Yes(parcel);
    }
    act.host.deps.counters.expired.add(1);
    let blocker = last.0.map(|(what, since)| {
        Blocker { grain: act.id(), what, busy_for: now.since(since), alone_since: None }.to_string()
    });
    act.host.refuse(parcel, ErrorKind::DeadlineExceeded { blocker });
    Admitted::Answered
}

/// Why a right has gone.
pub(crate) fn lost<G: Grain>(act: &Activation<G>) -> EndReason {
    if act.born.get().is_some_and(|b| b.session.is_dead()) {
        EndReason::SessionEnded
    } else {
        EndReason::Outranked
    }
}

// ---------------------------------------------------------------- shared turns

/// Runs shared turns, admitting more while they last, until all have ended. True if one panicked.
async fn readers<G: Grain>(
    act: &Arc<Activation<G>>,
    g: &G,
    first: Parcel<G::Service>,
    batch: &mut Batch<G>,
) -> bool {
    let mut open = FuturesUnordered::new();
    open.push(read_turn(act, g, first));
    let mut panicked = false;
    poll_fn(|cx| {
        loop {
            match open.poll_next_unpin(cx) {
                Poll::Ready(Some(ended)) => {
                    panicked |= ended.panicked;
                    if ended.woke_a_lane && !open.is_empty() {
                        // As between exclusive turns.
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                }
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Pending => {
                    if panicked {
                        return Poll::Pending;
                    }
                    let room = OPEN_READERS.saturating_sub(open.len());
                    let joining = join(act, batch, room, cx.waker());
                    if joining.is_empty() {
                        return Poll::Pending;
                    }
                    for parcel in joining {
                        open.push(read_turn(act, g, parcel));
                    }
                }
            }
        }
    })
    .await;
    act.no_more_readers();
    panicked
}

/// A shared turn that has ended.
struct Read {
    panicked: bool,
    woke_a_lane: bool,
}

async fn read_turn<G: Grain>(act: &Arc<Activation<G>>, g: &G, parcel: Parcel<G::Service>) -> Read {
    let name = G::Service::info(&parcel.msg).name;
    let woke_a_lane = parcel.head.wakes_a_lane();
    let ctx = Ctx::new(act.clone(), parcel.head, true);
    let ended = caught(G::Service::read(g, &ctx, parcel.msg)).await;
    let panicked = ended.is_err();
    if let Err(panic) = ended {
        answer_panic(act, panic, name);
    }
    Read { panicked, woke_a_lane }
}

/// Shared turns that may join those under way: from the front of the mailbox up to the first exclusive
/// one, and calls of chains that this grain waits in (they would wait for themselves behind a writer).
/// None: nothing may join at the moment, and a waker is left for what comes.
fn join<G: Grain>(
    act: &Arc<Activation<G>>,
    batch: &mut Batch<G>,
    room: usize,
    waker: &Waker,
) -> Vec<Parcel<G::Service>> {
    loop {
        let mut taken = take_readers(act, batch, room, waker).into_iter();
        if taken.len() == 0 {
            return Vec::new();
        }
        let mut admitted = Vec::with_capacity(taken.len());
        while let Some(parcel) = taken.next() {
            let now = act.host.deps.clock.boottime();
            match admit(act, parcel, &LastTurn::default(), now) {
                Admitted::Yes(parcel) => {
                    act.mark_turn(G::Service::info(&parcel.msg).id, now, true);
                    admitted.push(parcel);
                }
                Admitted::Answered => {}
                // Over: nobody joins any more. What was taken goes back in its order.
                Admitted::End(_, parcel) => {
                    let back: Vec<_> = std::iter::once(parcel).chain(taken).collect();
                    back.into_iter().rev().for_each(|parcel| batch.push_front(parcel));
                    return admitted;
                }
            }
        }
        // If all were refused, no waker has been left: look again.
        if !admitted.is_empty() {
            return admitted;
        }
    }
}

/// Takes the messages that may join out of batch and queue; leaves a waker if the queue has none.
fn take_readers<G: Grain>(
    act: &Arc<Activation<G>>,
    batch: &mut Batch<G>,
    room: usize,
    waker: &Waker,
) -> Vec<Parcel<G::Service>> {
    let shared = |p: &Parcel<G::Service>| G::Service::info(&p.msg).shared;
    let reentrant =
        |p: &Parcel<G::Service>| shared(p) && is_reentrant(&p.head.chain, act.host.ty.as_str(), &act.key);
    let all = !act.has_system();
    let mut taken = Vec::new();
    while all && taken.len() < room && batch.front().is_some_and(shared) {
        taken.extend(batch.pop_front());
    }
    let mut at = 0;
    while at < batch.len() {
        if reentrant(&batch[at]) { taken.extend(batch.remove(at)) } else { at += 1 }
    }
    let all = all && batch.is_empty();
    taken.extend(act.more_readers(waker, |queue| {
        let front = if all { queue.iter().take(room).take_while(|p| shared(p)).count() } else { 0 };
        let mut joining: Vec<_> = queue.drain(..front).collect();
        if queue.iter().any(reentrant) {
            joining.extend(queue.extract_if(.., |p| reentrant(p)));
        }
        joining
    }));
    taken
}

// ---------------------------------------------------------------- system lane

async fn system_lane<G: Grain>(act: &Arc<Activation<G>>, g: &mut G) -> Result<(), EndReason> {
    let mut items = act.take_system();
    while let Some(item) = items.pop_front() {
        if let Err(end) = system_item(act, g, item).await {
            for item in items {
                if let System::End(_, guard) = item {
                    act.keep_guard(guard);
                }
            }
            return Err(end);
        }
    }
    Ok(())
}

async fn system_item<G: Grain>(
    act: &Arc<Activation<G>>,
    g: &mut G,
    item: System<G>,
) -> Result<(), EndReason> {
    match item {
        System::End(reason, guard) => {
            act.keep_guard(guard);
            Err(reason)
        }
        System::Collect => {
            let now = act.host.deps.clock.boottime();
            let idle = act.host.idle_ms.is_some_and(|idle| act.may_be_collected(act.host.deps.ms(now), idle));
            if idle && act.standing_at(now) == Standing::Valid {
                return Err(EndReason::Idle);
            }
            // Looked at again after another idle period, so that a sweep gets to others.
            act.touch(now);
            Ok(())
        }
        System::Flush => {
            act.flush_fired();
            may_start(act).await?;
            saving::flush(act, g).await.map_err(|_| EndReason::SaveFailed)
        }
        System::WorkPanicked(panic) => {
            answer_panic(act, panic, "(spawned work)");
            Err(EndReason::Panicked)
        }
        System::Continue(work) => background_turn(act, g, work).await,
        System::Tick(id) => {
            let Some(fire) = act.timer_due(id) else { return Ok(()) };
            let turn = background_turn(act, g, Box::new(move |g, ctx| fire(g, ctx))).await;
            act.rearm(id);
            turn
        }
    }
}

/// A turn that nobody called for: runs when the session is valid, saves what it changed.
async fn background_turn<G: Grain>(
    act: &Arc<Activation<G>>,
    g: &mut G,
    work: crate::activation::Work<G>,
) -> Result<(), EndReason> {
    may_start(act).await?;
    let now = act.host.deps.clock.boottime();
    act.mark_turn(MethodId(0), now, false);
    let ctx = Ctx::new(act.clone(), Head::background(now, act.host.deps.fresh_request()), false);
    let ran = caught(work(g, &ctx)).await;
    act.between_turns();
    if let Err(panic) = ran {
        answer_panic(act, panic, "(timer or continuation)");
        return Err(EndReason::Panicked);
    }
    if act.is_broken() {
        return Err(EndReason::SaveFailed);
    }
    saving::settle(act, g, ctx.deadline()).await.map_err(|_| EndReason::SaveFailed)
}

/// No turn starts in a frozen session: waits for what becomes of it.
async fn may_start<G: Grain>(act: &Activation<G>) -> Result<(), EndReason> {
    if act.may_leave(BootTime::NEVER).await { Ok(()) } else { Err(lost(act)) }
}

// ---------------------------------------------------------------- panics

/// Logs a panic and answers the callers it left behind: after the exit check, like any other output.
pub(crate) fn answer_panic<G: Grain>(act: &Activation<G>, panic: Panic, what: &'static str) {
    let deps = &act.host.deps;
    let id = deps.entropy.next_u64();
    let said = said(&*panic.payload);
    tracing::error!(grain = %act.id(), turn = what, id = format!("{id:016x}"), said, "grain panicked; its activation ends");
    deps.counters.panics.add(1);
    let kind = match act.standing() {
        Standing::Valid => ErrorKind::Panicked { id },
        Standing::Frozen | Standing::Ended => {
            deps.counters.fenced_outputs.add(1);
            ErrorKind::Unknown { why: "the turn panicked after its lease had ended".into() }
        }
    };
    for orphan in panic.orphans {
        orphan(PlatformError::new(kind.clone()).at(&act.id()));
    }
}

/// What a panic said.
pub(crate) fn said(payload: &(dyn std::any::Any + Send)) -> &str {
    payload
        .downcast_ref::<&'static str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(a panic without a message)")
}
