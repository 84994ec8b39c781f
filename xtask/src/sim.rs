//! `cargo xtask sim`: builds the simulator once and runs it, one process per seed, on all cores; prints
//! one screen and, as the last line, JSON. `--resume FILE` keeps the sum of earlier runs and adds to it, the count of controls too.
//! `--controls`: the same with one rule of the product switched off at a time; each must be caught.

mod campaign;
mod controls;

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use campaign::Campaign;

/// How `xtask sim` is called.
pub const USAGE: &str =
    "       cargo xtask sim --seeds A..B [--only FAULT] [--aim AIM] [--resume FILE] [--jobs N]
       cargo xtask sim --controls [--only RULE] [--resume FILE] [--jobs N]
       cargo xtask sim --twice A..B [--jobs N]
  --seeds    these seeds, the last one not
  --aim      aimed at one rule, as its control is
  --resume   adds to the sums in FILE, which is made where it is missing; no seed is counted twice
  --controls switches one rule off at a time; each must be caught
  --twice    runs every seed twice; both must be the same run";

/// A seed that takes longer than this of wall time has hung.
const SEED_LIMIT: Duration = Duration::from_secs(120);

/// What the command line asks for.
struct Options {
    seeds: Option<std::ops::Range<u64>>,
    twice: bool,
    controls: bool,
    only: Option<String>,
    aim: Option<String>,
    resume: Option<PathBuf>,
    jobs: usize,
}

/// Runs it; whether all is well.
pub fn run(root: &Path, words: &[&str]) -> Result<bool> {
    let options = parse(words)?;
    let binary = build(root)?;
    if options.controls {
        let resume = options.resume.as_deref();
        return controls::run(&binary, options.only.as_deref(), options.jobs, resume);
    }
    let Some(seeds) = options.seeds else { bail!("name the seeds: --seeds A..B") };
    let campaign = Campaign { binary, only: options.only, aim: options.aim, off: None, jobs: options.jobs };
    if options.twice { campaign.twice(seeds) } else { campaign.run(seeds, options.resume.as_deref()) }
}

fn parse(words: &[&str]) -> Result<Options> {
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let (only, aim, resume) = (None, None, None);
    let mut options = Options { seeds: None, twice: false, controls: false, only, aim, resume, jobs };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let mut value = || words.next().copied().with_context(|| format!("{word} needs a value"));
        match *word {
            "--seeds" => options.seeds = Some(range(value()?)?),
            "--twice" => (options.seeds, options.twice) = (Some(range(value()?)?), true),
            "--controls" => options.controls = true,
            "--only" => options.only = Some(value()?.to_owned()),
            "--aim" => options.aim = Some(value()?.to_owned()),
            "--resume" => options.resume = Some(value()?.into()),
            "--jobs" => options.jobs = value()?.parse().context("--jobs needs a number")?,
            other => bail!("unknown argument {other}\n{USAGE}"),
        }
    }
    Ok(options)
}

fn range(text: &str) -> Result<std::ops::Range<u64>> {
    let (from, to) = text.split_once("..").context("seeds are written A..B")?;
    let seeds = from.parse()?..to.parse()?;
    if seeds.is_empty() {
        bail!("{text} names no seed");
    }
    Ok(seeds)
}

/// Builds the simulator with the one shared profile; where it is.
fn build(root: &Path) -> Result<PathBuf> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "-q", "--bin", "millet-sim", "--message-format=json-render-diagnostics"]);
    let built =
        cargo.args(crate::AS_TESTS).current_dir(root).stderr(std::process::Stdio::inherit()).output()?;
    if !built.status.success() {
        bail!("the simulator does not build");
    }
    let lines = String::from_utf8_lossy(&built.stdout);
    let made = lines.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let mut made = made.filter(|m| m["target"]["name"] == "millet-sim");
    let binary = made.find_map(|m| m["executable"].as_str().map(PathBuf::from));
    binary.context("cargo names no executable of millet-sim")
}
