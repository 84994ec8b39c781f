//! Damage to a log that was closed or killed: a flipped bit in any record of any kind is refused, a tail
//! torn at any byte is cut, and a full or failing disk stops the log at whatever it was doing.

use std::{path::PathBuf, sync::Arc};

use bytes::Bytes;
use millet_core::world::Disk;
use millet_raft_meta::log::{GroupId, LogEntry, LogError, LogStore, Wal};
use millet_testkit::{Cut, SimDisk, StdThreads};
use parking_lot::Mutex;

use crate::log_crash::{Groups, Step, carry_out, dir, found, payload, script, small, wait};

fn open(disk: &SimDisk) -> Result<Wal, LogError> {
    Wal::open(Arc::new(disk.clone()), &StdThreads, dir(), small())
}

fn segments(disk: &SimDisk) -> Vec<PathBuf> {
    disk.paths().into_iter().filter(|p| p.extension().is_some_and(|e| e == "log")).collect()
}

/// A log with every kind of record, moved entries among them, over several segments.
fn written() -> (SimDisk, Groups) {
    let (disk, mut groups) = (SimDisk::new(), Groups::new());
    let mut steps = script(&[1, 40, 130, 300]);
    // A quiet group whose entries are moved out of old segments, and a busy one.
    steps.extend(
        (0..12).flat_map(|_| [Step::Append(2, vec![300, 300]), Step::Purge(2, 1), Step::Committed(2)]),
    );
    steps.push(Step::Truncate(2, 1));
    let mut wal = open(&disk).unwrap();
    for (n, step) in (1..).zip(&steps) {
        if matches!(step, Step::Restart) {
            drop(wal);
            wal = open(&disk).unwrap();
        }
        carry_out(&wal, &mut groups, step, n).unwrap();
    }
    drop(wal);
    (disk, groups)
}

/// Which byte ranges of a segment are records: kind, from, to, and whether a later batch follows.
fn records(bytes: &[u8]) -> Vec<(u8, usize, usize, u64)> {
    let (mut at, mut all) = (64, Vec::new());
    while at + 40 <= bytes.len() && bytes[at + 36] != 0 {
        let len = u32::from_le_bytes(bytes[at + 8..at + 12].try_into().unwrap()) as usize;
        let batch = u64::from_le_bytes(bytes[at + 16..at + 24].try_into().unwrap());
        all.push((bytes[at + 36], at, at + 40 + len, batch));
        at += (40 + len).next_multiple_of(8);
    }
    all
}

#[test]
fn r20_any_flipped_bit_in_any_kind_of_record_is_refused_or_changes_nothing() {
    let (disk, groups) = written();
    let (mut kinds, mut flips, mut harmless) = (std::collections::BTreeSet::new(), 0, 0);
    let files = segments(&disk);
    let newest = disk.read(files.last().unwrap()).unwrap();
    let last_batch = records(&newest).last().unwrap().3;
    for file in &files {
        let bytes = disk.read(file).unwrap();
        for (kind, from, to, batch) in records(&bytes) {
            kinds.insert(kind);
            for byte in from..to {
                flips += 1;
                let bad = disk.fork();
                bad.flip_bit(file, byte as u64, (byte % 8) as u8);
                match open(&bad) {
                    Err(LogError::Damaged { file: named, .. }) => assert_eq!(named, *file),
                    Err(e) => panic!("byte {byte}, kind {kind}: {e}"),
                    // The closing batch says again what is there already: without it nothing is lost.
                    Ok(wal) => {
                        harmless += 1;
                        assert_eq!(batch, last_batch, "{}, byte {byte}, kind {kind}", file.display());
                        assert_eq!(found(&wal).unwrap(), groups);
                    }
                }
            }
        }
        for byte in 0..48 {
            let bad = disk.fork();
            bad.flip_bit(file, byte, 2);
            assert!(open(&bad).is_err(), "the header's byte {byte}");
        }
    }
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6], "every kind of record was met");
    assert!(flips > 3_000 && harmless < flips / 4, "{flips} flips, {harmless} harmless");
}

/// The closing batch vouches for the one before it. It was left out where the segment had no room for it:
/// damage to the last acknowledged batch then passed for a tear, and a vote or an entry was gone.
#[test]
fn r20_a_log_that_is_closed_with_a_full_segment_still_vouches_for_its_last_batch() {
    for len in (600..960).step_by(8) {
        let disk = SimDisk::new();
        let wal = open(&disk).unwrap();
        wait(|d| wal.save_vote(GroupId(0), payload(1, 18), d)).unwrap();
        wait(|d| wal.append(GroupId(0), vec![LogEntry { index: 1, payload: payload(2, len) }], d)).unwrap();
        drop(wal);
        let file = segments(&disk).last().unwrap().clone();
        let bytes = disk.read(&file).unwrap();
        let (_, from, ..) = *records(&bytes).iter().find(|r| r.0 == 1).unwrap();
        disk.flip_bit(&file, from as u64 + 100, 1);
        let refused = open(&disk).err();
        assert!(matches!(refused, Some(LogError::Damaged { .. })), "an entry of {len} bytes: {refused:?}");
    }
}

/// A kill in the middle of the last write: cut at any byte of its last record, the log is what it was
/// before, and goes on.
#[test]
fn r20_a_tail_torn_at_any_byte_is_cut_and_nothing_before_it_is_lost() {
    let disk = SimDisk::new();
    let wal = open(&disk).unwrap();
    wait(|d| wal.append(GroupId(0), vec![LogEntry { index: 1, payload: payload(1, 90) }], d)).unwrap();
    let before = disk.read(&segments(&disk)[0]).unwrap();
    let entries = (2..=3).map(|index| LogEntry { index, payload: payload(index, 117) }).collect();
    wait(|d| wal.append(GroupId(0), entries, d)).unwrap();
    disk.power_cut(Cut::ProcessOnly); // killed: no closing batch
    drop(wal);
    let file = segments(&disk)[0].clone();
    let whole = disk.read(&file).unwrap();
    let records = records(&whole);
    let (start, end) = (records[1].1, records[2].2);
    assert!(before[start..end].iter().all(|b| *b == 0));
    for at in start..end {
        for zeros in [true, false] {
            let torn = disk.fork();
            let handle = torn.open(&file).unwrap();
            if zeros {
                handle.write_at(at as u64, &vec![0; end - at]).unwrap();
            } else {
                handle.set_len(at as u64).unwrap();
            }
            let wal = open(&torn).unwrap_or_else(|e| panic!("byte {at}, zeros {zeros}: {e}"));
            let read = wal.read(GroupId(0), 0..u64::MAX).unwrap();
            // Trailing zeros of the payload itself are no tear.
            let expected = if whole[at..end].iter().all(|b| *b == 0) && zeros { 3 } else { 1 };
            assert_eq!(read.len(), expected, "byte {at}, zeros {zeros}");
            assert_eq!(read[0].payload, payload(1, 90));
            wait(|d| {
                wal.append(
                    GroupId(0),
                    vec![LogEntry { index: expected as u64 + 1, payload: Bytes::from_static(b"on") }],
                    d,
                )
            })
            .unwrap();
        }
    }
}

/// Every write meets a full disk once, every sync a failing one: the log stops, says which file and why,
/// writes nothing more, and has everything acknowledged when there is space again.
fn stops_at_every(fail: impl Fn(&SimDisk, u64), errno: &str) -> u64 {
    let steps = script(&[1, 40, 130, 300, 511, 900]);
    for k in 0..100_000 {
        let disk = SimDisk::new();
        fail(&disk, k);
        let told = Arc::new(Mutex::new(Vec::new()));
        let options = || {
            let told = Arc::clone(&told);
            let tell = move |path: &std::path::Path, e: &std::io::Error| {
                told.lock().push(format!("{}: {e}", path.display()))
            };
            millet_raft_meta::log::WalOptions { on_fatal: Some(Arc::new(tell)), ..small() }
        };
        let opened = || Wal::open(Arc::new(disk.clone()), &StdThreads, dir(), options());
        let names_it =
            |text: &str| assert!(text.contains("/data/log") && text.contains(errno), "failure {k}: {text}");
        let (mut groups, mut acknowledged, mut failed) = (Groups::new(), Groups::new(), false);
        match opened() {
            Err(e) => {
                names_it(&e.to_string());
                failed = true;
            }
            Ok(mut wal) => {
                for (n, step) in (1..).zip(&steps) {
                    if matches!(step, Step::Restart) {
                        drop(wal);
                        if let Some(why) = told.lock().first() {
                            names_it(why); // the closing batch met it
                            failed = true;
                            break;
                        }
                        match opened() {
                            Ok(again) => wal = again,
                            Err(e) => {
                                names_it(&e.to_string());
                                failed = true;
                                break;
                            }
                        }
                    }
                    if let Err(e) = carry_out(&wal, &mut groups, step, n) {
                        names_it(&e.to_string());
                        failed = true;
                        let changes = disk.change_count();
                        assert!(
                            carry_out(&wal, &mut groups.clone(), &Step::Vote(0), 0).is_err(),
                            "it has stopped for good"
                        );
                        assert_eq!(disk.change_count(), changes, "it does not touch the disk again");
                        assert_eq!(told.lock().len(), 1, "told once");
                        break;
                    }
                    acknowledged = groups.clone();
                }
            }
        }
        assert_eq!(disk.retried_syncs(), 0, "failure {k}: a failed sync is never tried again");
        let cut = if errno.ends_with('5') { Cut::DropUnsynced } else { Cut::ProcessOnly };
        let after = disk.fork();
        after.power_cut(cut);
        let wal = open(&after).unwrap_or_else(|e| panic!("failure {k}: with space it opens: {e}"));
        let found = found(&wal).unwrap();
        assert!(found == acknowledged || found == groups, "failure {k}: {found:?}");
        if !failed {
            return k;
        }
    }
    panic!("the steps never end");
}

#[test]
fn a_full_disk_at_any_write_stops_the_log_and_loses_nothing() {
    let met = stops_at_every(SimDisk::fail_write_after, "os error 28");
    assert!(met > 50, "{met} writes met it");
}

#[test]
fn a_failed_sync_at_any_point_stops_the_log_and_is_never_tried_again() {
    let met = stops_at_every(SimDisk::fail_sync_after, "os error 5");
    assert!(met > 50, "{met} syncs met it");
}
