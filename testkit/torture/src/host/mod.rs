//! The machine that the torture runs on: which tools and privileges it has, and what is made of them.
//! What is missing is said by name; nothing is passed over in silence.
//!
//! - `room`: a mount and network namespace of the run's own, as root.
//! - `netns`: a network namespace per node, and packet filters in it.
//! - `image`: an ext4 image per member, which can be filled and whose power can be cut.
//! - `shim`: fails system calls of a node.
//! - `clocks`: wrong clocks.

pub mod clocks;
pub mod image;
pub mod netns;
pub mod room;
pub mod shim;

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

/// Something a fault needs: there, or what is missing.
pub type Need<T> = Result<T, String>;

/// Runs a tool to its end; an error has its words.
pub fn tool(name: &str, args: &[&str]) -> Result<()> {
    let out = Command::new(name)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("running {name}"))?;
    let said = String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.success(), "{name} {}: {} ({})", args.join(" "), said.trim(), out.status);
    Ok(())
}

/// Looks for a program where the shell would, and where an administrator's are.
pub fn find(name: &str) -> Need<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
        .ok_or_else(|| name.to_owned())
}

/// Whether this process may do everything.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A path as an argument.
pub fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not text; choose another folder", path.display()))
}
