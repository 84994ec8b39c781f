//! `cargo xtask bench`: builds the benchmarks' program, runs every row's sides in turn, as many times as
//! asked, and prints medians, spread and ratios with the goal beside each. With `--smoke` every side runs
//! once in small form, in the profile that tests share, and nothing is judged but whether it ends well.
//!
//! `rows`: what the program says it has; `passes`: the alternation; `peers`: programs of others, where they
//! stand beside this folder; `figures`: medians and ratios; `report`: what is printed and saved; `plot`: the
//! picture; `machine`: where figures come from and are kept.
//!
//! With `--sweeps` it runs those in their place: how cost grows. `sweeps`: their points and runs; `growth`:
//! what is printed and saved; `curve`: the picture.

mod curve;
mod figures;
mod growth;
mod machine;
mod passes;
mod peers;
mod plot;
mod report;
mod rows;
mod sweeps;

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;

/// How `xtask bench` is called.
pub const USAGE: &str =
    "       cargo xtask bench [FILTER]... [--runs N] [--profile P] [--no-peers] [--json] [--save]
       cargo xtask bench --sweeps [FILTER]... [--runs N] [--profile P] [--json] [--save]
       cargo xtask bench [--sweeps] --smoke [FILTER]...
       cargo xtask bench [--sweeps] --list
  FILTER     rows (or sweeps) whose name contains it; all without one
  --sweeps   how cost grows, in place of the rows: every point of every sweep
  --runs     passes over the chosen rows, sides alternating (5); over the points of the sweeps (3)
  --profile  dist, as shipped, or release, which builds faster (dist)
  --no-peers leaves out the peers' programs, also where they are found
  --save     keeps figures, table and plots under benches/results, by date
  --smoke    every row and the two smallest points of every sweep once in small form: shows that they run,
             measures nothing";

/// What the command line asks for.
#[derive(PartialEq, Eq, Debug)]
struct Options {
    filters: Vec<String>,
    sweeps: bool,
    /// As many as is usual there, if not said.
    runs: Option<usize>,
    profile: String,
    peers: bool,
    json: bool,
    save: bool,
    smoke: bool,
    list: bool,
}

/// Runs it; whether every side ended well. Goals that are missed are told, and are no failure.
pub fn run(root: &Path, words: &[&str]) -> Result<bool> {
    let options = parse(words)?;
    let binary = build(root, &options)?;
    let wanted = |name: &str| options.wants(name);
    let mut rows: Vec<rows::Row> = rows::read(&binary, "list")?;
    let mut sweeps: Vec<sweeps::Sweep> = rows::read(&binary, "sweeps")?;
    rows.retain(|row| !options.sweeps && wanted(&row.name));
    // The small form of everything is one: the gate runs it.
    sweeps.retain(|sweep| (options.sweeps || options.smoke) && wanted(&sweep.name));
    ensure!(!rows.is_empty() || !sweeps.is_empty(), "no name contains one of {:?}", options.filters);
    if options.list {
        rows.iter().for_each(|row| println!("{:<14} {}", row.name, row.work));
        sweeps.iter().for_each(|sweep| println!("{:<14} {}", sweep.name, sweep.work));
        return Ok(true);
    }
    if options.smoke {
        // Both, also where the first has failed.
        let rows = rows.is_empty() || passes::smoke(&binary, &rows)?;
        return Ok((sweeps.is_empty() || sweeps::smoke(&binary, &sweeps)) && rows);
    }
    if options.sweeps {
        grow(root, &options, &binary, &sweeps)
    } else {
        compare(root, &options, &binary, &rows)
    }
}

/// The rows: sides beside each other.
fn compare(root: &Path, options: &Options, binary: &Path, rows: &[rows::Row]) -> Result<bool> {
    let machine = machine::Machine::look(root, &options.profile)?;
    let peers = if options.peers { peers::Peers::find(root) } else { None };
    let runs = options.runs.unwrap_or(RUNS);
    let measured = passes::measure(binary, rows, peers.as_ref(), runs)?;
    let result = report::Report::new(machine, rows, &measured, runs);
    tell(options, &result, || result.print(), || result.save(root))?;
    Ok(measured.failures == 0)
}

/// The sweeps: one side at rising sizes.
fn grow(root: &Path, options: &Options, binary: &Path, sweeps: &[sweeps::Sweep]) -> Result<bool> {
    let machine = machine::Machine::look(root, &options.profile)?;
    let runs = options.runs.unwrap_or(SWEEP_RUNS);
    let measured = sweeps::measure(binary, sweeps, runs);
    let result = growth::Growth::new(machine, sweeps, &measured, runs);
    tell(options, &result, || result.print(), || result.save(root))?;
    Ok(measured.failures == 0)
}

/// Says what came out in the way that was asked for.
fn tell<R: Serialize>(
    options: &Options,
    result: &R,
    print: impl FnOnce(),
    save: impl FnOnce() -> Result<PathBuf>,
) -> Result<()> {
    if options.json {
        println!("{}", serde_json::to_string(result)?);
    } else {
        print();
    }
    if options.save {
        eprintln!("saved: {}", save()?.display());
    }
    Ok(())
}

/// Passes where none are asked for.
const RUNS: usize = 5;
const SWEEP_RUNS: usize = 3;

impl Options {
    fn wants(&self, row: &str) -> bool {
        self.filters.is_empty() || self.filters.iter().any(|filter| row.contains(filter.as_str()))
    }
}

fn parse(words: &[&str]) -> Result<Options> {
    let mut options = Options {
        filters: Vec::new(),
        sweeps: false,
        runs: None,
        profile: "dist".into(),
        peers: true,
        json: false,
        save: false,
        smoke: false,
        list: false,
    };
    let mut words = words.iter();
    while let Some(&word) = words.next() {
        match word {
            "--runs" | "--profile" => {
                let value = *words.next().with_context(|| format!("{word} needs a value"))?;
                if word == "--profile" {
                    options.profile = value.into();
                } else {
                    let runs = value.parse().ok().filter(|n| *n > 0);
                    options.runs = Some(runs.context("--runs needs a number from 1")?);
                }
            }
            "--sweeps" => options.sweeps = true,
            "--no-peers" => options.peers = false,
            "--json" => options.json = true,
            "--save" => options.save = true,
            "--smoke" => options.smoke = true,
            "--list" => options.list = true,
            _ if word.starts_with('-') => bail!("unknown option {word}\n{USAGE}"),
            filter => options.filters.push(filter.into()),
        }
    }
    ensure!(
        matches!(options.profile.as_str(), "dist" | "release"),
        "--profile is dist or release, not {:?}: others measure the compiler's checks",
        options.profile
    );
    Ok(options)
}

/// Builds the program; where it is.
fn build(root: &Path, options: &Options) -> Result<PathBuf> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "-q", "--bin", "millet-benches", "--message-format=json-render-diagnostics"]);
    if options.smoke {
        cargo.args(crate::AS_TESTS);
    } else {
        // Alone: no feature of a test tool may get into what is measured.
        let profile = if options.list { "dev" } else { &options.profile };
        cargo.args(["-p", "millet-benches", "--profile", profile]);
    }
    let built =
        cargo.current_dir(root).stderr(Stdio::inherit()).output().context("cannot run cargo build")?;
    ensure!(built.status.success(), "the benchmarks do not build");
    let lines = String::from_utf8_lossy(&built.stdout);
    let made = lines.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let mut made = made.filter(|m| m["target"]["name"] == "millet-benches");
    let binary = made.find_map(|m| m["executable"].as_str().map(PathBuf::from));
    binary.context("cargo names no executable of millet-benches")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_filters_and_options_have_defaults() {
        let options = parse(&["ask", "--runs", "3", "tell"]).unwrap();
        assert_eq!((options.runs, options.profile.as_str(), options.sweeps), (Some(3), "dist", false));
        assert!(options.wants("ask-key") && options.wants("tell") && !options.wants("activate"));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for words in [&["--runs", "0"][..], &["--runs"], &["--fast"], &["--profile", "dev"]] {
            assert!(parse(words).is_err(), "{words:?}");
        }
    }
}
