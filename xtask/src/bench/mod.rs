//! `cargo xtask bench`: builds the benchmarks' program, runs every row's sides in turn, as many times as
//! asked, and prints medians, spread and ratios with the goal beside each. With `--smoke` every side runs
//! once in small form, in the profile that tests share, and nothing is judged but whether it ends well.
//!
//! `rows`: what the program says it has; `passes`: the alternation; `peers`: programs of others, where they
//! stand beside this folder; `figures`: medians and ratios; `report`: what is printed and saved; `plot`: the
//! picture.

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
       cargo xtask bench --smoke [FILTER]...
       cargo xtask bench --list
  FILTER     rows whose name contains it; all without one
  --runs     passes over the chosen rows, sides alternating (5)
  --profile  dist, as shipped, or release, which builds faster (dist)
  --no-peers leaves out the peers' programs, also where they are found
  --save     keeps figures, table and plot under benches/results, by date
  --smoke    every row once in small form: shows that it runs, measures nothing";

/// What the command line asks for.
#[derive(PartialEq, Eq, Debug)]
struct Options {
    filters: Vec<String>,
    runs: usize,
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
    let rows = rows::read(&binary)?;
    let chosen: Vec<_> = rows.into_iter().filter(|row| options.wants(&row.name)).collect();
    ensure!(!chosen.is_empty(), "no row's name contains {:?}", options.filters);
    if options.list {
        chosen.iter().for_each(|row| println!("{:<14} {}", row.name, row.work));
        return Ok(true);
    }
    if options.smoke {
        return passes::smoke(&binary, &chosen);
    }
    let machine = report::Machine::look(root, &options.profile)?;
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

impl Options {
    fn wants(&self, row: &str) -> bool {
        self.filters.is_empty() || self.filters.iter().any(|filter| row.contains(filter.as_str()))
    }
}

fn parse(words: &[&str]) -> Result<Options> {
    let mut options = Options {
        filters: Vec::new(),
        runs: 5,
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
                    options.runs =
                        value.parse().ok().filter(|n| *n > 0).context("--runs needs a number from 1")?;
                }
            }
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
        assert_eq!((options.runs, options.profile.as_str()), (3, "dist"));
        assert!(options.wants("ask-key") && options.wants("tell") && !options.wants("activate"));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for words in [&["--runs", "0"][..], &["--runs"], &["--fast"], &["--profile", "dev"]] {
            assert!(parse(words).is_err(), "{words:?}");
        }
    }
}
