//! The loops that every side of a row goes through, so that only what is asked differs: many callers, one
//! caller. And what is measured around them: wall time, latencies, CPU time.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tokio::task::JoinSet;

use crate::row::Figures;

/// Counters by key, somewhere: asking adds and answers the sum.
pub trait Target: Clone + Send + Sync + 'static {
    /// Adds `by` to the counter of this key; its sum after that.
    fn ask(&self, key: u64, by: u64) -> impl Future<Output = Result<u64>> + Send;
}

/// Runs the work as a task of a fresh pool with as many threads as cores.
pub fn in_pool<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    let pool = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let done = pool.block_on(pool.spawn(work)).context("the work panicked")?;
    pool.shutdown_background();
    done
}

/// `callers` tasks make `asks` asks in all, each its own one after the other, over keys `0..keys`: every
/// caller starts at another key and steps by 31. A tenth is done before, unmeasured. Every ask is timed.
/// `per_s`, `p50_us`, `p99_us`, and `cpu_us` an ask over this process and `others`.
pub async fn many<T: Target>(
    target: &T,
    callers: u64,
    keys: u64,
    asks: u64,
    others: &[u32],
) -> Result<Figures> {
    let work = |caller, each| stepping(target.clone(), caller * 7919 % keys, keys, each);
    measured(callers, asks, others, work).await
}

/// As [`many`], each key drawn anew from `0..keys`, all alike; every run draws the same.
pub async fn many_random<T: Target>(
    target: &T,
    callers: u64,
    keys: u64,
    asks: u64,
    others: &[u32],
) -> Result<Figures> {
    let work = |caller, each| drawing(target.clone(), caller, keys, each);
    measured(callers, asks, others, work).await
}

/// Every caller's work, a tenth of it unmeasured and then all.
async fn measured<Work>(
    callers: u64,
    asks: u64,
    others: &[u32],
    work: impl Fn(u64, u64) -> Work,
) -> Result<Figures>
where
    Work: Future<Output = Result<Vec<u32>>> + Send + 'static,
{
    let each = (asks / callers).max(1);
    round(callers, |caller| work(caller, each.div_ceil(10))).await?;
    let cpu = Cpu::start(others)?;
    let start = Instant::now();
    let mut latencies = round(callers, |caller| work(caller, each)).await?;
    let took = start.elapsed();
    let done = (each * callers) as f64;
    let mut figures = vec![("per_s", done / took.as_secs_f64()), ("cpu_us", cpu.us()? / done)];
    figures.extend(quantiles(&mut latencies));
    Ok(figures)
}

/// Asks that [`many`] makes of the target, the unmeasured ones included.
pub fn asked(callers: u64, asks: u64) -> u64 {
    let each = (asks / callers).max(1);
    callers * (each + each.div_ceil(10))
}

async fn round<Work>(callers: u64, work: impl Fn(u64) -> Work) -> Result<Vec<u32>>
where
    Work: Future<Output = Result<Vec<u32>>> + Send + 'static,
{
    let mut tasks: JoinSet<_> = (0..callers).map(work).collect();
    let mut all = Vec::new();
    while let Some(done) = tasks.join_next().await {
        all.append(&mut done.context("a caller panicked")??);
    }
    Ok(all)
}

/// Keys from the first on, in steps of 31.
async fn stepping<T: Target>(target: T, first: u64, keys: u64, asks: u64) -> Result<Vec<u32>> {
    let mut key = first;
    one_caller(target, asks, move || {
        let now = key;
        key += 31;
        if key >= keys {
            key %= keys;
        }
        now
    })
    .await
}

/// Keys drawn by a generator of the caller's own; another one for another number of asks, so that what was
/// asked unmeasured is not asked again.
async fn drawing<T: Target>(target: T, caller: u64, keys: u64, asks: u64) -> Result<Vec<u32>> {
    let mut state = (caller << 32 | asks) + 1;
    one_caller(target, asks, move || draw(&mut state, keys)).await
}

/// The next number below `below` (splitmix64).
fn draw(state: &mut u64, below: u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = (*state ^ (*state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    let scaled = u128::from(z ^ (z >> 31)) * u128::from(below);
    (scaled >> 64) as u64
}

async fn one_caller<T: Target>(
    target: T,
    asks: u64,
    mut next: impl FnMut() -> u64 + Send,
) -> Result<Vec<u32>> {
    let mut latencies = Vec::with_capacity(usize::try_from(asks)?);
    for _ in 0..asks {
        let key = next();
        let start = Instant::now();
        let sum = target.ask(key, 1).await?;
        latencies.push(nanos(start.elapsed()));
        ensure!(sum >= 1, "counter {key} answered {sum} after 1 was added");
    }
    Ok(latencies)
}

/// One caller, one key, one ask after the other, each timed; a tenth unmeasured before.
/// `p50_us`, `p99_us`, `per_s`, and `cpu_us` an ask.
pub async fn one<T: Target>(target: &T, key: u64, asks: u64, others: &[u32]) -> Result<Figures> {
    one_caller(target.clone(), asks.div_ceil(10), || key).await?;
    let cpu = Cpu::start(others)?;
    let start = Instant::now();
    let mut latencies = one_caller(target.clone(), asks, || key).await?;
    let took = start.elapsed();
    let mut figures = vec![("per_s", asks as f64 / took.as_secs_f64()), ("cpu_us", cpu.us()? / asks as f64)];
    figures.extend(quantiles(&mut latencies));
    Ok(figures)
}

/// Asks every key once, from `callers` tasks at once; how long that took.
pub async fn once_each<T: Target>(target: &T, keys: std::ops::Range<u64>, callers: u64) -> Result<Duration> {
    let mut tasks = JoinSet::new();
    let start = Instant::now();
    for caller in 0..callers {
        let (target, keys) = (target.clone(), keys.clone());
        tasks.spawn(async move {
            for key in keys.skip(usize::try_from(caller)?).step_by(usize::try_from(callers)?) {
                let sum = target.ask(key, 1).await?;
                ensure!(sum == 1, "counter {key} answered {sum} to its first ask of 1");
            }
            Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.context("a caller panicked")??;
    }
    Ok(start.elapsed())
}

/// What these counters hold together.
pub async fn total<T: Target>(target: &T, keys: std::ops::Range<u64>) -> Result<u64> {
    let mut total = 0;
    for key in keys {
        total += target.ask(key, 0).await?;
    }
    Ok(total)
}

/// A latency as it is kept: nanoseconds, at most four seconds.
pub fn nanos(d: Duration) -> u32 {
    u32::try_from(d.as_nanos()).unwrap_or(u32::MAX)
}

/// Median and 99th percentile of latencies in nanoseconds, as microseconds.
pub fn quantiles(latencies: &mut [u32]) -> Figures {
    if latencies.is_empty() {
        return Vec::new();
    }
    latencies.sort_unstable();
    let at = |q: f64| f64::from(latencies[((latencies.len() - 1) as f64 * q) as usize]) / 1000.0;
    vec![("p50_us", at(0.5)), ("p99_us", at(0.99))]
}

/// CPU time of this process and others, user and system, since a moment.
pub struct Cpu {
    others: Vec<u32>,
    before: f64,
}

/// Linux counts CPU time in hundredths of a second towards user space, on every architecture.
const TICK_US: f64 = 10_000.0;

impl Cpu {
    /// Counts from now on.
    pub fn start(others: &[u32]) -> Result<Self> {
        Ok(Self { others: others.to_vec(), before: Self::spent(others)? })
    }

    /// Microseconds since then, in steps of 10,000.
    pub fn us(&self) -> Result<f64> {
        Ok(Self::spent(&self.others)? - self.before)
    }

    fn spent(others: &[u32]) -> Result<f64> {
        let mut ticks = 0;
        for pid in others.iter().map(u32::to_string).chain(["self".to_owned()]) {
            let path = format!("/proc/{pid}/stat");
            let text = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
            // The name in brackets may hold spaces; user and system time are fields 14 and 15 of the line.
            let after = text.rsplit_once(')').context("a stat line has a name in brackets")?.1;
            let fields: Vec<&str> = after.split_whitespace().collect();
            for field in fields.get(11..13).context("a stat line has user and system time")? {
                ticks += field.parse::<u64>()?;
            }
        }
        Ok(ticks as f64 * TICK_US)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_sorted_latencies_in_microseconds() {
        let mut latencies: Vec<u32> = (1..=100).rev().map(|n| n * 1000).collect();
        assert_eq!(quantiles(&mut latencies), [("p50_us", 50.0), ("p99_us", 99.0)]);
        assert!(quantiles(&mut []).is_empty());
    }

    #[test]
    fn drawn_keys_are_spread_over_all_and_no_others() {
        let (mut state, mut counts) = (1, [0_u32; 10]);
        (0..10_000).for_each(|_| counts[usize::try_from(draw(&mut state, 10)).unwrap()] += 1);
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
    }

    #[test]
    fn cpu_time_of_this_process_can_be_read_and_does_not_go_back() {
        let cpu = Cpu::start(&[std::process::id()]).unwrap();
        assert!(cpu.us().unwrap() >= 0.0);
    }
}
