//! Timers: many at once, seldom due.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use millet::prelude::*;

use crate::{
    drive::{self, Cpu},
    node::with_node,
    row::{Figures, Goal, Row, Side, Size},
};

/// The row.
pub const ROW: Row = Row {
    name: "timers",
    work: "1,000,000 timers are armed at once and fall due evenly over the 10 s after the arming, each once: CPU \
           of arming and firing, in microseconds a timer; user and system time. Ours: 1,000 timers on each of \
           1,000 grains of a whole node in memory, steps of 10 ms, each firing a turn of its grain. Beside it a \
           task with a tokio sleep per timer, steps of 1 ms, which counts",
    sides: &[Side::new("millet", millet), Side::new("tokio sleep", sleeps)],
    goals: &[Goal::at_most("cpu_us", 0.2).times("tokio sleep")],
    peers: &[],
    missing: &[],
};

/// Timers of one grain; it may have 1,024.
const EACH: u64 = 1000;
/// The arming is over by then, and everything is due within as much again.
const SPAN: Duration = Duration::from_secs(10);
const LIMIT: Duration = Duration::from_secs(60);

fn timers(size: Size) -> u64 {
    size.of(1_000_000, 2 * EACH)
}

fn span(size: Size) -> Duration {
    if size.smoke { SPAN / 50 } else { SPAN }
}

/// When the `n`-th timer of so many is due, from its arming on.
fn due(n: u64, timers: u64, span: Duration) -> Duration {
    span + span.mul_f64(n as f64 / timers as f64)
}

static FIRED: AtomicU64 = AtomicU64::new(0);

/// A grain that arms timers and counts what they do.
pub struct Alarm;

impl Grain for Alarm {
    type Service = AlarmService;

    fn options() -> GrainOptions {
        GrainOptions::sharded(1)
    }

    fn create(_: &mut Create<'_, Self>) -> Self {
        Self
    }
}

#[millet::grain(name = "bench.Alarm", key = int)]
impl Alarm {
    /// Arms every `grains`-th timer from this grain's own on; how many are set.
    async fn arm(&mut self, ctx: &Ctx<Self>, timers: u64, span_ms: u64) -> u64 {
        let (Key::Int(first), grains) = (ctx.key().clone(), timers / EACH) else { return 0 };
        let span = Duration::from_millis(span_ms);
        let own = (first..timers).step_by(usize::try_from(grains).unwrap_or(1));
        let set = own.map(|n| {
            ctx.timer(due(n, timers, span), None, |_, _| {
                FIRED.fetch_add(1, Ordering::Relaxed);
                Box::pin(std::future::ready(()))
            })
        });
        set.filter(|timer| timer.is_set()).count() as u64
    }
}

/// Grains with timers.
fn millet(size: Size) -> Result<Figures> {
    with_node(Node::builder().in_memory().grain::<Alarm>(), move |node: Arc<Node>| async move {
        let (timers, span) = (timers(size), span(size));
        let (cpu, mut set) = (Cpu::start(&[])?, 0);
        for key in 0..timers / EACH {
            let span_ms = u64::try_from(span.as_millis())?;
            set += node.get::<AlarmService>(Key::Int(key)).arm(timers, span_ms).await?;
        }
        ensure!(set == timers, "{set} of {timers} timers are set");
        fired(timers, &cpu).await
    })
}

/// A task a timer.
fn sleeps(size: Size) -> Result<Figures> {
    drive::in_pool(async move {
        let (timers, span, cpu) = (timers(size), span(size), Cpu::start(&[])?);
        for n in 0..timers {
            let due = due(n, timers, span);
            tokio::spawn(async move {
                // tidy: sleep: it is what is measured
                tokio::time::sleep(due).await;
                FIRED.fetch_add(1, Ordering::Relaxed);
            });
        }
        fired(timers, &cpu).await
    })
}

async fn fired(timers: u64, cpu: &Cpu) -> Result<Figures> {
    let until = Instant::now() + LIMIT;
    while FIRED.load(Ordering::Relaxed) < timers {
        if Instant::now() > until {
            bail!("{} of {timers} timers have fired after {LIMIT:?}", FIRED.load(Ordering::Relaxed));
        }
        // tidy: sleep: between two looks, bounded
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(vec![("cpu_us", cpu.us()? / timers as f64)])
}
