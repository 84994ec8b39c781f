//! As root, the whole run lives in a mount and a network namespace of its own: whatever it mounts, and
//! every address and filter it makes, is gone when its last process is, however it ends.

use std::{
    os::unix::process::CommandExt,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use super::{Need, find, is_root, tool};

/// What a fault may lack without anybody being to blame.
pub const PRIVILEGES: [&str; 3] = [ROOT, NAMESPACES, WANTED];
const ROOT: &str = "root";
const NAMESPACES: &str = "the right to make namespaces";
const WANTED: &str = "privileges, and --unprivileged was given";

/// Says that we are inside; its value counts for nothing.
const INSIDE: &str = "MILLET_TORTURE_ROOM";

/// Starts this program again inside, where that can be done; returns inside, or where it cannot.
/// `Ok`: inside.
pub fn enter(wanted: bool) -> Result<Need<()>> {
    if std::env::var_os(INSIDE).is_some() {
        furnish()?;
        return Ok(Ok(()));
    }
    if !wanted {
        return Ok(Err(WANTED.into()));
    }
    if !is_root() {
        return Ok(Err(ROOT.into()));
    }
    let apart = ["--net", "--mount", "--propagation", "private"];
    for name in ["unshare", "nsenter", "ip"] {
        if find(name).is_err() {
            return Ok(Err(name.into()));
        }
    }
    let probe = Command::new("unshare").args(apart).arg("true").stderr(Stdio::null()).status();
    if !probe.is_ok_and(|s| s.success()) {
        return Ok(Err(NAMESPACES.into()));
    }
    let own = std::env::current_exe().context("finding this program's own file")?;
    let error = Command::new("unshare")
        .args(apart)
        .arg(own)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "1")
        .exec();
    bail!("cannot start unshare: {error}")
}

/// Loopback, and a folder of our own for the names of network namespaces. What others had mounted from
/// images is let go: our copy of their mount would keep it alive after they are done with it.
fn furnish() -> Result<()> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").context("reading what is mounted")?;
    for line in mounts.lines().filter(|l| l.starts_with("/dev/loop")) {
        if let Some(at) = line.split_whitespace().nth(1) {
            // It may be gone by now.
            let _ = tool("umount", &["-l", at]);
        }
    }
    tool("ip", &["link", "set", "lo", "up"])?;
    std::fs::create_dir_all(super::netns::NAMES).context("making the folder of network namespaces")?;
    tool("mount", &["-t", "tmpfs", "-o", "size=1m", "millet", super::netns::NAMES])
}
