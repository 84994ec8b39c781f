//! sled on a disk that is full: a file system in memory that has room for one page more each time. sled does
//! its own output, so a child works on it, which may panic, but must end. Needs root.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use millet_raft_meta::engine::{Engine, SledEngine};
use millet_testkit::{skip_unprivileged, until};

use crate::{
    engine_crash::{CACHE, apply, reached, rows, rows_after},
    real::RealDisk,
};

const CHANGES: u64 = 40;
const LARGEST: usize = 20 << 10;
const PAGE: u64 = 4096;
/// Room for everything, in pages.
const ENOUGH: u64 = 16 << 10;

fn open(dir: &Path) -> std::io::Result<SledEngine> {
    SledEngine::open(Arc::new(RealDisk), dir, CACHE)
}

/// Not a test of its own: what the test below starts on each disk.
#[test]
fn child_that_fills_a_disk() {
    let Ok(dir) = std::env::var("MILLET_STORAGE_FULL") else { return };
    let work = || -> std::io::Result<()> {
        for last in [CHANGES / 2, CHANGES] {
            let engine = open(Path::new(&dir))?;
            // From the beginning where what was closed could not be opened for want of room.
            for n in reached(&engine)? + 1..=last {
                apply(&engine, n, LARGEST)?;
                if n % 4 == 0 {
                    engine.guard()?;
                }
            }
            engine.close()?;
            println!("\nclosed {last}");
        }
        Ok(())
    };
    match work() {
        Ok(()) => println!("\ndone"),
        // sled would hang or panic on its way out.
        Err(e) => println!("\nfailed {e}"),
    }
    std::process::exit(0);
}

/// A file system in memory.
struct Small(tempfile::TempDir);

impl Small {
    fn path(&self) -> PathBuf {
        self.0.path().join("mount")
    }

    fn mount(&self, how: &str, pages: u64) -> bool {
        let options = format!("{how}size={}", pages * PAGE);
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "millet-full", self.path().to_str().unwrap()])
            .output();
        mounted.is_ok_and(|out| out.status.success())
    }

    fn resize(&self, pages: u64) {
        assert!(self.mount("remount,", pages), "it is resized");
    }

    /// `None`, and said why: this machine does not let us.
    fn make(test: &str) -> Option<Self> {
        let made = Self(tempfile::tempdir().unwrap());
        std::fs::create_dir(made.path()).unwrap();
        if !rustix::process::geteuid().is_root() || !made.mount("", ENOUGH) {
            skip_unprivileged(test, "root, and the right to mount a file system in memory");
            return None;
        }
        Some(made)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).output();
    }
}

/// What a child said: the change at which it was closed last, and why it failed (`None`: it did not; empty: it
/// panicked).
fn child(dir: &Path) -> (u64, Option<String>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "full::child_that_fills_a_disk", "--nocapture"])
        .env("MILLET_STORAGE_FULL", dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    let reader = std::thread::spawn(move || out.lines().map_while(Result::ok).collect::<Vec<_>>());
    let ended = || child.try_wait().unwrap().is_some();
    until("a child on a full disk ends", ended, Duration::from_secs(60));
    let lines = reader.join().unwrap();
    let after = |word: &str| lines.iter().rev().find_map(|line| line.strip_prefix(word));
    let closed = after("closed ").map_or(0, |n| n.parse().unwrap());
    match after("done") {
        Some(_) => (closed, None),
        None => (closed, Some(after("failed ").unwrap_or_default().to_owned())),
    }
}

/// It is an error that names folder and errno, and with space again the engine has what was closed, or
/// nothing, and goes on.
#[test]
fn r19_sled_on_a_full_disk_at_any_page_says_so_and_is_whole_afterwards() {
    let Some(disk) = Small::make("r19_sled_on_a_full_disk_at_any_page_says_so_and_is_whole_afterwards")
    else {
        return;
    };
    let (mut said, mut panicked, mut kept) = (0, 0, 0);
    for pages in 1..ENOUGH {
        let dir = disk.path().join("state");
        disk.resize(pages);
        let (closed, failed) = child(&dir);
        disk.resize(ENOUGH);
        let engine = open(&dir).unwrap_or_else(|e| panic!("{pages} pages: with space again: {e}"));
        let at = reached(&engine).unwrap();
        assert!(at == closed || at == 0 && failed.is_some(), "{pages} pages: closed at {closed}, found {at}");
        assert!(rows(&engine).unwrap() == rows_after(at, LARGEST), "{pages} pages: whole at {at}");
        apply(&engine, at + 1, LARGEST).unwrap();
        engine.close().unwrap();
        drop(engine);
        std::fs::remove_dir_all(&dir).unwrap();
        kept += u64::from(at > 0);
        match failed {
            None => {
                println!(
                    "{pages} pages are enough; {said} said so, {panicked} panicked, {kept} kept what was closed"
                );
                assert!(said > 50, "{said} disks were full");
                return;
            }
            Some(why) if why.is_empty() => panicked += 1,
            Some(why) => {
                let errno = why.contains("os error 28") || why.contains("code: 28");
                let named = errno && why.contains("mount/state");
                assert!(named, "{pages} pages: it does not say what is full: {why}");
                said += 1;
            }
        }
    }
    panic!("it is never enough");
}
