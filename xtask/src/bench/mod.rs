//! `cargo xtask bench`: builds the benchmarks' program, runs every row's sides in turn, as many times as
//! asked, and prints medians, spread and ratios with the goal beside each. With `--smoke` every side runs
//! once in small form, in the profile that tests share, and nothing is judged but whether it ends well.
//! The small form of everything is one: of rows and sweeps, and the counts.
//!
//! `rows`: what the program says it has; `passes`: the alternation; `peers`: programs of others, where they
//! stand beside this folder; `figures`: medians and ratios; `report`: what is printed and saved; `plot`: the
//! picture; `machine`: where figures come from and are kept.
//!
//! With `--sweeps` it runs those in their place: how cost grows. `sweeps`: their points and runs; `growth`:
//! what is printed and saved; `curve`: the picture.
//!
//! With `--counts` it counts instructions instead of time. `counts`: of single operations.

mod counts;
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
       cargo xtask bench --counts [FILTER]... [--profile P] [--smoke] [--save]
       cargo xtask bench [--sweeps] --smoke [FILTER]...
       cargo xtask bench [--sweeps | --counts] --list [FILTER]...
  FILTER     rows (or sweeps, operations) whose name contains it; all without one
  --sweeps   how cost grows, in place of the rows: every point of every sweep
  --counts   instructions of single operations, under valgrind, beside those that were landed last;
             --save lands them, --smoke counts fewer, in the profile that tests share
  --runs     passes over the chosen rows, sides alternating (5); over the points of the sweeps (3)
  --profile  dist, as shipped, or release, which builds faster (dist; with --counts: release)
  --system-allocator measures with the system's allocator in place of mimalloc
  --no-peers leaves out the peers' programs, also where they are found
  --save     keeps figures, table and plots under benches/results, by date
  --smoke    every row and the two smallest points of every sweep once in small form: shows that they run,
             measures nothing; and the counts";

/// What the command line asks for.
#[derive(PartialEq, Eq, Debug)]
struct Options {
    filters: Vec<String>,
    sweeps: bool,
    /// As asked for.
    runs: Option<usize>,
    /// As asked for.
    profile: Option<String>,
    system_allocator: bool,
    peers: bool,
    json: bool,
    save: bool,
    smoke: bool,
    counts: bool,
    list: bool,
}

/// What there is to run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Rows,
    Sweeps,
    Counts,
}

/// Passes where none are asked for.
const RUNS: usize = 5;
const SWEEP_RUNS: usize = 3;

/// Operations counted, and in the small form.
const OPS: u64 = 10_000;
const SMOKE_OPS: u64 = 1_000;

/// Runs it; whether every side ended well. Goals that are missed are told, and are no failure.
pub fn run(root: &Path, words: &[&str]) -> Result<bool> {
    let options = parse(words)?;
    let binary = build(root, &options)?;
    let chosen = Chosen::read(&binary, &options)?;
    if options.list {
        chosen.list();
        Ok(true)
    } else if options.smoke {
        chosen.smoke(root, &binary, &options)
    } else if options.sweeps {
        grow(root, &options, &binary, &chosen.sweeps)
    } else if options.counts {
        count(root, &options, &binary, &chosen.counts)
    } else {
        compare(root, &options, &binary, &chosen.rows)
    }
}

/// What there is of what was asked for.
struct Chosen {
    rows: Vec<rows::Row>,
    sweeps: Vec<sweeps::Sweep>,
    counts: Vec<counts::Count>,
}

impl Chosen {
    fn read(binary: &Path, options: &Options) -> Result<Self> {
        let mut chosen = Self {
            rows: rows::read(binary, "list")?,
            sweeps: rows::read(binary, "sweeps")?,
            counts: rows::read(binary, "counts")?,
        };
        chosen.rows.retain(|row| options.takes(Kind::Rows) && options.wants(&row.name));
        chosen.sweeps.retain(|sweep| options.takes(Kind::Sweeps) && options.wants(&sweep.name));
        chosen.counts.retain(|count| options.takes(Kind::Counts) && options.wants(&count.name));
        let Self { rows, sweeps, counts } = &chosen;
        let none = rows.is_empty() && sweeps.is_empty() && counts.is_empty();
        ensure!(!none, "no name contains one of {:?}", options.filters);
        Ok(chosen)
    }

    fn list(&self) {
        let lines = |title: &str, lines: Vec<(&String, &String)>| {
            if !lines.is_empty() {
                println!("{title}:");
                lines.iter().for_each(|(name, work)| println!("  {name:<14} {work}"));
            }
        };
        lines("rows", self.rows.iter().map(|row| (&row.name, &row.work)).collect());
        lines("sweeps", self.sweeps.iter().map(|sweep| (&sweep.name, &sweep.work)).collect());
        lines("counts", self.counts.iter().map(|count| (&count.name, &count.work)).collect());
    }

    /// All in small form, each also where one before has failed.
    fn smoke(&self, root: &Path, binary: &Path, options: &Options) -> Result<bool> {
        let rows = if self.rows.is_empty() { Ok(true) } else { passes::smoke(binary, &self.rows) };
        let sweeps = self.sweeps.is_empty() || sweeps::smoke(binary, &self.sweeps);
        let counts = self.counts.is_empty() || count(root, options, binary, &self.counts)?;
        Ok(rows? && sweeps && counts)
    }
}

/// The rows: sides beside each other.
fn compare(root: &Path, options: &Options, binary: &Path, rows: &[rows::Row]) -> Result<bool> {
    let machine = machine::Machine::look(root, options.profile(), options.allocator())?;
    let peers = if options.peers { peers::Peers::find(root) } else { None };
    let runs = options.runs();
    let measured = passes::measure(binary, rows, peers.as_ref(), runs)?;
    let result = report::Report::new(machine, rows, &measured, runs);
    tell(options, &result, || result.print(), || result.save(root))?;
    Ok(measured.failures == 0)
}

/// The sweeps: one side at rising sizes.
fn grow(root: &Path, options: &Options, binary: &Path, sweeps: &[sweeps::Sweep]) -> Result<bool> {
    let machine = machine::Machine::look(root, options.profile(), options.allocator())?;
    let runs = options.runs();
    let measured = sweeps::measure(binary, sweeps, runs);
    let result = growth::Growth::new(machine, sweeps, &measured, runs);
    tell(options, &result, || result.print(), || result.save(root))?;
    Ok(measured.failures == 0)
}

/// The operations: their instructions.
fn count(root: &Path, options: &Options, binary: &Path, counts: &[counts::Count]) -> Result<bool> {
    let ops = if options.smoke { SMOKE_OPS } else { OPS };
    counts::run(root, binary, counts, options.profile(), ops, options.save && options.counts)
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

impl Options {
    /// Whether it is of these: rows where nothing is said; their list and small form are of everything.
    fn takes(&self, kind: Kind) -> bool {
        let all = self.list || self.smoke;
        match kind {
            Kind::Rows => !self.sweeps && !self.counts,
            Kind::Sweeps => self.sweeps || all && !self.counts,
            Kind::Counts => self.counts || all && !self.sweeps,
        }
    }

    fn runs(&self) -> usize {
        self.runs.unwrap_or(if self.sweeps { SWEEP_RUNS } else { RUNS })
    }

    /// The profile that is built.
    fn profile(&self) -> &str {
        match &self.profile {
            _ if self.smoke => "dev",
            Some(profile) => profile,
            None if self.counts => "release",
            None => "dist",
        }
    }

    fn allocator(&self) -> &'static str {
        if self.system_allocator { "the system's" } else { "mimalloc" }
    }

    fn wants(&self, row: &str) -> bool {
        self.filters.is_empty() || self.filters.iter().any(|filter| row.contains(filter.as_str()))
    }
}

fn parse(words: &[&str]) -> Result<Options> {
    let mut options = Options {
        filters: Vec::new(),
        sweeps: false,
        runs: None,
        profile: None,
        system_allocator: false,
        peers: true,
        json: false,
        save: false,
        smoke: false,
        counts: false,
        list: false,
    };
    let mut words = words.iter();
    while let Some(&word) = words.next() {
        match word {
            "--runs" | "--profile" => {
                let value = *words.next().with_context(|| format!("{word} needs a value"))?;
                if word == "--profile" {
                    options.profile = Some(value.into());
                } else {
                    let runs = value.parse().ok().filter(|n| *n > 0);
                    options.runs = Some(runs.context("--runs needs a number from 1")?);
                }
            }
            "--sweeps" => options.sweeps = true,
            "--system-allocator" => options.system_allocator = true,
            "--no-peers" => options.peers = false,
            "--json" => options.json = true,
            "--save" => options.save = true,
            "--smoke" => options.smoke = true,
            "--counts" => options.counts = true,
            "--list" => options.list = true,
            _ if word.starts_with('-') => bail!("unknown option {word}\n{USAGE}"),
            filter => options.filters.push(filter.into()),
        }
    }
    if let Some(profile) = &options.profile {
        ensure!(
            matches!(profile.as_str(), "dist" | "release"),
            "--profile is dist or release, not {profile:?}: others measure the compiler's checks"
        );
        ensure!(!options.smoke, "--smoke has a profile of its own, the one that tests share");
    }
    ensure!(!(options.sweeps && options.counts), "--sweeps and --counts are built and run apart");
    ensure!(
        !(options.counts && options.save && !options.filters.is_empty()),
        "--counts --save lands all counts together: they are of one build"
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
        let profile = if options.list { "dev" } else { options.profile() };
        cargo.args(["-p", "millet-benches", "--profile", profile]);
        if options.system_allocator {
            cargo.arg("--no-default-features");
        }
        // Whatever the shell says: split for incremental builds, code is inlined less.
        cargo.env("CARGO_INCREMENTAL", "0");
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
        assert_eq!((options.runs(), options.profile(), options.sweeps), (3, "dist", false));
        assert!(options.wants("ask-key") && options.wants("tell") && !options.wants("activate"));
    }

    /// Counts are compared within a profile; each form has its own.
    #[test]
    fn counts_are_of_release_unless_told_and_the_small_form_is_as_tests_are() {
        let profile = |words: &[&str]| parse(words).unwrap().profile().to_owned();
        assert_eq!(profile(&["--counts"]), "release");
        assert_eq!(profile(&["--counts", "--profile", "dist"]), "dist");
        assert_eq!(profile(&["--counts", "--smoke"]), "dev");
        assert_eq!(profile(&["--smoke"]), "dev");
    }

    #[test]
    fn sweeps_have_fewer_passes_and_the_profile_of_rows() {
        let asked = |words: &[&str]| parse(words).map(|o| (o.runs(), o.profile().to_owned())).unwrap();
        assert_eq!(asked(&[]), (5, "dist".into()));
        assert_eq!(asked(&["--sweeps"]), (3, "dist".into()));
        assert_eq!(asked(&["--sweeps", "--runs", "5", "--profile", "release"]), (5, "release".into()));
    }

    /// The gate's small form leaves nothing out.
    #[test]
    fn the_list_and_the_small_form_are_of_everything_unless_told() {
        use Kind::{Counts, Rows, Sweeps};
        let taken = |words: &[&str]| {
            let options = parse(words).unwrap();
            let kinds = [Rows, Sweeps, Counts].into_iter();
            kinds.filter(|kind| options.takes(*kind)).collect::<Vec<_>>()
        };
        assert_eq!(taken(&[]), [Rows]);
        for all in ["--smoke", "--list"] {
            assert_eq!(taken(&[all]), [Rows, Sweeps, Counts]);
            assert_eq!(taken(&[all, "--sweeps"]), [Sweeps]);
            assert_eq!(taken(&[all, "--counts"]), [Counts]);
        }
        assert_eq!(taken(&["--sweeps"]), [Sweeps]);
        assert_eq!(taken(&["--counts"]), [Counts]);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for words in [
            &["--runs", "0"][..],
            &["--runs"],
            &["--fast"],
            &["--profile", "dev"],
            &["--smoke", "--profile", "release"],
            &["--counts", "--save", "ask"],
            &["--counts", "--sweeps"],
        ] {
            assert!(parse(words).is_err(), "{words:?}");
        }
    }
}
