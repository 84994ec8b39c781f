//! `cargo xtask check`: the one gate. Runs its steps in an order that finds cheap mistakes first, lets
//! every step finish even if an earlier one failed, and prints a line with its time for each.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::tidy;

/// One part of the gate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// `cargo fmt --check`.
    Fmt,
    /// The rules of [`crate::tidy`].
    Tidy,
    /// Clippy over everything, warnings are errors. Shares its dependencies' metadata with nobody, but
    /// finds type errors before the long step starts.
    Clippy,
    /// The README's test command: unit, integration and doc tests.
    Test,
    /// `cargo deny check`, where it is installed.
    Deny,
}

const ALL: [Step; 5] = [Step::Fmt, Step::Tidy, Step::Clippy, Step::Test, Step::Deny];

impl Step {
    fn name(self) -> &'static str {
        match self {
            Self::Fmt => "fmt",
            Self::Tidy => "tidy",
            Self::Clippy => "clippy",
            Self::Test => "test",
            Self::Deny => "deny",
        }
    }

    fn is_fast(self) -> bool {
        matches!(self, Self::Fmt | Self::Tidy | Self::Clippy)
    }

    fn named(name: &str) -> Result<Self> {
        let Some(step) = ALL.into_iter().find(|step| step.name() == name) else {
            bail!("no step {name:?}; steps are {}", ALL.map(Self::name).join(", "));
        };
        Ok(step)
    }

    fn run(self, root: &Path) -> Result<Outcome> {
        match self {
            Self::Fmt => cargo(root, &["fmt", "--all", "--check"]),
            Self::Tidy => Ok(if tidy::report(root)? { Outcome::Passed } else { Outcome::Failed }),
            Self::Clippy => cargo(root, &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]),
            Self::Test => cargo(root, &["test", "--workspace"]),
            Self::Deny => {
                if Command::new("cargo-deny").arg("--version").output().is_err() {
                    return Ok(Outcome::Missing(
                        "cargo-deny is not on PATH; tidy checks licences, sources and versions",
                    ));
                }
                cargo(root, &["deny", "check"])
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    Passed,
    Failed,
    /// Not run, and why.
    Missing(&'static str),
}

/// Which steps to run, in order.
#[derive(PartialEq, Eq, Debug)]
pub struct Plan(Vec<Step>);

impl Plan {
    /// Reads the options after `check`.
    pub fn parse(options: &[&str]) -> Result<Self> {
        let mut only = Vec::new();
        let mut steps = ALL.to_vec();
        let mut words = options.iter();
        while let Some(&word) = words.next() {
            match word {
                "--fast" => steps.retain(|step| step.is_fast()),
                "--only" | "--skip" => {
                    let named = Step::named(words.next().with_context(|| format!("{word} needs a step"))?)?;
                    if word == "--only" { only.push(named) } else { steps.retain(|&step| step != named) }
                }
                _ => bail!("unknown option {word:?}; --fast, --only STEP and --skip STEP are known"),
            }
        }
        if !only.is_empty() {
            steps.retain(|step| only.contains(step));
        }
        Ok(Self(steps))
    }
}

/// Runs the plan; true if nothing failed.
pub fn run(root: &Path, plan: &Plan) -> Result<bool> {
    let mut lines = Vec::new();
    let mut passed = true;
    for &step in &plan.0 {
        eprintln!("== {}", step.name());
        let start = Instant::now();
        let outcome = step.run(root)?;
        passed &= outcome != Outcome::Failed;
        lines.push(line(step, outcome, start.elapsed()));
    }
    for line in lines {
        eprintln!("{line}");
    }
    Ok(passed)
}

fn line(step: Step, outcome: Outcome, took: Duration) -> String {
    let (word, why) = match outcome {
        Outcome::Passed => ("ok", ""),
        Outcome::Failed => ("FAILED", ""),
        Outcome::Missing(why) => ("not run", why),
    };
    format!("{word:<8}{:<8}{:>7.1} s  {why}", step.name(), took.as_secs_f64()).trim_end().to_owned()
}

/// Runs cargo in the workspace, its output going straight through.
fn cargo(root: &Path, args: &[&str]) -> Result<Outcome> {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(program)
        .args(args)
        .current_dir(root)
        .status()
        .with_context(|| format!("cannot run cargo {}", args.join(" ")))?;
    Ok(if status.success() { Outcome::Passed } else { Outcome::Failed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_without_options_is_the_whole_gate_in_order() {
        assert_eq!(Plan::parse(&[]).unwrap(), Plan(ALL.to_vec()));
    }

    #[test]
    fn fast_leaves_out_what_takes_minutes() {
        assert_eq!(Plan::parse(&["--fast"]).unwrap(), Plan(vec![Step::Fmt, Step::Tidy, Step::Clippy]));
    }

    #[test]
    fn steps_can_be_picked_and_left_out_by_name() {
        assert_eq!(Plan::parse(&["--only", "test"]).unwrap(), Plan(vec![Step::Test]));
        assert_eq!(
            Plan::parse(&["--skip", "test", "--skip", "deny"]).unwrap(),
            Plan(vec![Step::Fmt, Step::Tidy, Step::Clippy])
        );
    }

    #[test]
    fn unknown_steps_and_options_are_refused_by_name() {
        assert!(Plan::parse(&["--only", "lint"]).unwrap_err().to_string().contains("\"lint\""));
        assert!(Plan::parse(&["--quick"]).unwrap_err().to_string().contains("\"--quick\""));
    }
}
