//! How an activation begins and ends.
//!
//! Birth: claim, create, load, `activate`. End: `deactivate` and a last save where the end is orderly,
//! the claim given up (R1), waiting calls re-delivered or sent elsewhere: never both (R13).

use std::{collections::VecDeque, sync::Arc};

use millet_core::{BootTime, ErrorKind, PlatformError, model::Ownership};
use millet_directory::Claim;

use crate::{
    Create, Ctx, EndReason, Grain,
    activation::{Activation, Born, Remains},
    create::CannotCreate,
    fence::Standing,
    parcel::{FirstPoll, Head, Parcel},
    persistent::Slot,
    phase::Event,
    run::{self, answer_panic, lost, said},
    saving::{self, LoadError},
    service::caught,
};

/// Why an activation did not come to life.
pub(crate) enum Stillborn {
    /// No claim: the grain is elsewhere, or nothing is known.
    Refused(ErrorKind),
    /// The claim was lost while loading.
    Fenced,
    /// The store did not answer.
    Unavailable(String),
    /// The grain's own code or state failed.
    Failed(String),
    /// It panicked.
    Panicked(String),
}

/// Claims, creates, loads and activates.
pub(crate) async fn birth<G: Grain>(act: &Arc<Activation<G>>) -> Result<Box<G>, Stillborn> {
    let host = &act.host;
    let id = act.id();
    let claim = match host.deps.owners.claim_now(&id) {
        Some(claim) => claim,
        None => host.deps.owners.claim(&id).await.map_err(Stillborn::Refused)?,
    };
    let number = host.next_number().ok_or_else(|| {
        Stillborn::Refused(ErrorKind::Unavailable {
            what: "activation numbers are used up; restart this node".into(),
        })
    })?;
    let Claim { session, grant, shard, previous: _ } = claim;
    act.born.get_or_init(|| Born { session, grant, shard, number });
    act.go(Event::Claimed);

    let (mut g, declared) = create(act).await?;
    let visited = saving::slots(&mut *g);
    check_slots(&declared, &visited).map_err(Stillborn::Failed)?;
    saving::load(act, &mut *g, &visited).await.map_err(|e| match e {
        LoadError::Fenced => Stillborn::Fenced,
        LoadError::Unavailable(why) => Stillborn::Unavailable(why),
        LoadError::Unusable(why) => Stillborn::Failed(why),
    })?;
    activate(act, &mut g).await?;
    let now = host.deps.clock.boottime();
    if act.standing_at(now) == Standing::Ended {
        return Err(Stillborn::Fenced);
    }
    act.touch(now);
    act.go(Event::Activated);
    host.activated(&act.key);
    Ok(g)
}

async fn create<G: Grain>(act: &Activation<G>) -> Result<(Box<G>, Vec<Arc<Slot>>), Stillborn> {
    let made = caught(async {
        let mut c = Create::new(&act.key, &*act.host);
        let g = Box::new(G::create(&mut c));
        (g, c.declared)
    });
    made.await.map_err(|panic| match panic.payload.downcast::<CannotCreate>() {
        Ok(why) => Stillborn::Failed(why.0),
        Err(payload) => Stillborn::Panicked(format!("`create` panicked: {}", said(&*payload))),
    })
}

/// Every declared state must be visited, or it would be neither loaded nor saved.
fn check_slots(declared: &[Arc<Slot>], visited: &[Arc<Slot>]) -> Result<(), String> {
    match declared.iter().find(|d| !visited.iter().any(|v| Arc::ptr_eq(d, v))) {
        None => Ok(()),
        Some(missing) => Err(format!(
            "state {:?} is declared in `create` but not visited by `persist`: name its field in `millet::states!(…)` inside `impl Grain`",
            missing.name
        )),
    }
}

async fn activate<G: Grain>(act: &Arc<Activation<G>>, g: &mut Box<G>) -> Result<(), Stillborn> {
    if !act.may_leave(BootTime::NEVER).await {
        return Err(Stillborn::Fenced);
    }
    let deps = &act.host.deps;
    let ctx = Ctx::new(act.clone(), Head::background(deps.clock.boottime(), deps.fresh_request()), false);
    match caught(g.activate(&ctx)).await {
        Ok(Ok(())) => {}
        Ok(Err(why)) => return Err(Stillborn::Failed(why)),
        Err(panic) => {
            return Err(Stillborn::Panicked(format!("`activate` panicked: {}", said(&*panic.payload))));
        }
    }
    if act.is_broken() {
        return Err(Stillborn::Failed("a save made by `activate` failed".into()));
    }
    saving::settle(act, g, ctx.deadline()).await.map_err(|e| Stillborn::Failed(e.to_string()))
}

/// Ends an activation that did not come to life: every waiter gets the reason.
pub(crate) async fn stillborn<G: Grain>(
    act: &Arc<Activation<G>>,
    first: Option<Parcel<G::Service>>,
    why: Stillborn,
) {
    let host = &act.host;
    let now = host.deps.clock.boottime();
    let (event, kind) = match why {
        Stillborn::Refused(kind) => {
            let event = if act.born.get().is_none() { Event::Refused } else { Event::Failed };
            (event, kind)
        }
        Stillborn::Fenced => (Event::Failed, ErrorKind::Fenced),
        Stillborn::Unavailable(what) => (Event::Failed, ErrorKind::Unavailable { what }),
        Stillborn::Failed(why) | Stillborn::Panicked(why) if act.standing() != Standing::Ended => {
            tracing::warn!(grain = %act.id(), why, "activation failed");
            host.activation_failed(&act.key, &why, now);
            (Event::Failed, ErrorKind::ActivateFailed { why })
        }
        Stillborn::Failed(_) | Stillborn::Panicked(_) => (Event::Failed, ErrorKind::Fenced),
    };
    wait_for_work(act).await;
    give_up(act);
    let (queue, remains) = act.close(event);
    host.catalog.remove(act);
    for parcel in first.into_iter().chain(queue) {
        host.refuse_with(parcel, PlatformError::new(kind.clone()).at(&act.id()));
    }
    drop(remains);
}

/// Ends an activation that has lived.
pub(crate) async fn finish<G: Grain>(
    act: &Arc<Activation<G>>,
    mut g: Box<G>,
    reason: EndReason,
    batch: VecDeque<Parcel<G::Service>>,
) {
    act.go(Event::Ending);
    let reason = if reason.is_orderly() { orderly(act, &mut g, reason).await } else { reason };
    let reason = if act.standing() == Standing::Ended { lost(act) } else { reason };
    wait_for_work(act).await;
    count_dirty(act, &mut *g, reason);
    drop_grain(act, g).await;
    if reason == EndReason::Panicked {
        act.host.panicked(&act.key, act.host.deps.clock.boottime());
    }
    bury(act, reason, batch);
}

/// The last steps. The claim is dead before the next activation can ask for one (R1); what waits goes to
/// that one, in order and before anything newer, or is sent elsewhere: never both (R13).
pub(crate) fn bury<G: Grain>(
    act: &Arc<Activation<G>>,
    reason: EndReason,
    batch: VecDeque<Parcel<G::Service>>,
) {
    give_up(act);
    let onward = if reason.loses_claim() { Err(ErrorKind::Fenced) } else { act.host.may_activate(&act.key) };
    let (mut remains, mut stranded) = (Remains::default(), Vec::new());
    let next = act.host.catalog.succeed(act, |found| {
        let (queue, left) = act.close(Event::Ended);
        remains = left;
        let waiting: Vec<_> = batch.into_iter().chain(queue).collect();
        if found && onward.is_ok() && !waiting.is_empty() {
            return Some(Activation::successor(act, waiting));
        }
        stranded = waiting;
        None
    });
    tracing::debug!(grain = %act.id(), %reason, "activation ended");
    let kind = onward.err().unwrap_or(ErrorKind::Fenced);
    for parcel in stranded {
        act.host.refuse_with(parcel, PlatformError::new(kind.clone()).at(&act.id()));
    }
    if let Some(next) = next {
        run::start(next, &*act.host.deps.spawner, None, None, FirstPoll::Spawned);
    }
    drop(remains);
}

/// `deactivate`, and a last save. Returns why it ends in the end.
async fn orderly<G: Grain>(act: &Arc<Activation<G>>, g: &mut Box<G>, reason: EndReason) -> EndReason {
    wait_for_work(act).await;
    if !act.may_leave(BootTime::NEVER).await {
        return lost(act);
    }
    let deps = &act.host.deps;
    let ctx = Ctx::new(act.clone(), Head::background(deps.clock.boottime(), deps.fresh_request()), false);
    if let Err(panic) = caught(g.deactivate(&ctx, reason)).await {
        answer_panic(act, panic, "deactivate");
        return EndReason::Panicked;
    }
    if act.is_broken() || saving::flush(act, g).await.is_err() {
        return EndReason::SaveFailed;
    }
    reason
}

/// Timers stop, spawned work is aborted and has ended when this returns (R8).
async fn wait_for_work<G: Grain>(act: &Activation<G>) {
    act.stop_off_turn();
    if let Some(gone) = act.work_gone() {
        // An error says that the sender was dropped: that is the signal.
        let _ = gone.await;
    }
}

/// R28: what was not saved is dropped, counted and logged.
pub(crate) fn count_dirty<G: Grain>(act: &Activation<G>, g: &mut G, reason: EndReason) -> u64 {
    let dirty = saving::dirty_count(g);
    if dirty > 0 {
        act.host.deps.counters.dirty_dropped.add(dirty);
        tracing::warn!(grain = %act.id(), states = dirty, %reason, "changed states dropped unsaved");
    }
    dirty
}

/// A grain's own `Drop` may panic too.
async fn drop_grain<G: Grain>(act: &Activation<G>, g: Box<G>) {
    if let Err(panic) = caught(async move { drop(g) }).await {
        answer_panic(act, panic, "drop");
    }
}

/// Nothing leaves the activation any more, whoever still holds a reference of its making; then gives a
/// leased grain's claim up, which the directory keeps dead for ever (R1). A write whose outcome is
/// unknown is refused once the next owner has opened the grain (R2, R3).
fn give_up<G: Grain>(act: &Activation<G>) {
    let Some(born) = act.born.get() else { return };
    act.revoke();
    if act.host.options.ownership == Ownership::Leased && !born.session.is_dead() {
        act.host.deps.owners.give_up(&act.id(), &born.claim());
    }
}
