//! `cargo xtask fuzz`: the targets of `fuzz/` under libFuzzer, some seconds each. The instrumentation needs
//! no nightly toolchain, libFuzzer itself a C++ compiler; `--asan` adds the address sanitizer, which needs
//! both. `--stable` runs the property tests of the same decoders over and over instead, with nothing but
//! the tests' own build.

mod properties;
mod run;

use std::{
    path::Path,
    process::Command,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};

pub const USAGE: &str = "       cargo xtask fuzz [--seconds N] [--only TARGET]... [--asan | --stable]";

/// What is asked for.
#[derive(PartialEq, Eq, Debug)]
struct Plan {
    /// For each target.
    time: Duration,
    /// Empty: all.
    only: Vec<String>,
    asan: bool,
    stable: bool,
}

impl Plan {
    fn parse(options: &[&str]) -> Result<Self> {
        let mut plan = Self { time: Duration::from_secs(5), only: Vec::new(), asan: false, stable: false };
        let mut words = options.iter();
        while let Some(&word) = words.next() {
            let mut value = || words.next().with_context(|| format!("{word} needs a value"));
            match word {
                "--seconds" => {
                    let seconds = value()?.parse().ok().filter(|n| (1..=86_400).contains(n));
                    plan.time = Duration::from_secs(seconds.context("--seconds is 1 to 86400")?);
                }
                "--only" => plan.only.push((*value()?).to_owned()),
                "--asan" => plan.asan = true,
                "--stable" => plan.stable = true,
                _ => bail!("unknown option {word:?}\nusage:{USAGE}"),
            }
        }
        if plan.asan && plan.stable {
            bail!("--asan and --stable exclude each other: the property tests have no sanitizer");
        }
        Ok(plan)
    }

    fn wants(&self, target: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|name| name == target)
    }
}

/// One line of the table.
struct Line {
    target: String,
    /// Inputs, or rounds of a property test.
    runs: u64,
    /// Places of the code that were reached; 0 where nobody counts.
    reached: u64,
    seconds: f64,
    /// What was found.
    found: Option<String>,
}

/// Runs what `options` ask for; true if nothing was found.
pub fn run(root: &Path, options: &[&str]) -> Result<bool> {
    let plan = Plan::parse(options)?;
    let lines = if plan.stable {
        properties::run(root, &plan)?
    } else {
        if let Some(needs) = missing(&plan) {
            println!("SKIPPED fuzz: needs {needs}");
            return Ok(std::env::var_os("MILLET_NO_SKIP").is_none_or(|v| v != "1"));
        }
        run::run(root, &plan)?
    };
    if lines.is_empty() {
        bail!("no such target: {}", plan.only.join(", "));
    }
    Ok(table(&lines))
}

/// What this machine lacks.
fn missing(plan: &Plan) -> Option<&'static str> {
    let works = |program: &str, args: &[&str]| {
        Command::new(program).args(args).output().is_ok_and(|o| o.status.success())
    };
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    if !works(&compiler, &["--version"]) {
        Some("a C++ compiler (c++, or the one that CXX names); --stable does without")
    } else if plan.asan && !works("rustup", &["run", "nightly", "rustc", "--version"]) {
        Some("a nightly toolchain; without --asan the pinned one is enough")
    } else {
        None
    }
}

/// Does the work for every item, as many at once as there are cores; the lines are in the items' order.
fn on_all_cores<T: Sync>(items: &[T], work: impl Fn(&T) -> Result<Line> + Sync) -> Result<Vec<Line>> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    let some = || {
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(n) else { return };
            let line = work(item);
            done.lock().expect("no panic holds it").push((n, line));
        }
    };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| (0..cores).for_each(|_| drop(scope.spawn(some))));
    let mut done = done.into_inner().expect("no panic holds it");
    done.sort_by_key(|(n, _)| *n);
    done.into_iter().map(|(_, line)| line).collect()
}

fn table(lines: &[Line]) -> bool {
    println!("{:<44} {:>10} {:>8} {:>7}", "target", "runs", "reached", "s");
    for line in lines {
        let found = line.found.as_deref().unwrap_or("ok");
        println!("{:<44} {:>10} {:>8} {:>7.1}  {found}", line.target, line.runs, line.reached, line.seconds);
    }
    lines.iter().all(|line| line.found.is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_has_five_seconds_unless_told_otherwise() {
        let plan = Plan::parse(&[]).unwrap();
        assert_eq!((plan.time, plan.wants("wire")), (Duration::from_secs(5), true));
        let plan = Plan::parse(&["--seconds", "60", "--only", "log", "--only", "raft"]).unwrap();
        assert_eq!(plan.time, Duration::from_secs(60));
        assert_eq!(["wire", "log", "raft"].map(|t| plan.wants(t)), [false, true, true]);
    }

    #[test]
    fn wrong_options_are_refused() {
        for options in [
            &["--seconds"][..],
            &["--seconds", "0"],
            &["--seconds", "x"],
            &["--quick"],
            &["--asan", "--stable"],
        ] {
            assert!(Plan::parse(options).is_err(), "{options:?}");
        }
    }
}
