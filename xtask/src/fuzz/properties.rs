//! The stable way: the property tests of the decoders, each run again and again, with other inputs every
//! time, until its seconds are over. They are the tests of every file `tests/decoders.rs`, and those of
//! private decoders, whose names begin with `any_bytes` or `any_text`.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{Line, Plan, on_all_cores};

/// Lines of a failed test's output that are shown.
const SHOWN: usize = 40;

/// Builds the tests, and runs what the plan wants.
pub(super) fn run(root: &Path, plan: &Plan) -> Result<Vec<Line>> {
    let mut wanted = Vec::new();
    for (name, program) in programs(root)? {
        let tests = tests(&program)?.into_iter().filter(|test| name == "decoders" || is_private(test));
        wanted.extend(tests.filter(|test| plan.wants(test)).map(|test| (program.clone(), test)));
    }
    on_all_cores(&wanted, |(program, test)| one(root, program, test, plan))
}

fn is_private(test: &str) -> bool {
    let last = test.rsplit("::").next().unwrap_or(test);
    last.starts_with("any_bytes") || last.starts_with("any_text")
}

/// The test programs that may have properties of decoders. Built as the README's test command builds them, so
/// that nothing is built twice: other targets would mean other features of what they share.
fn programs(root: &Path) -> Result<Vec<(String, PathBuf)>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let args = ["test", "--workspace", "--no-run", "--message-format", "json"];
    let mut build = Command::new(cargo);
    build.args(args).current_dir(root).stderr(Stdio::inherit());
    let output = build.output().context("cannot run cargo test --no-run")?;
    if !output.status.success() {
        bail!("the tests do not build");
    }
    let mut found = Vec::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let Ok(message) = serde_json::from_str::<Value>(line) else { continue };
        let (name, program) = (message["target"]["name"].as_str(), message["executable"].as_str());
        let is_lib =
            message["target"]["kind"].as_array().is_some_and(|kinds| kinds.iter().any(|k| k == "lib"));
        if let (Some(name), Some(program)) = (name, program)
            && (is_lib || name == "decoders")
        {
            found.push((name.to_owned(), PathBuf::from(program)));
        }
    }
    Ok(found)
}

fn tests(program: &Path) -> Result<Vec<String>> {
    let output = Command::new(program).args(["--list", "--format", "terse"]).output();
    let output = output.with_context(|| format!("cannot run {}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
}

/// Runs one test until its time is over, at least once.
fn one(root: &Path, program: &Path, test: &str, plan: &Plan) -> Result<Line> {
    let start = Instant::now();
    let mut line = Line { target: test.to_owned(), runs: 0, reached: 0, seconds: 0.0, found: None };
    while line.runs == 0 || (start.elapsed() < plan.time && line.found.is_none()) {
        let output = Command::new(program).args(["--exact", test]).current_dir(root).output();
        let output = output.with_context(|| format!("cannot run {}", program.display()))?;
        line.runs += 1;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            let said: Vec<&str> = said.lines().collect();
            eprintln!("{}", said[said.len().saturating_sub(SHOWN)..].join("\n"));
            line.found = Some("FAILED".into());
        }
    }
    line.seconds = start.elapsed().as_secs_f64();
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::is_private;

    #[test]
    fn properties_of_private_decoders_are_known_by_their_names() {
        assert!(is_private("raft::codec::tests::any_bytes_are_read_or_refused"));
        assert!(is_private("identity::tests::any_text_is_an_identity_or_damage"));
        assert!(!is_private("identity::tests::a_flipped_bit_is_found"));
    }
}
