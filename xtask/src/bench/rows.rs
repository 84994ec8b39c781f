//! The rows, as the benchmarks' program describes them.

use std::{path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, de::DeserializeOwned};

/// One line of the table.
#[derive(Deserialize)]
pub struct Row {
    pub name: String,
    pub work: String,
    /// The first is ours.
    pub sides: Vec<Side>,
    pub goals: Vec<Goal>,
    pub peers: Vec<Peer>,
    pub missing: Vec<String>,
}

#[derive(Deserialize)]
pub struct Side {
    pub name: String,
    /// A program that it starts.
    needs: Option<String>,
}

impl Side {
    /// The program that it starts and that is not installed.
    pub fn lacks(&self) -> Option<&str> {
        self.needs.as_deref().filter(|needed| !is_installed(needed))
    }
}

/// Whether a program can be started by its name.
pub fn is_installed(program: &str) -> bool {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&folders).any(|folder| folder.join(program).is_file())
}

/// What is wanted of a figure of ours; with `of`, times that side's or peer's.
#[derive(Clone, Deserialize)]
pub struct Goal {
    pub figure: String,
    /// The side whose figure it is; none: the first.
    pub by: Option<String>,
    pub of: Option<String>,
    pub at_least: Option<f64>,
    pub at_most: Option<f64>,
}

/// A peer's row in their own harness, and how its figure becomes one of ours.
#[derive(Clone, Deserialize)]
pub struct Peer {
    pub name: String,
    pub row: String,
    pub figure: String,
    pub theirs: String,
    pub scale: f64,
}

/// Asks the program for what it has: `list` rows, `sweeps`, `counts`.
pub fn read<T: DeserializeOwned>(binary: &Path, what: &str) -> Result<Vec<T>> {
    let listed = Command::new(binary).arg(what).output().context("cannot run the benchmarks")?;
    ensure!(listed.status.success(), "{} {what} failed", binary.display());
    serde_json::from_slice(&listed.stdout).with_context(|| format!("reading what {what} says"))
}
