//! Project tasks, run as `cargo xtask <task>`: `check` is the gate that every change passes, `tidy` the
//! part of it that reads the tree, `torture` runs real processes under faults, `bench` measures, `fuzz` looks
//! for bytes that a decoder does not bear. Nothing here is linked into what ships.

mod abuse;
mod bench;
mod check;
mod fuzz;
mod sim;
mod tidy;
mod torture;

use std::{path::PathBuf, process::ExitCode};

const USAGE: &str = "usage: cargo xtask check [--fast] [--skip STEP]... [--only STEP]...
       cargo xtask tidy
       cargo xtask torture [--seconds N] [--only FAULT] [--seed S] [--json] [--keep]
       cargo xtask abuse [--only ROW]
steps of check, in order: fmt, tidy, clippy, test, deny
  --fast   fmt, tidy and clippy only";

/// Makes cargo build with the features that `cargo test --workspace` uses, so that a program and the tests
/// share one build: the whole workspace is looked at, and its dev-dependencies count because a test is named.
const AS_TESTS: [&str; 3] = ["--workspace", "--test", "same_seed"];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let passed = match args.as_slice() {
        ["check", options @ ..] => check::Plan::parse(options).and_then(|plan| check::run(&root(), &plan)),
        ["sim", options @ ..] => sim::run(&root(), options),
        ["tidy"] => tidy::report(&root()),
        ["torture", options @ ..] => torture::run(&root(), options),
        ["bench", options @ ..] => bench::run(&root(), options),
        ["fuzz", options @ ..] => fuzz::run(&root(), options),
        ["abuse"] => abuse::run(&root(), None),
        ["abuse", "--only", row] => abuse::run(&root(), Some(row)),
        _ => Err(anyhow::anyhow!("{USAGE}\n{}\n{}\n{}", fuzz::USAGE, sim::USAGE, bench::USAGE)),
    };
    match passed {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// The workspace: the parent of this package's folder.
fn root() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.parent().map_or(here.clone(), PathBuf::from)
}
