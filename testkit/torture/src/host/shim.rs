//! The library that fails a node's system calls: compiled when a run starts, preloaded into every member,
//! switched per node by a page that both map.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::{Need, find, text, tool};

const SOURCE: &str = include_str!("shim.c");

/// What fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Call {
    /// fsync, fdatasync, syncfs: EIO.
    Sync = 0,
    /// Writing to a file, allocating: ENOSPC.
    Write = 1,
}

/// Compiles the library; the error says what is missing.
pub fn build(dir: &Path) -> Need<PathBuf> {
    find("cc")?;
    let (source, library) = (dir.join("shim.c"), dir.join("shim.so"));
    let compile = || -> Result<()> {
        std::fs::write(&source, SOURCE).context("writing the shim's source")?;
        tool("cc", &["-shared", "-fPIC", "-O1", "-o", text(&library)?, text(&source)?, "-ldl"])
    };
    compile().map(|()| library).map_err(|e| format!("a cc that compiles a library ({e:#})"))
}

/// One node's switches.
pub struct Switch(File, PathBuf);

impl Switch {
    /// Makes the page, everything off.
    pub fn new(path: PathBuf) -> Result<Self> {
        let file = File::options().create(true).truncate(true).read(true).write(true).open(&path)?;
        file.set_len(4096)?;
        Ok(Self(file, path))
    }

    /// Where it is: for `MILLET_SHIM`.
    pub fn path(&self) -> &Path {
        &self.1
    }

    /// Makes calls fail, or work again.
    pub fn set(&self, call: Call, fails: bool) -> Result<()> {
        self.0.write_all_at(&[u8::from(fails)], call as u64).context("switching the shim")
    }

    /// How many calls have failed so far.
    pub fn failed(&self, call: Call) -> Result<u32> {
        let mut count = [0; 4];
        self.0.read_exact_at(&mut count, 4 + 4 * call as u64).context("reading the shim's counts")?;
        Ok(u32::from_ne_bytes(count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_the_shim_is_told_that_its_disk_is_full_and_its_sync_failed() {
        let dir = tempfile::tempdir().expect("a folder");
        let Ok(library) = build(dir.path()) else {
            return millet_testkit::skip("the shim fails writes and syncs", "cc");
        };
        let switch = Switch::new(dir.path().join("page")).expect("a page");
        let put = |name: &str| {
            std::process::Command::new("dd")
                .args(["if=/dev/zero", "bs=1", "count=1", "conv=fsync", "status=none"])
                .arg(format!("of={}", dir.path().join(name).display()))
                .env("LD_PRELOAD", &library)
                .env("MILLET_SHIM", switch.path())
                .env("LC_ALL", "C")
                .output()
                .expect("dd runs")
        };
        assert!(put("a").status.success(), "off: nothing fails");
        for (call, says) in [(Call::Write, "No space left"), (Call::Sync, "Input/output error")] {
            switch.set(call, true).expect("switched");
            let out = put("b");
            assert!(!out.status.success() && String::from_utf8_lossy(&out.stderr).contains(says), "{out:?}");
            assert!(switch.failed(call).expect("counted") > 0);
            switch.set(call, false).expect("switched");
        }
    }
}
