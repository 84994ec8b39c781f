//! The engines: a cache of log and snapshot (R19). redb runs on World's disk, so the power goes at every
//! change; sled does its own input and output and is killed and cut off in `kill` and `power`.

use std::{collections::BTreeMap, io, path::Path, sync::Arc};

use bytes::Bytes;
use millet_raft_meta::engine::{self, Engine, EngineKind, Put};
use millet_testkit::{Cut, SimDisk};

use crate::log_crash::payload;

pub const CACHE: u64 = 8 << 20;

pub type Rows = BTreeMap<Bytes, Bytes>;

/// Change `n` of a fixed history: a few keys over and over, values up to `largest`, some removed.
pub fn change(n: u64, largest: usize) -> Vec<Put> {
    const SIZES: [usize; 8] = [1, 128, 3 << 10, 16 << 10, 60 << 10, 140 << 10, 1 << 20, 4 << 20];
    let key = |n: u64| Bytes::from(format!("key {:02}", n % 11));
    let value = payload(n, SIZES[(n % 8) as usize].min(largest));
    vec![(key(n), Some(value)), (key(n * 7 + 3), (n % 5 != 2).then(|| payload(n, 20)))]
}

/// What is there after the first `n` changes.
pub fn rows_after(n: u64, largest: usize) -> Rows {
    let mut rows = Rows::new();
    for (key, value) in (1..=n).flat_map(|n| change(n, largest)) {
        match value {
            Some(value) => rows.insert(key, value),
            None => rows.remove(&key),
        };
    }
    rows
}

pub fn mark(n: u64) -> Vec<u8> {
    format!("after {n:06}").into_bytes()
}

/// How far an engine is, by its mark.
pub fn reached(engine: &dyn Engine) -> io::Result<u64> {
    Ok(engine.mark()?.map_or(0, |m| std::str::from_utf8(&m[6..]).unwrap().parse().unwrap()))
}

/// The rows, by a scan and by look-ups, which must agree.
pub fn rows(engine: &dyn Engine) -> io::Result<Rows> {
    let (mut all, mut from) = (Rows::new(), Bytes::new());
    loop {
        let page = engine.scan(&from, 4, usize::MAX)?;
        let Some((last, _)) = page.last() else { break };
        from = Bytes::from([&last[..], &[0]].concat());
        all.extend(page);
    }
    for n in 0..11 {
        let key = Bytes::from(format!("key {n:02}"));
        if engine.get(&key)? != all.get(&key).cloned() {
            return Err(io::Error::other(format!("{key:?} is another one in a scan")));
        }
    }
    Ok(all)
}

pub fn apply(engine: &dyn Engine, n: u64, largest: usize) -> io::Result<()> {
    engine.apply(&change(n, largest), Some(&mark(n)))
}

fn redb(disk: &SimDisk) -> io::Result<Arc<dyn Engine>> {
    engine::open(EngineKind::Redb, Arc::new(disk.clone()), Path::new("/data/state"), CACHE)
}

/// Applies changes and guards every fourth; closed and opened once, wiped never.
fn run(disk: &SimDisk, to: u64, largest: usize) -> (u64, io::Result<()>) {
    let mut guarded = 0;
    let mut go = || {
        let mut db = redb(disk)?;
        for n in 1..=to {
            apply(&*db, n, largest)?;
            if n % 4 == 0 {
                db.guard()?;
                guarded = n;
            }
            if n == to / 2 {
                db.close()?;
                guarded = n;
                db = redb(disk)?;
            }
        }
        Ok(())
    };
    let result = go();
    (guarded, result)
}

fn redb_keeps_what_was_guarded(to: u64, largest: usize, cuts: u64, every: u64) -> u64 {
    for k in (0..1_000_000).step_by(every as usize) {
        let disk = SimDisk::new();
        disk.power_off_after(k);
        let (guarded, result) = run(&disk, to, largest);
        for seed in 0..cuts {
            let after = disk.fork();
            after.power_cut(if seed == 0 { Cut::DropUnsynced } else { Cut::KeepSome(k * 13 + seed) });
            let db = redb(&after).unwrap_or_else(|e| panic!("change {k}, cut {seed}: {e}"));
            let at = reached(&*db).unwrap();
            assert!(at >= guarded, "change {k}, cut {seed}: guarded at {guarded}, found {at}");
            assert!(rows(&*db).unwrap() == rows_after(at, largest), "change {k}, cut {seed}: whole at {at}");
            apply(&*db, at + 1, largest).unwrap();
            assert!(rows(&*db).unwrap() == rows_after(at + 1, largest), "change {k}, cut {seed}: goes on");
        }
        if result.is_ok() {
            return k;
        }
    }
    panic!("it never ends");
}

#[test]
fn r19_redb_is_whole_and_keeps_what_was_guarded_when_the_power_goes_at_any_write() {
    let crashes = redb_keeps_what_was_guarded(16, 3 << 10, 3, 1);
    assert!(crashes > 100, "every change of the disk: {crashes}");
}

#[test]
fn r19_redb_does_so_with_values_up_to_4_mib() {
    redb_keeps_what_was_guarded(16, usize::MAX, 2, 9);
}

/// A full or failing disk is an error at once, named; with space again the engine is whole.
#[test]
fn r19_redb_on_a_full_or_failing_disk_says_so_and_is_whole_afterwards() {
    for (errno, fail) in [
        ("os error 28", SimDisk::fail_write_after as fn(&SimDisk, u64)),
        ("os error 5", SimDisk::fail_sync_after),
    ] {
        for k in 0..10_000 {
            let disk = SimDisk::new();
            fail(&disk, k);
            let (guarded, result) = run(&disk, 12, 16 << 10);
            if let Err(e) = &result {
                assert!(e.to_string().contains(errno), "failure {k}: {e}");
            }
            assert_eq!(disk.retried_syncs(), 0, "failure {k}, {errno}: a failed sync is never tried again");
            let after = disk.fork();
            after.power_cut(if errno.ends_with('5') { Cut::DropUnsynced } else { Cut::ProcessOnly });
            let db = redb(&after).unwrap();
            let at = reached(&*db).unwrap();
            assert!(at >= guarded, "failure {k}, {errno}: guarded at {guarded}, found {at}");
            assert!(rows(&*db).unwrap() == rows_after(at, 16 << 10), "failure {k}, {errno}: whole at {at}");
            if result.is_ok() {
                assert!(k > 5, "{errno}: {k} met");
                break;
            }
        }
    }
}

/// A disk that was full when the engine was opened had its file removed, and the error named neither.
#[test]
fn r19_redb_whose_disk_fails_while_it_opens_says_so_and_keeps_its_file() {
    let whole = SimDisk::new();
    run(&whole, 12, 16 << 10).1.unwrap();
    for (errno, fail) in [
        ("os error 28", SimDisk::fail_write_after as fn(&SimDisk, u64)),
        ("os error 5", SimDisk::fail_sync_after),
    ] {
        let mut refused = 0;
        for k in 0..12 {
            let disk = whole.fork();
            fail(&disk, k);
            if let Err(e) = redb(&disk).map(drop) {
                refused += 1;
                assert!(e.to_string().contains(errno) && e.to_string().contains("/data/state"), "{e}");
            }
            let after = disk.fork();
            after.power_cut(Cut::ProcessOnly);
            assert_eq!(reached(&*redb(&after).unwrap()).unwrap(), 12, "failure {k}, {errno}");
        }
        assert!(refused > 0, "{errno}: an opening that writes nothing would be a weak test");
    }
}
