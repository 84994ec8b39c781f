//! What a run says at its end: one screen, and a last line of JSON.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use millet_oracle::{Standing, Verdict};

use crate::{
    nemesis::{Failovers, Record},
    probe::Prober,
    watch::Watch,
};

/// A fault that cannot be made here.
pub struct Skipped {
    /// Which.
    pub fault: &'static str,
    /// What is missing.
    pub needs: String,
}

impl Skipped {
    /// Whether it must not be skipped here: where every tool must be there (`MILLET_NO_SKIP=1`), only a
    /// missing privilege excuses.
    pub fn is_forbidden(&self) -> bool {
        let strict = std::env::var_os("MILLET_NO_SKIP").is_some_and(|v| v == "1");
        strict && !crate::host::room::PRIVILEGES.contains(&self.needs.as_str())
    }
}

/// G3: a crash is over by TTL + 1 s; by one metadata failover more if the leader died too.
const BOUND: Duration = Duration::from_millis(5_000);
const BOUND_LEADERLESS: Duration = Duration::from_millis(7_500);

/// Everything that is known of a run.
pub struct Report {
    seed: u64,
    seconds: u64,
    only: Option<String>,
    /// Where its files are.
    pub dir: PathBuf,
    skipped: Vec<Skipped>,
    faulty: Duration,
    failovers: Failovers,
    rss_bytes: BTreeMap<String, u64>,
    lateness: Duration,
    answered: u64,
    /// The oracle's, on the history.
    pub verdict: Verdict,
    /// What must not be, beside what the oracle found.
    pub violations: Vec<String>,
}

impl Report {
    /// Of a run that begins.
    pub fn new(seed: u64, seconds: u64, only: Option<String>, dir: PathBuf, skipped: Vec<Skipped>) -> Self {
        Self {
            seed,
            seconds,
            only,
            dir,
            skipped,
            faulty: Duration::ZERO,
            failovers: Failovers::default(),
            rss_bytes: BTreeMap::new(),
            lateness: Duration::ZERO,
            answered: 0,
            verdict: Verdict::default(),
            violations: Vec::new(),
        }
    }

    /// How long faults came.
    pub fn faults_over(&mut self, after: Duration) {
        self.faulty = after;
    }

    /// Takes in what was recorded and seen.
    pub fn tell(&mut self, record: &Record, watch: &Watch, prober: &Prober) {
        self.failovers = record.failovers.lock().clone();
        self.judge_failovers();
        let seen = watch.seen();
        for ending in &seen.unexpected {
            let name = crate::cluster::name(ending.node);
            self.violations
                .push(format!("{name} ended by itself ({}); its log:\n{}", ending.status, ending.log));
        }
        (self.rss_bytes, self.lateness) = (seen.rss_bytes.clone(), seen.lateness);
        self.answered = prober.answered();
    }

    fn judge_failovers(&mut self) {
        let f = &self.failovers;
        let late =
            [("the leader alive", &f.led, BOUND), ("the leader dead too", &f.leaderless, BOUND_LEADERLESS)];
        for (with, times, bound) in late {
            let p99 = percentile(times, 99);
            if p99 > bound {
                let text =
                    format!("failover with {with}: p99 {} ms > {} ms", p99.as_millis(), bound.as_millis());
                self.violations.push(text);
            }
        }
        if f.missed > 0 {
            self.violations.push(format!("{} grains had not come back from a crash in time", f.missed));
        }
    }

    /// Whether nothing was violated and everything was exercised.
    pub fn is_good(&self) -> bool {
        self.violations.is_empty() && self.verdict.standing() == Standing::Pass
    }

    /// Prints it all; `removed`: its files are gone.
    pub fn print(&self, json_only: bool, removed: bool) {
        if !json_only {
            self.screen(removed);
        }
        println!("{}", self.json());
    }

    fn screen(&self, removed: bool) {
        for s in &self.skipped {
            println!("SKIPPED {}: needs {}", s.fault, s.needs);
        }
        println!(
            "seed {}: {:.1} s of faults; this machine was late by up to {} ms",
            self.seed,
            self.faulty.as_secs_f64(),
            self.lateness.as_millis()
        );
        print!("{}", self.verdict.screen());
        println!("probes answered {} times", self.answered);
        let stalled = &self.failovers.stalled;
        if !stalled.is_empty() {
            let p99 = percentile(stalled, 99).as_millis();
            println!(
                "failover while this machine stood still, not judged: {} grains, p99 {p99} ms",
                stalled.len()
            );
        }
        for (with, times) in
            [("leader alive", &self.failovers.led), ("leader dead too", &self.failovers.leaderless)]
        {
            println!(
                "failover, {with}: {} grains, p50 {} ms, p99 {} ms, max {} ms",
                times.len(),
                percentile(times, 50).as_millis(),
                percentile(times, 99).as_millis(),
                percentile(times, 100).as_millis()
            );
        }
        let rss: Vec<_> = self.rss_bytes.iter().map(|(n, b)| format!("{n} {} MiB", b >> 20)).collect();
        println!("resident, at most: {}", rss.join(", "));
        for text in &self.violations {
            println!("VIOLATION: {text}");
        }
        if !removed {
            println!("files: {}", self.dir.display());
        }
        if !self.is_good() {
            println!("again: {}", self.command());
        }
    }

    fn command(&self) -> String {
        let only = self.only.as_ref().map_or(String::new(), |o| format!(" --only {o}"));
        format!("cargo xtask torture --seconds {} --seed {}{only}", self.seconds, self.seed)
    }

    fn json(&self) -> serde_json::Value {
        let p99 = Some(&self.failovers.led).filter(|led| !led.is_empty()).map(|led| percentile(led, 99));
        serde_json::json!({
            "seeds": 1,
            "sim_hours": (self.faulty.as_secs_f64() / 3.6).round() / 1000.0,
            "faults": self.verdict.faults.values().map(|e| e.effective).sum::<u64>(),
            "ok": self.verdict.ops.ok,
            "unknown": self.verdict.ops.unknown,
            "violations": self.verdict.violation_count() + self.violations.len() as u64,
            "controls_caught": self.verdict.controls_caught,
            "failover_ms_p99": p99.map(|t| t.as_millis()),
        })
    }
}

/// The smallest time that so many of a hundred do not exceed.
fn percentile(times: &[Duration], percent: usize) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_99th_percentile_of_a_hundred_is_the_second_longest() {
        let times: Vec<_> = (1..=100).map(Duration::from_millis).collect();
        assert_eq!(percentile(&times, 99), Duration::from_millis(99));
        assert_eq!(percentile(&times, 100), Duration::from_millis(100));
        assert_eq!(percentile(&[], 99), Duration::ZERO);
    }
}
