//! Where and of what figures are, and where they are kept.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

/// Where and of what the figures are.
#[derive(Serialize)]
pub struct Machine {
    cpu: String,
    cores: usize,
    kernel: String,
    rustc: String,
    commit: String,
    profile: String,
    allocator: &'static str,
    /// Processes that wanted to run, over the last minute, before the first pass.
    load: f64,
}

impl Machine {
    /// Looks; warns where others are at work.
    pub fn look(root: &Path, profile: &str, allocator: &'static str) -> Result<Self> {
        let said = |program: &str, args: &[&str]| said(root, program, args);
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let cpu = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load = load.split_whitespace().next().and_then(|l| l.parse().ok()).unwrap_or_default();
        let machine = Self {
            cpu: cpu.map_or_else(|| "unknown".into(), |(_, name)| name.to_owned()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: said("uname", &["-sr"]),
            rustc: said("rustc", &["--version"]),
            commit: commit(root),
            profile: profile.to_owned(),
            allocator,
            load,
        };
        if machine.load > 0.5 * machine.cores as f64 {
            eprintln!("the machine is busy (load {load}): ratios may hold, figures do not");
        }
        Ok(machine)
    }

    /// In two lines, with how many runs the medians are of.
    pub fn describe(&self, runs: usize) -> [String; 2] {
        let Self { cpu, cores, kernel, rustc, commit, profile, allocator, load } = self;
        [
            format!("{cpu}, {cores} cores, {kernel}, {rustc}"),
            format!(
                "commit {commit}, profile {profile}, allocator {allocator}, load {load} at the start; {runs} runs: median (min .. max)"
            ),
        ]
    }
}

/// What a program says in this folder; nothing if it cannot be run.
pub fn said(root: &Path, program: &str, args: &[&str]) -> String {
    let out = Command::new(program).args(args).current_dir(root).output();
    out.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default()
}

/// What is built.
pub fn commit(root: &Path) -> String {
    let changed = !said(root, "git", &["status", "--porcelain"]).is_empty();
    said(root, "git", &["rev-parse", "--short", "HEAD"]) + if changed { " and changes" } else { "" }
}

/// A name that no result has yet, in the folder of results: today's date and this ending. Earlier results
/// of the day stay.
pub fn unused(root: &Path, ending: &str) -> Result<PathBuf> {
    let today = Command::new("date").args(["-u", "+%Y-%m-%d"]).output().context("asking for the date")?;
    let today = String::from_utf8(today.stdout)?;
    let today = today.trim();
    ensure!(today.len() == 10, "date -u +%Y-%m-%d says {today:?}");
    let folder = root.join("benches/results");
    std::fs::create_dir_all(&folder)?;
    let stem = |n: u32| match n {
        1 => folder.join(format!("{today}{ending}")),
        n => folder.join(format!("{today}{ending}-{n}")),
    };
    let free = (1..100).map(stem).find(|stem| !stem.with_extension("json").exists());
    free.context("a hundred results in one day are enough; remove some")
}
