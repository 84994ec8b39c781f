//! Builds `fuzz/` with libFuzzer's instrumentation and runs its targets, as many at once as there are cores.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::{Line, Plan, on_all_cores};

/// What cargo-fuzz passes, all of it known to a stable compiler: counters at every edge, and comparisons.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";

/// Resident memory of one target; the targets check themselves what an input may take.
const RSS_MIB: u32 = 2048;
/// Longest input: what has no length check before this one is found with less.
const INPUT_BYTES: u32 = 65_536;
/// An input that takes longer is a finding.
const INPUT_SECONDS: u32 = 10;
/// Lines of a target's output that are shown when it found something.
const SHOWN: usize = 40;

/// Builds, and runs what the plan wants.
pub(super) fn run(root: &Path, plan: &Plan) -> Result<Vec<Line>> {
    let home = root.join("fuzz");
    let start = Instant::now();
    let program = build(&home, plan.asan)?;
    eprintln!("fuzz: built in {:.0} s", start.elapsed().as_secs_f64());
    let targets: Vec<String> = targets(&home)?.into_iter().filter(|t| plan.wants(t)).collect();
    on_all_cores(&targets, |target| one(&home, &program, target, plan.time))
}

/// The names in the table of `fuzz/src/lib.rs`.
fn targets(home: &Path) -> Result<Vec<String>> {
    let path = home.join("src/lib.rs");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let names = text.lines().filter_map(|line| {
        let rest = line.trim().strip_prefix("Target { name: \"")?;
        rest.split_once('"').map(|(name, _)| name.to_owned())
    });
    Ok(names.collect())
}

fn build(home: &Path, asan: bool) -> Result<PathBuf> {
    let host = host()?;
    let mut flags = COVERAGE.to_owned();
    let mut cargo = if asan {
        flags += " -Zsanitizer=address";
        let mut rustup = Command::new("rustup");
        // The pinned toolchain would win otherwise.
        rustup.args(["run", "nightly", "cargo"]).env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO");
        rustup
    } else {
        Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
    };
    // With a target named, what runs at build time is not instrumented.
    let out = home.join("target").join(if asan { "asan" } else { "plain" });
    cargo.args(["build", "--locked", "--target", &host]).arg("--target-dir").arg(&out);
    cargo.current_dir(home).env("RUSTFLAGS", flags).env_remove("CARGO_ENCODED_RUSTFLAGS");
    if !cargo.status().context("cannot run cargo build in fuzz/")?.success() {
        bail!("fuzz/ does not build");
    }
    Ok(out.join(host).join("debug").join("fuzz"))
}

fn host() -> Result<String> {
    let rustc = Command::new("rustc").arg("-vV").output().context("cannot run rustc -vV")?;
    let said = String::from_utf8_lossy(&rustc.stdout).into_owned();
    said.lines()
        .find_map(|line| line.strip_prefix("host: "))
        .map(str::to_owned)
        .context("rustc -vV names no host")
}

/// Runs one target. Its corpus stays, so that the next run goes on with it.
fn one(home: &Path, program: &Path, target: &str, time: Duration) -> Result<Line> {
    let (corpus, artifacts) =
        (home.join("target/corpus").join(target), home.join("target/artifacts").join(target));
    for dir in [&corpus, &artifacts] {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    let log = artifacts.join("log");
    let output = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let start = Instant::now();
    let status = Command::new(program)
        .arg(&corpus)
        .arg(format!("-max_total_time={}", time.as_secs()))
        .arg(format!("-rss_limit_mb={RSS_MIB}"))
        .arg(format!("-max_len={INPUT_BYTES}"))
        .arg(format!("-timeout={INPUT_SECONDS}"))
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .arg("-print_final_stats=1")
        .env("MILLET_FUZZ_TARGET", target)
        .env("MILLET_FUZZ_SEEDS", &corpus)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(output)
        .status()
        .with_context(|| format!("cannot run {}", program.display()))?;
    let said = String::from_utf8_lossy(&fs::read(&log).unwrap_or_default()).into_owned();
    let found = (!status.success()).then(|| {
        let lines: Vec<&str> = said.lines().collect();
        eprintln!("{}", lines[lines.len().saturating_sub(SHOWN)..].join("\n"));
        format!("FOUND something: {}; the input lies beside it", log.display())
    });
    let (runs, reached) = figures(&said);
    Ok(Line { target: target.to_owned(), runs, reached, seconds: start.elapsed().as_secs_f64(), found })
}

/// Inputs run, and edges reached, as libFuzzer says it.
fn figures(said: &str) -> (u64, u64) {
    let number = |text: &str| text.split_whitespace().next().and_then(|n| n.parse().ok());
    let runs = said.lines().rev().find_map(|l| l.strip_prefix("stat::number_of_executed_units:"));
    let reached = said.lines().rev().find_map(|l| l.split_once(" cov: ").map(|(_, rest)| rest));
    (runs.and_then(number).unwrap_or(0), reached.and_then(number).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_targets_is_found() {
        let found = targets(&crate::root().join("fuzz")).unwrap();
        for target in ["wire", "gateway", "log", "redb"] {
            assert!(found.iter().any(|t| t == target), "{target} is not among {found:?}");
        }
    }

    #[test]
    fn figures_are_read_off_what_libfuzzer_says() {
        let said = "#2\tINITED cov: 12 ft: 13\n#9\tDONE   cov: 345 ft: 400 corp: 5/6b\nstat::number_of_executed_units: 99\n";
        assert_eq!(figures(said), (99, 345));
        assert_eq!(figures(""), (0, 0));
    }
}
