//! What a power cut and a failing disk leave.

use super::*;

fn disk_with(path: &Path) -> (SimDisk, Box<dyn DiskFile>) {
    let disk = SimDisk::new();
    disk.create_dir(Path::new("/d")).unwrap();
    let file = disk.create(path, 8).unwrap();
    (disk, file)
}

#[test]
fn what_was_synced_survives_a_cut_and_the_rest_does_not() {
    let path = Path::new("/d/a");
    let (disk, file) = disk_with(path);
    file.write_at(0, b"one").unwrap();
    file.sync_data().unwrap();
    disk.sync_dir(Path::new("/d")).unwrap();
    file.write_at(0, b"two").unwrap();
    disk.power_cut(Cut::DropUnsynced);
    assert_eq!(disk.read(path).unwrap(), b"one\0\0\0\0\0");
    assert!(file.sync_data().is_err(), "a handle of before the cut is dead");
}

#[test]
fn a_file_whose_folder_was_not_synced_is_gone_after_a_cut() {
    let (disk, file) = disk_with(Path::new("/d/a"));
    file.sync_data().unwrap();
    disk.power_cut(Cut::DropUnsynced);
    assert!(disk.paths().is_empty());
}

#[test]
fn a_rename_survives_a_cut_only_after_its_folder_was_synced() {
    let (disk, file) = disk_with(Path::new("/d/a"));
    file.sync_data().unwrap();
    disk.sync_dir(Path::new("/d")).unwrap();
    disk.rename(Path::new("/d/a"), Path::new("/d/b")).unwrap();
    assert_eq!(disk.paths(), [Path::new("/d/b")]);
    disk.power_cut(Cut::DropUnsynced);
    assert_eq!(disk.paths(), [Path::new("/d/a")]);
}

#[test]
fn the_same_seed_keeps_the_same_subset_and_seeds_differ() {
    let outcome = |seed| {
        let path = Path::new("/d/a");
        let (disk, file) = disk_with(path);
        file.sync_data().unwrap();
        disk.sync_dir(Path::new("/d")).unwrap();
        for n in 0..32u64 {
            file.write_at(n * 600, &[1; 600]).unwrap();
        }
        disk.power_cut(Cut::KeepSome(seed));
        disk.read(path).unwrap()
    };
    assert_eq!(outcome(1), outcome(1));
    assert!((2..20).any(|seed| outcome(seed) != outcome(1)));
}

#[test]
fn a_failed_sync_loses_its_writes_even_if_a_later_sync_would_pass() {
    let path = Path::new("/d/a");
    let (disk, file) = disk_with(path);
    file.sync_data().unwrap();
    disk.sync_dir(Path::new("/d")).unwrap();
    file.write_at(0, b"x").unwrap();
    disk.fail_sync_after(0);
    assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(5));
    disk.power_cut(Cut::ProcessOnly);
    disk.sync_file_system(Path::new("/d")).unwrap();
    disk.power_cut(Cut::DropUnsynced);
    assert_eq!(disk.read(path).unwrap()[0], 0);
}

#[test]
fn a_full_disk_fails_writes_and_a_lock_is_exclusive_until_dropped() {
    let (disk, file) = disk_with(Path::new("/d/a"));
    disk.fail_write_after(1);
    file.write_at(0, b"fits").unwrap();
    assert_eq!(file.write_at(0, b"full").unwrap_err().raw_os_error(), Some(28));
    assert_eq!(disk.read(Path::new("/d/a")).unwrap(), b"futs\0\0\0\0", "half of it was written");
    let held = disk.lock(Path::new("/d/lock")).unwrap();
    assert_eq!(disk.lock(Path::new("/d/lock")).err().map(|e| e.kind()), Some(io::ErrorKind::WouldBlock));
    drop(held);
    assert!(disk.lock(Path::new("/d/lock")).is_ok());
}

#[test]
fn a_fork_has_the_same_unsynced_writes_and_is_not_changed_by_the_first() {
    let path = Path::new("/d/a");
    let (disk, file) = disk_with(path);
    file.sync_data().unwrap();
    disk.sync_dir(Path::new("/d")).unwrap();
    file.write_at(0, b"one").unwrap();
    let fork = disk.fork();
    file.write_at(0, b"two").unwrap();
    file.sync_data().unwrap();
    assert_eq!(&fork.read(path).unwrap()[..3], b"one");
    fork.power_cut(Cut::DropUnsynced);
    assert_eq!(fork.read(path).unwrap()[0], 0, "it was not synced when the fork was made");
    assert_eq!(&disk.read(path).unwrap()[..3], b"two");
}

#[test]
fn a_sync_that_is_tried_again_is_counted() {
    let (disk, file) = disk_with(Path::new("/d/a"));
    disk.fail_sync_after(0);
    file.sync_data().unwrap_err();
    assert_eq!(disk.retried_syncs(), 0);
    file.sync_data().unwrap_err();
    assert_eq!(disk.retried_syncs(), 1);
}
