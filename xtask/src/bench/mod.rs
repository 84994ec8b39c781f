//! `cargo xtask bench`: builds the benchmarks' program, runs every row's sides in turn, as many times as
//! asked, and prints medians, spread and ratios with the goal beside each. With `--smoke` every side runs
//! once in small form, in the profile that tests share, and nothing is judged but whether it ends well.
//! `--counts` counts instructions instead; the small form does that too.
//!
//! `rows`: what the program says it has; `passes`: the alternation; `peers`: programs of others, where they
//! stand beside this folder; `figures`: medians and ratios; `report`: what is printed and saved; `plot`: the
//! picture; `counts`: instructions of single operations.

mod counts;
mod figures;
mod passes;
mod peers;
mod plot;
mod report;
mod rows;

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

/// How `xtask bench` is called.
pub const USAGE: &str =
    "       cargo xtask bench [FILTER]... [--runs N] [--profile P] [--no-peers] [--json] [--save]
       cargo xtask bench --counts [FILTER]... [--profile P] [--smoke] [--save]
       cargo xtask bench --smoke [FILTER]...
       cargo xtask bench --list
  FILTER     rows and operations whose name contains it; all without one
  --runs     passes over the chosen rows, sides alternating (5)
  --profile  dist, as shipped, or release, which builds faster (dist; with --counts: release)
  --no-peers leaves out the peers' programs, also where they are found
  --save     keeps figures, table and plot under benches/results, by date
  --counts   instructions of single operations, under valgrind, beside those that were landed last;
             --save lands them, --smoke counts fewer, in the profile that tests share
  --smoke    every row once in small form: shows that it runs, measures nothing; and the counts";

/// What the command line asks for.
#[derive(PartialEq, Eq, Debug)]
struct Options {
    filters: Vec<String>,
    runs: usize,
    /// As asked for.
    profile: Option<String>,
    peers: bool,
    json: bool,
    save: bool,
    smoke: bool,
    counts: bool,
    list: bool,
}

/// Operations counted, and in the small form.
const OPS: u64 = 10_000;
const SMOKE_OPS: u64 = 1_000;

/// Runs it; whether every side ended well. Goals that are missed are told, and are no failure.
pub fn run(root: &Path, words: &[&str]) -> Result<bool> {
    let options = parse(words)?;
    let binary = build(root, &options)?;
    let (mut chosen, mut counts) = (rows::read(&binary)?, counts::read(&binary)?);
    chosen.retain(|row| options.wants(&row.name) && !options.counts);
    counts.retain(|count| options.wants(&count.name));
    if options.list {
        chosen.iter().for_each(|row| println!("{:<14} {}", row.name, row.work));
        println!("\ncounted:");
        counts.iter().for_each(|count| println!("{:<14} {}", count.name, count.work));
        return Ok(true);
    }
    if options.counts || options.smoke {
        ensure!(!(chosen.is_empty() && counts.is_empty()), "no name contains {:?}", options.filters);
        let ran = chosen.is_empty() || passes::smoke(&binary, &chosen)?;
        return Ok(count(root, &binary, &counts, &options)? && ran);
    }
    ensure!(!chosen.is_empty(), "no row's name contains {:?}", options.filters);
    let machine = report::Machine::look(root, options.profile())?;
    let peers = if options.peers { peers::Peers::find(root) } else { None };
    let measured = passes::measure(&binary, &chosen, peers.as_ref(), options.runs)?;
    let result = report::Report::new(machine, &chosen, &measured, options.runs);
    if options.json {
        println!("{}", serde_json::to_string(&result)?);
    } else {
        result.print();
    }
    if options.save {
        eprintln!("saved: {}", result.save(root)?.display());
    }
    Ok(measured.failures == 0)
}

/// Counts what is left of the operations.
fn count(root: &Path, binary: &Path, counts: &[counts::Count], options: &Options) -> Result<bool> {
    if counts.is_empty() {
        return Ok(true);
    }
    let ops = if options.smoke { SMOKE_OPS } else { OPS };
    counts::run(root, binary, counts, options.profile(), ops, options.save && options.counts)
}

impl Options {
    /// The profile that is built.
    fn profile(&self) -> &str {
        match &self.profile {
            _ if self.smoke => "dev",
            Some(profile) => profile,
            None if self.counts => "release",
            None => "dist",
        }
    }

    fn wants(&self, row: &str) -> bool {
        self.filters.is_empty() || self.filters.iter().any(|filter| row.contains(filter.as_str()))
    }
}

fn parse(words: &[&str]) -> Result<Options> {
    let mut options = Options {
        filters: Vec::new(),
        runs: 5,
        profile: None,
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
                    options.runs =
                        value.parse().ok().filter(|n| *n > 0).context("--runs needs a number from 1")?;
                }
            }
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
        assert_eq!((options.runs, options.profile()), (3, "dist"));
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
    fn what_cannot_be_meant_is_refused() {
        for words in [
            &["--runs", "0"][..],
            &["--runs"],
            &["--fast"],
            &["--profile", "dev"],
            &["--smoke", "--profile", "release"],
            &["--counts", "--save", "ask"],
        ] {
            assert!(parse(words).is_err(), "{words:?}");
        }
    }
}
