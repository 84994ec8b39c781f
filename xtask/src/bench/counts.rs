//! Instructions of single operations: counted by valgrind, where time would say more of the machine than of
//! the program. Each operation is run so many times and twice as many; the difference is what they cost.
//! Beside it stands what was landed last, of the same profile: builds that differ cannot be compared.
//!
//! A difference is printed and fails nothing.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::{
    machine::{commit, said},
    passes::bounded,
    rows::is_installed,
};

/// Under valgrind the start alone takes seconds.
const LIMIT: Duration = Duration::from_secs(120);

/// An operation, as the benchmarks' program describes it.
#[derive(Deserialize)]
pub struct Count {
    pub name: String,
    pub work: String,
}

/// Counts taken of one profile, and of what.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct Taken {
    rustc: String,
    arch: String,
    date: String,
    commit: String,
    /// Built incrementally: split finer, inlined less.
    incremental: bool,
    /// Of the first of the two runs.
    ops: u64,
    /// Instructions of one operation.
    instructions: BTreeMap<String, f64>,
}

/// The last landed counts, by profile.
#[derive(Default, Serialize, Deserialize)]
#[serde(transparent)]
struct Landed(BTreeMap<String, Taken>);

impl Landed {
    fn path(root: &Path) -> PathBuf {
        root.join("benches/results/instructions.json")
    }

    fn read(root: &Path) -> Result<Self> {
        match std::fs::read(Self::path(root)) {
            Ok(text) => serde_json::from_slice(&text).context("reading the landed instruction counts"),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(e) => Err(e).context("reading the landed instruction counts"),
        }
    }

    fn save(&self, root: &Path) -> Result<PathBuf> {
        let path = Self::path(root);
        std::fs::create_dir_all(path.parent().context("the path has a folder")?)?;
        std::fs::write(&path, serde_json::to_string_pretty(self)? + "\n")?;
        Ok(path)
    }
}

/// Counts each of these, prints the table and saves it if asked to; whether all could be counted. Without
/// valgrind they are skipped, which is a failure only where nothing may be.
pub fn run(
    root: &Path,
    binary: &Path,
    counts: &[Count],
    profile: &str,
    ops: u64,
    save: bool,
) -> Result<bool> {
    if !is_installed("valgrind") {
        println!("SKIPPED counts: needs valgrind");
        return Ok(!save && std::env::var_os("MILLET_NO_SKIP").is_none());
    }
    let mut landed = Landed::read(root)?;
    let mut now = Taken::nothing(root, profile, ops);
    let before = landed.0.get(profile).filter(|before| before.is_like(&now));
    println!("instructions of one operation, profile {profile}, {ops} and {} of each;", 2 * ops);
    println!("{}", landed.0.get(profile).map_or("none landed".into(), |b| b.title(before.is_some())));
    println!("{:<14} {:>12} {:>12} {:>9}", "operation", "counted", "landed", "");
    for count in counts {
        match instructions(binary, &count.name, ops) {
            Ok(counted) => {
                let known = before.and_then(|b| b.instructions.get(&count.name)).copied();
                println!("{}", line(&count.name, counted, known));
                now.instructions.insert(count.name.clone(), counted);
            }
            Err(error) => eprintln!("FAILED count {}: {error:#}", count.name),
        }
    }
    let all = now.instructions.len() == counts.len();
    if save && all {
        landed.0.insert(profile.to_owned(), now);
        eprintln!("saved: {}", landed.save(root)?.display());
    }
    Ok(all)
}

impl Taken {
    fn nothing(root: &Path, profile: &str, ops: u64) -> Self {
        // The runner's other builds are never incremental; that of the small form is as the tests' is.
        let incremental = profile == "dev" && std::env::var("CARGO_INCREMENTAL").as_deref() != Ok("0");
        Self {
            rustc: said(root, "rustc", &["--version"]),
            arch: std::env::consts::ARCH.into(),
            date: said(root, "date", &["-u", "+%Y-%m-%d"]),
            commit: commit(root),
            incremental,
            ops,
            instructions: BTreeMap::new(),
        }
    }

    /// Whether the one can be compared with the other. Another compiler is told, and compared.
    fn is_like(&self, other: &Self) -> bool {
        let build = |taken: &Self| (taken.arch.clone(), taken.incremental, taken.ops);
        build(self) == build(other)
    }

    fn title(&self, compared: bool) -> String {
        let Self { rustc, arch, date, commit, ops, .. } = self;
        let split = if self.incremental { ", incremental" } else { "" };
        let word = if compared { "" } else { ": not compared" };
        format!("landed {date} at {commit} on {arch} with {rustc}{split}, {ops} of each{word}")
    }
}

fn line(name: &str, counted: f64, landed: Option<f64>) -> String {
    let (landed, difference) = match landed {
        Some(landed) if landed > 0.0 => {
            (format!("{landed:.1}"), format!("{:+.1} %", (counted / landed - 1.0) * 100.0))
        }
        _ => ("-".into(), "new".into()),
    };
    format!("{name:<14} {counted:>12.1} {landed:>12} {difference:>9}")
}

/// What one operation costs, to a tenth of an instruction.
fn instructions(binary: &Path, name: &str, ops: u64) -> Result<f64> {
    let (once, twice) = (total(binary, name, ops)?, total(binary, name, 2 * ops)?);
    let more = twice.checked_sub(once).context("twice the operations took fewer instructions")?;
    Ok((more as f64 / ops as f64 * 10.0).round() / 10.0)
}

/// Instructions of a whole run.
fn total(binary: &Path, name: &str, ops: u64) -> Result<u64> {
    let mut valgrind = Command::new("valgrind");
    // Nothing is simulated but the program itself; the totals go where the program says nothing.
    valgrind.args(["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null", "--log-fd=1"]);
    valgrind.arg(binary).args(["count", name, &ops.to_string()]);
    let told = bounded(&mut valgrind, LIMIT)?;
    read_total(&told).with_context(|| format!("valgrind tells no total: {told}"))
}

/// The number in valgrind's line `==1== I   refs:      1,234,567` (newer ones say `I refs:`).
fn read_total(told: &str) -> Option<u64> {
    let refs = |line: &str| {
        let (head, number) = line.split_once("refs:")?;
        let is_total = head.split_whitespace().skip(1).eq(["I"]);
        is_total.then(|| number.trim().replace(',', "").parse().ok())?
    };
    told.lines().find_map(refs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_read_from_old_and_new_valgrinds() {
        assert_eq!(read_total("==7== Cachegrind\n==7== I   refs:      1,234,567\n"), Some(1_234_567));
        assert_eq!(read_total("==7== I refs:        89\n"), Some(89));
        assert_eq!(read_total("==7== D   refs:      5\n==7== LL refs: 6\n"), None);
    }

    #[test]
    fn a_line_says_the_difference_in_percent_or_that_there_is_none() {
        assert_eq!(line("ask", 110.0, Some(100.0)), "ask                   110.0        100.0   +10.0 %");
        assert_eq!(line("ask", 110.0, None), "ask                   110.0            -       new");
    }

    /// Another number of operations grows other tables, another machine has other instructions, and a build
    /// that is split finer inlines less.
    #[test]
    fn only_like_is_compared_with_like() {
        let taken = |arch: &str, incremental, ops| Taken {
            rustc: String::new(),
            arch: arch.into(),
            date: String::new(),
            commit: String::new(),
            incremental,
            ops,
            instructions: BTreeMap::new(),
        };
        let one = taken("x86_64", false, 5);
        assert!(one.is_like(&taken("x86_64", false, 5)));
        for other in [taken("x86_64", false, 6), taken("x86_64", true, 5), taken("aarch64", false, 5)] {
            assert!(!one.is_like(&other), "{other:?}");
        }
    }
}
