//! `cargo xtask torture`: builds the torture binary in the profile that tests share, and runs its driver
//! with the options given. The driver says which there are: `cargo xtask torture --help`.

use std::{path::Path, process::Command};

use anyhow::{Context, Result, ensure};

/// Runs; true if nothing was violated and every kind of fault took effect.
pub fn run(root: &Path, options: &[&str]) -> Result<bool> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args(["build", "--quiet", "--bin", "millet-torture"])
        .args(crate::AS_TESTS)
        .current_dir(root)
        .status()
        .context("cannot run cargo build")?;
    ensure!(built.success(), "millet-torture does not build");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), Into::into);
    let status = Command::new(target.join("debug").join("millet-torture"))
        .arg("run")
        .args(options)
        .current_dir(root)
        .status()
        .context("cannot run millet-torture")?;
    Ok(status.success())
}
