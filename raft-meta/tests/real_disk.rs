//! The real disk keeps the promises of `Disk`, and the simulated one behaves like it where both can be seen.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod real;

use std::{
    io::{self, BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
};

use millet_core::world::Disk;
use millet_testkit::SimDisk;
use real::{RealDisk, os};

fn keeps_its_promises(disk: &dyn Disk, root: &Path) {
    let dir = root.join("a/b");
    disk.create_dir(&dir).unwrap();
    disk.create_dir(&dir).unwrap();
    assert_eq!(disk.list(&dir).unwrap(), [""; 0]);
    assert_eq!(disk.list(&root.join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    let (one, two) = (dir.join("one"), dir.join("two"));
    assert_eq!(disk.open(&one).err().map(|e| e.kind()), Some(io::ErrorKind::NotFound));
    let file = disk.create(&one, 600_000).unwrap();
    assert_eq!(disk.create(&one, 0).err().map(|e| e.kind()), Some(io::ErrorKind::AlreadyExists));
    assert_eq!(file.len().unwrap(), 600_000);
    assert!(disk.read(&one).unwrap().iter().all(|b| *b == 0), "it reads as zeros");
    file.write_at(599_998, b"end and more").unwrap();
    assert_eq!(file.len().unwrap(), 600_010, "a write beyond the end extends");
    let mut part = [0; 3];
    file.read_at(599_998, &mut part).unwrap();
    assert_eq!(&part, b"end");
    assert_eq!(file.read_at(600_009, &mut part).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    file.set_len(4).unwrap();
    file.sync_data().unwrap();
    assert_eq!(disk.read(&one).unwrap(), [0; 4]);
    disk.create(&two, 0).unwrap().write_at(0, b"two").unwrap();
    assert_eq!(disk.list(&dir).unwrap(), ["one", "two"]);
    disk.rename(&two, &one).unwrap();
    disk.sync_dir(&dir).unwrap();
    disk.sync_file_system(&dir).unwrap();
    assert_eq!(disk.list(&dir).unwrap(), ["one"], "a rename replaces");
    assert_eq!(disk.read(&one).unwrap(), b"two");
    disk.remove(&one).unwrap();
    assert_eq!(disk.remove(&one).unwrap_err().kind(), io::ErrorKind::NotFound);
    let held = disk.lock(&dir.join("lock")).unwrap();
    let refused = disk.lock(&dir.join("lock")).err().unwrap();
    assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
    assert!(refused.to_string().contains(&format!("process {}", std::process::id())), "{refused}");
    drop(held);
    drop(disk.lock(&dir.join("lock")).unwrap());
}

#[test]
fn the_real_disk_keeps_its_promises() {
    let temp = tempfile::tempdir().unwrap();
    keeps_its_promises(&RealDisk, temp.path());
}

#[test]
fn the_simulated_disk_behaves_like_it() {
    keeps_its_promises(&SimDisk::new(), Path::new("/root"));
}

/// A lock ends with its process, however that ends.
#[test]
fn a_lock_names_its_process_and_ends_with_it() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("lock");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_that_holds_a_lock_until_it_is_killed", "--nocapture"])
        .env("MILLET_TEST_LOCK", &path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|l| l.ends_with("locked")), "the child takes the lock");
    let refused = RealDisk.lock(&path).err().unwrap().to_string();
    assert!(refused.contains(&format!("locked by process {}", child.id())), "{refused}");
    child.kill().unwrap();
    child.wait().unwrap();
    RealDisk.lock(&path).unwrap();
}

/// Not a test of its own: what [`a_lock_names_its_process_and_ends_with_it`] starts and kills.
#[test]
fn child_that_holds_a_lock_until_it_is_killed() {
    let Some(path) = std::env::var_os("MILLET_TEST_LOCK") else { return };
    let _lock = RealDisk.lock(Path::new(&path)).unwrap();
    println!("locked");
    io::stdout().flush().unwrap();
    // Ends with the parent too: nobody writes, so this returns when the parent's end closes.
    io::stdin().read_line(&mut String::new()).unwrap();
}

#[test]
fn clocks_go_forward() {
    let (mono, boot) = (os::monotonic_ns(), os::boottime_ns());
    assert!(os::boottime_ns() >= boot && os::monotonic_ns() >= mono);
    assert!(boot >= mono, "the boot clock counts suspend too");
    assert!(os::wall_ns() > 1_700_000_000 * 1_000_000_000);
}
