//! Ten times more than a node can do: what it still does, and how fast it says no.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use millet::prelude::*;
use tokio::task::JoinSet;

use crate::{
    drive,
    node::with_node,
    row::{Figures, Goal, Row, Side, Size},
};

/// The row.
pub const ROW: Row = Row {
    name: "overload",
    work: "turns of 200 µs of CPU on 16 grains of a node in memory. First the peak: 64 tasks ask, each its own one \
           after the other, for 3 s. Then offered load without waiting for answers: a tenth of the peak for 2 s, \
           ten times the peak for 5 s (every ask a task of its own, deadline 1 s), a tenth again. `goodput` is \
           what was answered in time under overload, over the peak; `refused_p99_ms` how long asks took that were \
           refused as too many, `late` which part of the others waited in vain until the deadline; `recovery_s` after how long the p99 of 100 ms of answers is at most double of what it was \
           before. The asking costs the same cores",
    sides: &[Side::new("millet", millet)],
    goals: &[
        Goal::at_least("goodput", 0.9),
        Goal::at_most("refused_p99_ms", 5.0),
        Goal::at_most("recovery_s", 5.0),
    ],
    peers: &[],
    missing: &[],
};

const GRAINS: u64 = 16;
const TURN: Duration = Duration::from_micros(200);
/// Waiting for longer than this is no use to the asker.
const DEADLINE: Duration = Duration::from_secs(1);
/// What waits at one grain: with 16 of them, a quarter of the deadline's worth on two cores.
const MAILBOX: usize = 128;
/// Offered in steps of this.
const STEP: Duration = Duration::from_millis(2);
/// Answers are looked at in windows of this.
const WINDOW: Duration = Duration::from_millis(100);

/// A grain whose turns cost time.
pub struct Busy;

impl Grain for Busy {
    type Service = BusyService;

    fn options() -> GrainOptions {
        GrainOptions::sharded(16).mailbox(MAILBOX)
    }

    fn create(_: &mut Create<'_, Self>) -> Self {
        Self
    }
}

#[millet::grain(name = "bench.Busy", key = int)]
impl Busy {
    /// Computes.
    async fn work(&mut self, _ctx: &Ctx<Self>) {
        let until = Instant::now() + TURN;
        while Instant::now() < until {
            std::hint::spin_loop();
        }
    }
}

/// How one ask ended, and when.
#[derive(Clone, Copy)]
struct Ask {
    ended: Instant,
    took: Duration,
    how: How,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    Answered,
    Refused,
    Late,
}

async fn ask(node: Arc<Node>, n: u64) -> Ask {
    let start = Instant::now();
    let grain = GrainRef::clone(&node.get::<BusyService>(Key::Int(n % GRAINS))).with_deadline(DEADLINE);
    let how = match grain.call::<busy::Work>(busy::WorkArgs {}).await {
        Ok(()) => How::Answered,
        Err(CallError::Platform(e)) if matches!(e.kind(), ErrorKind::Overloaded { .. }) => How::Refused,
        Err(_) => How::Late,
    };
    Ask { ended: Instant::now(), took: start.elapsed(), how }
}

/// A node that is offered too much.
fn millet(size: Size) -> Result<Figures> {
    with_node(Node::builder().in_memory().grain::<Busy>(), move |node| async move {
        let scale = if size.smoke { 0.02 } else { 1.0 };
        let seconds = |s: f64| Duration::from_secs_f64(s * scale);
        let peak = peak(&node, seconds(3.0)).await?;
        let before = offer(&node, peak * 0.1, seconds(2.0)).await?;
        let span = seconds(5.0);
        let over = offer(&node, peak * 10.0, span).await?;
        let over_at = Instant::now();
        let after = offer(&node, peak * 0.1, seconds(6.0)).await?;
        let count = |how| over.iter().filter(|a| a.how == how).count() as f64;
        let (done, late) = (count(How::Answered), count(How::Late));
        let refused = over.iter().filter(|a| a.how == How::Refused).map(|a| a.took);
        let p99 = p99(before.iter().map(|a| a.took)).context("something was answered")?;
        Ok(vec![
            ("peak_per_s", peak),
            ("goodput", done / span.as_secs_f64() / peak),
            ("refused_p99_ms", self::p99(refused).unwrap_or_default() * 1000.0),
            ("late", late / (done + late)),
            ("base_p99_ms", p99 * 1000.0),
            ("recovery_s", recovery(&after, over_at, 2.0 * p99).as_secs_f64()),
        ])
    })
}

/// Answers a second when 64 tasks ask and wait.
async fn peak(node: &Arc<Node>, span: Duration) -> Result<f64> {
    let (mut tasks, start) = (JoinSet::new(), Instant::now());
    for caller in 0..64 {
        let node = node.clone();
        tasks.spawn(async move {
            let mut done = 0_u64;
            while start.elapsed() < span {
                done += u64::from(ask(node.clone(), caller + done).await.how == How::Answered);
                // An ask of an idle grain is done without a pause; others want to start, too.
                tokio::task::yield_now().await;
            }
            done
        });
    }
    let done: u64 = tasks.join_all().await.into_iter().sum();
    ensure!(done > 0, "nothing was answered");
    Ok(done as f64 / start.elapsed().as_secs_f64())
}

/// Starts `rate` asks a second for so long, whatever becomes of them; then waits for all.
async fn offer(node: &Arc<Node>, rate: f64, span: Duration) -> Result<Vec<Ask>> {
    let (mut tasks, start, mut sent) = (JoinSet::new(), Instant::now(), 0_u64);
    let mut steps = tokio::time::interval(STEP);
    let mut ended = Vec::new();
    while start.elapsed() < span {
        steps.tick().await;
        let due = (start.elapsed().min(span).as_secs_f64() * rate) as u64;
        for n in sent..due {
            tasks.spawn(ask(node.clone(), n));
        }
        sent = sent.max(due);
        while let Some(done) = tasks.try_join_next() {
            ended.push(done.context("an asker panicked")?);
        }
    }
    while let Some(done) = tasks.join_next().await {
        ended.push(done.context("an asker panicked")?);
    }
    Ok(ended)
}

fn p99(took: impl Iterator<Item = Duration>) -> Option<f64> {
    let mut nanos: Vec<u32> = took.map(drive::nanos).collect();
    drive::quantiles(&mut nanos).last().map(|(_, us)| us / 1e6)
}

/// From the end of the overload until the last window whose p99 is over the bound.
fn recovery(asks: &[Ask], from: Instant, bound: f64) -> Duration {
    let mut windows = std::collections::BTreeMap::<u128, Vec<Duration>>::new();
    for ask in asks {
        let at = ask.ended.saturating_duration_since(from).as_millis() / WINDOW.as_millis();
        windows.entry(at).or_default().push(ask.took);
    }
    let slow = |took: &Vec<Duration>| p99(took.iter().copied()).is_some_and(|p99| p99 > bound);
    let last = windows.iter().filter(|(_, took)| slow(took)).map(|(at, _)| *at + 1).max().unwrap_or(0);
    WINDOW * u32::try_from(last).unwrap_or(u32::MAX)
}
