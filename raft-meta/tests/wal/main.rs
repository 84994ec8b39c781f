//! The Raft log on a disk that forgets and on the real one: what it keeps, what it refuses (R20).

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod model;
#[path = "../real/mod.rs"]
mod real;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, sync_channel},
    },
};

use bytes::Bytes;
use millet_core::world::Disk;
use millet_raft_meta::log::{Done, GroupId, LogEntry, LogError, LogStore, Wal, WalOptions};
use millet_testkit::{Cut, SimDisk, StdThreads};
use parking_lot::Mutex;

const META: GroupId = GroupId(0);
const STATE: GroupId = GroupId(1);

fn dir() -> &'static Path {
    Path::new("/data/log")
}

/// Small, so that a few entries cross segments.
fn small() -> WalOptions {
    WalOptions {
        first_segment_bytes: 2048,
        segment_bytes: 4096,
        cache_bytes: 1024,
        prepare_ahead: false,
        ..WalOptions::new(0xFEED)
    }
}

fn open(disk: &SimDisk) -> Wal {
    open_in(Arc::new(disk.clone()), dir(), small())
}

fn open_in(disk: Arc<dyn Disk>, dir: &Path, options: WalOptions) -> Wal {
    Wal::open(disk, &StdThreads, dir, options).expect("the log opens")
}

/// A `Done` whose outcome can be waited for.
fn waited() -> (Done, Receiver<io::Result<()>>) {
    let (tell, told) = sync_channel(1);
    (Box::new(move |r| tell.send(r).expect("the test waits")), told)
}

fn wait(op: impl FnOnce(Done)) -> io::Result<()> {
    let (done, told) = waited();
    op(done);
    told.recv().expect("done is always called")
}

fn entry(index: u64, payload: &str) -> LogEntry {
    LogEntry { index, payload: Bytes::copy_from_slice(payload.as_bytes()) }
}

fn append(wal: &Wal, group: GroupId, range: std::ops::RangeInclusive<u64>) -> io::Result<()> {
    let entries = range
        .map(|i| entry(i, &format!("entry {i} of group {} with some padding to fill segments", group.0)))
        .collect();
    wait(|done| wal.append(group, entries, done))
}

fn indexes(wal: &Wal, group: GroupId) -> Vec<u64> {
    wal.read(group, 0..u64::MAX).expect("readable").into_iter().map(|e| e.index).collect()
}

fn segments(disk: &SimDisk) -> Vec<PathBuf> {
    disk.paths().into_iter().filter(|p| p.extension().is_some_and(|e| e == "log")).collect()
}

/// The same script on the simulated and on the real disk.
fn keeps_what_it_acknowledged(disk: Arc<dyn Disk>, dir: &Path, options: impl Fn() -> WalOptions) {
    let wal = open_in(disk.clone(), dir, options());
    append(&wal, META, 1..=40).unwrap();
    append(&wal, STATE, 7..=9).unwrap();
    wait(|d| wal.save_vote(META, Bytes::from_static(b"vote 3"), d)).unwrap();
    wait(|d| wal.truncate_after(META, 30, d)).unwrap();
    wait(|d| wal.append(META, vec![entry(31, "another 31")], d)).unwrap();
    wait(|d| wal.purge(META, 10, Bytes::from_static(b"mark 10"), d)).unwrap();
    wait(|d| wal.save_committed(STATE, Bytes::from_static(b"committed 8"), d)).unwrap();
    let check = |wal: &Wal| {
        assert_eq!(indexes(wal, META), (11..=31).collect::<Vec<_>>());
        assert_eq!(indexes(wal, STATE), [7, 8, 9]);
        assert_eq!(wal.read(META, 12..14).unwrap().len(), 2, "a part of the range");
        assert_eq!(wal.read(META, 31..32).unwrap(), [entry(31, "another 31")]);
        let state = wal.state(META);
        assert_eq!(state.purged, Some((10, Bytes::from_static(b"mark 10"))));
        assert_eq!(state.last, Some(entry(31, "another 31")));
        assert_eq!(state.vote.as_deref(), Some(&b"vote 3"[..]));
        assert_eq!(wal.state(STATE).committed.as_deref(), Some(&b"committed 8"[..]));
        assert_eq!(wal.state(GroupId(9)), Default::default(), "a group never written");
    };
    check(&wal);
    drop(wal);
    for _ in 0..5 {
        let wal = open_in(disk.clone(), dir, options());
        assert!(wal.torn_tail().is_none(), "a closed log has no torn tail");
        check(&wal);
    }
    let wal = open_in(disk, dir, options());
    wait(|d| wal.truncate_after(STATE, 0, d)).unwrap();
    assert_eq!(indexes(&wal, STATE), [0; 0], "0 removes all");
    append(&wal, STATE, 100..=101).unwrap();
    assert_eq!(indexes(&wal, STATE), [100, 101], "an empty log may start anywhere");
}

#[test]
fn a_log_keeps_what_it_acknowledged() {
    keeps_what_it_acknowledged(Arc::new(SimDisk::new()), dir(), small);
}

#[test]
fn a_log_keeps_what_it_acknowledged_on_the_real_disk() {
    let temp = tempfile::tempdir().unwrap();
    keeps_what_it_acknowledged(Arc::new(real::RealDisk), &temp.path().join("a/log"), || WalOptions {
        prepare_ahead: true,
        ..small()
    });
}

#[test]
fn an_append_that_leaves_a_gap_is_refused_and_changes_nothing() {
    let wal = open(&SimDisk::new());
    append(&wal, META, 1..=3).unwrap();
    assert_eq!(append(&wal, META, 5..=5).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    append(&wal, META, 4..=4).unwrap();
    wait(|d| wal.purge(META, 9, Bytes::new(), d)).unwrap();
    assert_eq!(append(&wal, META, 9..=9).unwrap_err().kind(), io::ErrorKind::InvalidInput, "below the mark");
    append(&wal, META, 10..=10).unwrap();
    assert_eq!(indexes(&wal, META), [10]);
}

#[test]
fn a_purge_frees_segments_and_votes_survive_them() {
    let disk = SimDisk::new();
    let wal = open(&disk);
    wait(|d| wal.save_vote(STATE, Bytes::from_static(b"vote"), d)).unwrap();
    for i in 0..100u64 {
        append(&wal, META, i * 10 + 1..=i * 10 + 10).unwrap();
        wait(|d| wal.purge(META, i * 10, Bytes::from_static(b"m"), d)).unwrap();
    }
    assert!(segments(&disk).len() <= 3, "{:?}", segments(&disk));
    drop(wal);
    disk.power_cut(Cut::DropUnsynced);
    let wal = open(&disk);
    assert_eq!(wal.state(STATE).vote.as_deref(), Some(&b"vote"[..]));
    assert_eq!(wal.state(META).purged, Some((990, Bytes::from_static(b"m"))));
    assert_eq!(indexes(&wal, META), (991..=1000).collect::<Vec<_>>());
}

/// A group that is seldom written would otherwise keep every segment since its last purge.
#[test]
fn a_quiet_group_does_not_keep_the_segments_of_a_busy_one() {
    let disk = SimDisk::new();
    let wal = open(&disk);
    append(&wal, STATE, 1..=5).unwrap();
    for i in 0..200u64 {
        append(&wal, META, i * 10 + 1..=i * 10 + 10).unwrap();
        wait(|d| wal.purge(META, i * 10, Bytes::from_static(b"m"), d)).unwrap();
    }
    assert!(segments(&disk).len() <= 7, "{:?}", segments(&disk));
    drop(wal);
    disk.power_cut(Cut::DropUnsynced);
    let wal = open(&disk);
    assert_eq!(indexes(&wal, STATE), [1, 2, 3, 4, 5]);
    assert_eq!(
        wal.state(STATE).last.map(|e| e.payload),
        Some(Bytes::from_static(b"entry 5 of group 1 with some padding to fill segments"))
    );
}

/// A lagging follower is sent old entries while the writer moves them out of their segment and removes it:
/// each read finds them all, and none takes the move for damage.
#[test]
fn entries_are_read_whole_while_their_segment_is_moved_away() {
    let disk = SimDisk::new();
    let wal = Arc::new(open_in(Arc::new(disk.clone()), dir(), WalOptions { cache_bytes: 0, ..small() }));
    append(&wal, META, 1..=10).unwrap();
    let before = segments(&disk)[0].clone();
    let stop = Arc::new(AtomicBool::new(false));
    let (log, over) = (Arc::clone(&wal), Arc::clone(&stop));
    let reader = std::thread::spawn(move || {
        while !over.load(Ordering::Relaxed) {
            assert_eq!(indexes(&log, META), (1..=10).collect::<Vec<_>>());
            assert_eq!(log.state(META).last.map(|e| e.index), Some(10));
        }
    });
    for n in 0..150 {
        append(&wal, STATE, n * 20 + 1..=n * 20 + 20).unwrap();
        wait(|d| wal.purge(STATE, n * 20 + 10, Bytes::new(), d)).unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    reader.join().expect("every read found every entry");
    assert!(!segments(&disk).contains(&before), "the segment was moved away meanwhile");
}

#[test]
fn restarts_alone_leave_no_files_behind() {
    let disk = SimDisk::new();
    append(&open(&disk), META, 1..=3).unwrap();
    for _ in 0..20 {
        let wal = open(&disk);
        wait(|d| wal.save_vote(META, Bytes::from_static(b"v"), d)).unwrap();
        disk.power_cut(Cut::ProcessOnly);
    }
    assert!(segments(&disk).len() <= 2, "{:?}", segments(&disk));
}

#[test]
fn r20_one_sync_commits_what_all_groups_have_queued() {
    let disk = SimDisk::new();
    let wal = Arc::new(open_in(
        Arc::new(disk.clone()),
        dir(),
        WalOptions { prepare_ahead: false, ..WalOptions::new(1) },
    ));
    let before = disk.sync_count();
    // The first `Done` holds the writer until everything else is queued.
    let (enter, entered) = sync_channel::<()>(0);
    let (go, gate) = sync_channel::<()>(0);
    let hold = move |r: io::Result<()>| {
        r.unwrap();
        enter.send(()).unwrap();
        gate.recv().unwrap();
    };
    wal.append(META, vec![entry(1, "first")], Box::new(hold));
    entered.recv().unwrap();
    let (tell, told) = sync_channel(200);
    for i in 2..=100 {
        for group in [META, STATE] {
            let tell = tell.clone();
            wal.append(
                group,
                vec![entry(i, "x")],
                Box::new(move |r| tell.send((group, i, r.is_ok())).unwrap()),
            );
        }
    }
    go.send(()).unwrap();
    let outcomes: Vec<_> = told.iter().take(198).collect();
    let order: Vec<_> = (2..=100).flat_map(|i| [(META, i, true), (STATE, i, true)]).collect();
    assert_eq!(outcomes, order, "in the order of the calls");
    assert_eq!(disk.sync_count() - before, 2, "one sync for the first, one for the rest");
}

#[test]
fn r20_a_flipped_bit_mid_log_is_refused_with_file_offset_and_remedy() {
    let disk = SimDisk::new();
    let wal = open(&disk);
    append(&wal, META, 1..=2).unwrap();
    append(&wal, META, 3..=4).unwrap();
    drop(wal);
    let file = segments(&disk)[0].clone();
    disk.flip_bit(&file, 64 + 45, 3);
    let Err(error) = Wal::open(Arc::new(disk), &StdThreads, dir(), small()) else { panic!("it must refuse") };
    let text = error.to_string();
    assert!(matches!(error, LogError::Damaged { offset: 64, .. }), "{text}");
    assert!(
        text.contains("wal-0000000000000001.log")
            && text.contains("byte 64")
            && text.contains("milletctl member replace"),
        "{text}"
    );
}

/// Any flip in what was acknowledged refuses. (Payloads of 8 n bytes leave no padding, which nothing
/// depends on.)
#[test]
fn r20_any_flipped_bit_of_acknowledged_records_is_refused() {
    let disk = SimDisk::new();
    let wal = open(&disk);
    for i in 1..=3 {
        wait(|d| wal.append(META, vec![entry(i, "sixteen bytes it")], d)).unwrap();
    }
    wait(|d| wal.save_vote(META, Bytes::from_static(b"the vote"), d)).unwrap();
    drop(wal); // the closing batch, one record with the vote, vouches for the last one
    let file = segments(&disk)[0].clone();
    let acknowledged = 64 + 3 * 56 + 48;
    assert_eq!(disk.read(&file).unwrap()[acknowledged as usize + 48..].iter().find(|b| **b != 0), None);
    for byte in (0..48).chain(64..acknowledged) {
        disk.flip_bit(&file, byte, (byte % 8) as u8);
        let refused = Wal::open(Arc::new(disk.clone()), &StdThreads, dir(), small()).err();
        assert!(matches!(refused, Some(LogError::Damaged { .. })), "byte {byte}: {refused:?}");
        disk.flip_bit(&file, byte, (byte % 8) as u8);
    }
    assert_eq!(indexes(&open(&disk), META), [1, 2, 3]);
}

#[test]
fn r20_a_torn_tail_is_cut_and_reported() {
    let torn = (0..64).find_map(|seed| {
        let disk = replay_until_cut(seed);
        let wal = open(&disk);
        assert_eq!(&indexes(&wal, META)[..3], [1, 2, 3], "acknowledged");
        wal.torn_tail().cloned().map(|t| (t, disk))
    });
    let (torn, disk) = torn.expect("some seed tears the batch");
    assert!(torn.offset > 64 && torn.bytes > 0 && torn.file.starts_with(dir()), "{torn:?}");
    let wal = open(&disk);
    assert!(wal.torn_tail().is_none(), "cut once and for all");
}

/// Three entries acknowledged, twelve more written but not synced when the power goes.
fn replay_until_cut(seed: u64) -> SimDisk {
    let disk = SimDisk::new();
    let wal = open(&disk);
    append(&wal, META, 1..=3).unwrap();
    disk.power_off_after(1);
    append(&wal, META, 4..=15).unwrap_err();
    drop(wal);
    disk.power_cut(Cut::KeepSome(seed));
    disk
}

/// Of one unsynced batch the later records reached the disk and the first did not. Legal after a
/// power cut, so the member must start.
#[test]
fn r20_a_hole_inside_the_last_batch_is_a_torn_tail() {
    let disk = SimDisk::new();
    let wal = open(&disk);
    append(&wal, META, 1..=3).unwrap();
    append(&wal, META, 4..=9).unwrap();
    disk.power_cut(Cut::ProcessOnly); // no closing batch: the second batch is the last
    drop(wal);
    let first_of_second = 64 + 3 * (40 + 53u64).next_multiple_of(8);
    disk.flip_bit(&segments(&disk)[0], first_of_second + 50, 0);
    let wal = open(&disk);
    assert_eq!(indexes(&wal, META), [1, 2, 3]);
    assert_eq!(wal.torn_tail().map(|t| t.offset), Some(first_of_second));
}

#[test]
fn r20_a_missing_segment_is_refused() {
    let disk = SimDisk::new();
    let wal = open(&disk);
    for i in 0..20u64 {
        append(&wal, META, i * 10 + 1..=i * 10 + 10).unwrap();
    }
    drop(wal);
    disk.remove(&segments(&disk)[2]).unwrap();
    let Err(LogError::Damaged { why, .. }) = Wal::open(Arc::new(disk), &StdThreads, dir(), small()) else {
        panic!("it must refuse")
    };
    assert!(why.contains("missing"), "{why}");
}

#[test]
fn a_log_of_a_later_format_is_refused() {
    let disk = SimDisk::new();
    append(&open(&disk), META, 1..=1).unwrap();
    let file = segments(&disk)[0].clone();
    let mut header = disk.read(&file).unwrap()[..40].to_vec();
    header[8] = 2;
    let f = disk.open(&file).unwrap();
    f.write_at(0, &header).unwrap();
    f.write_at(40, &xxhash_rust::xxh3::xxh3_64(&header).to_le_bytes()).unwrap();
    let opened = Wal::open(Arc::new(disk), &StdThreads, dir(), small());
    assert!(matches!(opened, Err(LogError::Version { found: 2, known: 1, .. })));
}

/// The member stops after a failed sync, and is started again on the same machine: it reads the batch that
/// never reached the disk back from memory. What it builds on that must survive the next power cut.
#[test]
fn r20_a_batch_whose_sync_failed_is_durable_once_a_restart_has_read_it() {
    let disk = SimDisk::new();
    let wal = open(&disk);
    append(&wal, META, 1..=3).unwrap();
    disk.fail_sync_after(0);
    append(&wal, META, 4..=4).unwrap_err();
    drop(wal);
    disk.power_cut(Cut::ProcessOnly);
    let wal = open(&disk);
    assert_eq!(indexes(&wal, META), [1, 2, 3, 4], "memory still has it");
    append(&wal, META, 5..=5).unwrap();
    drop(wal);
    disk.power_cut(Cut::DropUnsynced);
    assert_eq!(indexes(&open(&disk), META), [1, 2, 3, 4, 5]);
}

#[test]
fn a_failed_sync_stops_the_log_for_ever_and_names_the_file_and_errno() {
    failing(|disk| disk.fail_sync_after(0), "os error 5");
}

#[test]
fn a_full_disk_stops_the_log_for_ever_and_names_the_file_and_errno() {
    failing(|disk| disk.fail_write_after(0), "os error 28");
}

fn failing(break_it: impl Fn(&SimDisk), errno: &str) {
    let disk = SimDisk::new();
    let told = Arc::new(Mutex::new(Vec::new()));
    let on_fatal = {
        let told = told.clone();
        move |path: &Path, e: &io::Error| told.lock().push(format!("{}: {e}", path.display()))
    };
    let wal =
        open_in(Arc::new(disk.clone()), dir(), WalOptions { on_fatal: Some(Arc::new(on_fatal)), ..small() });
    append(&wal, META, 1..=3).unwrap();
    break_it(&disk);
    let error = append(&wal, META, 4..=6).unwrap_err().to_string();
    assert!(error.contains(errno) && error.contains("wal-0000000000000001.log"), "{error}");
    let writes = disk.change_count();
    append(&wal, META, 4..=6).unwrap_err();
    wait(|d| wal.save_vote(META, Bytes::new(), d)).unwrap_err();
    wal.read(META, 1..2).unwrap_err();
    assert!(wal.failure().is_some());
    drop(wal);
    assert_eq!(disk.change_count(), writes, "nothing is written after a failure");
    assert_eq!(told.lock().len(), 1, "told once: {:?}", told.lock());
    assert!(told.lock()[0].contains(errno));
    disk.power_cut(Cut::DropUnsynced);
    assert_eq!(indexes(&open(&disk), META), [1, 2, 3]);
}

#[test]
fn entries_beyond_the_cache_are_read_from_disk_and_checked() {
    let disk = SimDisk::new();
    let wal = open(&disk);
    for i in 0..30u64 {
        append(&wal, META, i * 10 + 1..=i * 10 + 10).unwrap();
    }
    let all = wal.read(META, 1..301).unwrap();
    assert_eq!(all.len(), 300);
    assert!(all.iter().all(|e| e.payload.starts_with(format!("entry {} of", e.index).as_bytes())));
    disk.flip_bit(&segments(&disk)[0], 64 + 45, 1);
    let error = wal.read(META, 1..2).unwrap_err().to_string();
    assert!(error.contains("damaged at byte 64"), "{error}");
    append(&wal, META, 301..=301).expect_err("a log that found damage has stopped");
}

#[test]
fn a_log_is_locked_while_open() {
    let disk = SimDisk::new();
    let wal = open(&disk);
    let Err(error) = Wal::open(Arc::new(disk.clone()), &StdThreads, dir(), small()) else {
        panic!("it must refuse")
    };
    assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
    drop(wal);
    open(&disk);
}
