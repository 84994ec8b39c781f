//! `cargo xtask abuse`: the wire abuse program (`server/tests/abuse`) with its table shown, or one row.

use std::{path::Path, process::Command};

use anyhow::{Context, Result};

/// Runs every row, or `only` one; true if nothing failed.
pub fn run(root: &Path, only: Option<&str>) -> Result<bool> {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut cargo = Command::new(program);
    cargo.args(["test", "-p", "millet", "--test", "abuse", "--"]).current_dir(root);
    if let Some(row) = only {
        cargo.args(["--only", row]);
    }
    Ok(cargo.status().context("cannot run cargo test -p millet --test abuse")?.success())
}
