//! Many seeds: processes side by side, sums, the screen, and what is said of a seed that failed.

use std::{
    collections::BTreeSet,
    ops::Range,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use millet_oracle::Verdict;
use serde::{Deserialize, Serialize};

use super::SEED_LIMIT;

/// Failed seeds that are shown in full.
const SHOWN: usize = 5;
/// What a run may need (I11): all its nodes and callers live in one process.
const MEMORY_KB: u64 = 256 << 10;
/// Between two looks at a process.
const LOOK: Duration = Duration::from_millis(20);

/// How seeds are run.
pub struct Campaign {
    pub binary: PathBuf,
    /// Faults of this kind only.
    pub only: Option<String>,
    /// What runs are aimed at.
    pub aim: Option<String>,
    /// This rule of the product is switched off.
    pub off: Option<String>,
    pub jobs: usize,
}

/// What `millet-sim` prints of a run.
#[derive(Deserialize, Debug)]
pub struct Outcome {
    pub verdict: Verdict,
    pub broken: Vec<String>,
    pub trace: String,
    pub events: u64,
    pub params: String,
}

/// One seed as it went.
pub struct Ran {
    pub seed: u64,
    /// `Err`: it hung, crashed, or printed nothing of use.
    pub outcome: Result<Outcome>,
    pub peak_kb: u64,
}

/// The sums over all runs so far, as `--resume` keeps them.
#[derive(Serialize, Deserialize, Default)]
pub struct Sums {
    pub verdict: Verdict,
    /// Failed seeds that the oracle has nothing against.
    broken: u64,
    wall_s: f64,
    peak_kb: u64,
    failed: Vec<u64>,
    next: u64,
    /// Seeds in these sums: none is counted twice.
    #[serde(default)]
    done: BTreeSet<u64>,
}

impl Sums {
    /// Those of earlier runs; none yet where there is no file.
    pub fn of(path: &Path) -> Result<Self> {
        if !path.exists() {
            return Ok(Self::default());
        }
        serde_json::from_slice(&std::fs::read(path)?)
            .with_context(|| format!("{} holds no sums of earlier runs", path.display()))
    }

    /// Those of the seeds that are not in the sums; says how many are.
    fn fresh(&self, seeds: Range<u64>) -> Vec<u64> {
        let (again, fresh): (Vec<u64>, Vec<u64>) = seeds.partition(|seed| self.done.contains(seed));
        if !again.is_empty() {
            println!("{} of these seeds are in the sums already and are not run again", again.len());
        }
        fresh
    }

    /// Writes them whole: a run that is stopped leaves the old ones or the new ones.
    pub fn keep(&self, path: &Path) -> Result<()> {
        let new = path.with_extension("new");
        std::fs::write(&new, serde_json::to_vec(self)?)?;
        Ok(std::fs::rename(&new, path)?)
    }
}

impl Ran {
    /// What is wrong with it, if anything.
    pub fn faults(&self) -> Vec<String> {
        match &self.outcome {
            Err(e) => vec![format!("{e:#}")],
            Ok(outcome) => {
                let told = outcome.verdict.violations.iter().map(|v| {
                    let lines = v.timeline.iter().map(|line| format!("\n      {line}"));
                    format!("{} {}: {}{}", v.invariant.title(), v.grain, v.what, lines.collect::<String>())
                });
                let much = (self.peak_kb > MEMORY_KB).then(|| {
                    format!(
                        "I11 bounded memory: {} MB, the limit is {} MB",
                        self.peak_kb >> 10,
                        MEMORY_KB >> 10
                    )
                });
                outcome.broken.iter().cloned().chain(told).chain(much).collect()
            }
        }
    }
}

impl Campaign {
    /// Runs the seeds, prints the screen; whether nothing was violated.
    pub fn run(&self, seeds: Range<u64>, resume: Option<&Path>) -> Result<bool> {
        let mut sums = resume.map_or_else(|| Ok(Sums::default()), Sums::of)?;
        let (start, before) = (Instant::now(), sums.wall_s);
        let mut shown = 0;
        self.each(sums.fresh(seeds), |ran| {
            sums.peak_kb = sums.peak_kb.max(ran.peak_kb);
            let faults = ran.faults();
            if !faults.is_empty() {
                sums.failed.push(ran.seed);
                if shown < SHOWN {
                    self.show(&ran, &faults);
                }
                shown += 1;
            }
            match ran.outcome {
                Ok(outcome) => {
                    sums.broken += u64::from(outcome.verdict.violation_count() == 0 && !faults.is_empty());
                    sums.verdict.merge(outcome.verdict);
                }
                Err(_) => sums.broken += 1,
            }
            sums.next = sums.next.max(ran.seed + 1);
            sums.done.insert(ran.seed);
            sums.wall_s = before + start.elapsed().as_secs_f64();
            if let Some(path) = resume {
                sums.keep(path)?;
            }
            Ok(true)
        })?;
        println!("{}", sums.verdict.screen());
        println!(
            "  wall {:.0} s, next seed {}, most memory of a run {} MB, seeds that failed {:?}",
            sums.wall_s,
            sums.next,
            sums.peak_kb / 1024,
            sums.failed
        );
        println!("{}", sums.verdict.summary());
        Ok(sums.failed.is_empty())
    }

    /// Runs every seed twice; whether both were the same run.
    pub fn twice(&self, seeds: Range<u64>) -> Result<bool> {
        let mut first = std::collections::BTreeMap::new();
        let mut second = first.clone();
        for into in [&mut first, &mut second] {
            self.each(seeds.clone(), |ran| {
                let outcome = ran.outcome?;
                into.insert(ran.seed, (outcome.trace, outcome.events, outcome.verdict.ops.ok));
                Ok(true)
            })?;
        }
        let other: Vec<_> = first.iter().filter(|(seed, run)| second.get(seed) != Some(run)).collect();
        for (seed, run) in &other {
            println!("seed {seed} is not the same run twice: {run:?}, then {:?}", second.get(seed));
        }
        println!("{} of {} seeds were the same run twice", first.len() - other.len(), first.len());
        Ok(other.is_empty())
    }

    /// Runs seeds side by side and hands each over as it ends, until `take` has enough.
    pub fn each(
        &self,
        seeds: impl IntoIterator<Item = u64>,
        mut take: impl FnMut(Ran) -> Result<bool>,
    ) -> Result<()> {
        let (mut seeds, mut running) = (seeds.into_iter(), 0);
        let (tell, told) = mpsc::sync_channel(self.jobs.max(1));
        let mut enough = false;
        std::thread::scope(|scope| {
            loop {
                while running < self.jobs.max(1) && !enough {
                    let Some(seed) = seeds.next() else { break };
                    let tell = tell.clone();
                    running += 1;
                    scope.spawn(move || drop(tell.send(self.one(seed))));
                }
                if running == 0 {
                    return Ok(());
                }
                let ran = told.recv()?;
                running -= 1;
                if !enough {
                    enough = !take(ran)?;
                }
            }
        })
    }

    /// Runs one seed in a process of its own.
    fn one(&self, seed: u64) -> Ran {
        let mut peak_kb = 0;
        let outcome = self.outcome(seed, &mut peak_kb);
        Ran { seed, outcome, peak_kb }
    }

    fn outcome(&self, seed: u64, peak_kb: &mut u64) -> Result<Outcome> {
        let mut child = Command::new(&self.binary)
            .args(self.args(seed))
            .envs(self.off.iter().map(|rule| ("MILLET_RULE_OFF", rule)))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        // Read while it runs: a full pipe would stop it.
        let (mut out, mut err) = (child.stdout.take(), child.stderr.take());
        let reading = std::thread::spawn(move || read(out.as_mut()));
        let complaints = std::thread::spawn(move || read(err.as_mut()));
        let status = format!("/proc/{}/status", child.id());
        let start = Instant::now();
        let ended = loop {
            if let Some(ended) = child.try_wait()? {
                break ended;
            }
            if start.elapsed() > SEED_LIMIT {
                child.kill()?;
                child.wait()?;
                bail!("it did not end within {SEED_LIMIT:?} of wall time");
            }
            *peak_kb = (*peak_kb).max(peak(&status));
            std::thread::sleep(LOOK);
        };
        let text = reading.join().unwrap_or_default();
        let complaints = complaints.join().unwrap_or_default();
        let last = text.lines().last().unwrap_or_default();
        serde_json::from_str(last).with_context(|| format!("it ended with {ended}: {}", complaints.trim()))
    }

    fn args(&self, seed: u64) -> Vec<String> {
        let mut args = vec!["--seed".to_owned(), seed.to_string()];
        args.extend(self.only.iter().flat_map(|kind| ["--only".to_owned(), kind.clone()]));
        args.extend(self.aim.iter().flat_map(|aim| ["--aim".to_owned(), aim.clone()]));
        args
    }

    fn show(&self, ran: &Ran, faults: &[String]) {
        let off = self.off.as_ref().map(|rule| format!("MILLET_RULE_OFF={rule} ")).unwrap_or_default();
        let args = self.args(ran.seed).join(" ");
        println!("FAILED seed {}; repeat with: {off}cargo run -q -p millet-sim -- {args}", ran.seed);
        if let Ok(outcome) = &ran.outcome {
            println!("    {}", outcome.params);
        }
        for fault in faults.iter().take(SHOWN) {
            println!("    {fault}");
        }
    }
}

fn read(from: Option<&mut impl std::io::Read>) -> String {
    let mut text = Vec::new();
    if let Some(from) = from {
        // What came before an error is all there is.
        let _ = from.read_to_end(&mut text);
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// The most memory that a process has had, in KB; 0 where the system does not say.
fn peak(status: &str) -> u64 {
    let text = std::fs::read_to_string(status).unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run that is stopped and begun anew with the same words counts no seed twice.
    #[test]
    fn seeds_in_the_sums_are_not_run_again() {
        let mut sums = Sums::default();
        sums.done.extend([3, 4, 6]);
        assert_eq!(sums.fresh(3..8), [5, 7]);
        let file = serde_json::to_vec(&sums).unwrap();
        let read: Sums = serde_json::from_slice(&file).unwrap();
        assert_eq!(read.fresh(6..8), [7]);
    }
}
