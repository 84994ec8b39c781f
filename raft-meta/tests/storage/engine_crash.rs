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

/// How far a run came.
struct Run {
    /// The change at which it was closed last.
    closed: u64,
    /// At this one it was to be closed; how far that came nobody knows.
    closing: u64,
    /// It has not been opened since.
    at_rest: bool,
    result: io::Result<()>,
}

impl Run {
    /// What the next process finds must be all that was closed, or nothing; nothing only if it may have been
    /// open.
    fn check(&self, db: &dyn Engine, largest: usize, what: &str) -> u64 {
        let at = reached(db).unwrap();
        let known = at == self.closed || at == self.closing || at == 0 && !self.at_rest;
        assert!(known, "{what}: closed at {}, found {at}", self.closed);
        assert!(rows(db).unwrap() == rows_after(at, largest), "{what}: whole at {at}");
        at
    }
}

/// Applies changes and guards every fourth; closed and opened half-way, closed at the end, wiped never.
fn run(disk: &SimDisk, to: u64, largest: usize) -> Run {
    let (mut closed, mut closing, mut at_rest) = (0, 0, false);
    let mut go = || {
        for half in [1..=to / 2, to / 2 + 1..=to] {
            let db = redb(disk)?;
            at_rest = false;
            assert_eq!(reached(&*db)?, closed, "what was closed is used again");
            let last = *half.end();
            for n in half {
                apply(&*db, n, largest)?;
                if n % 4 == 0 {
                    db.guard()?;
                }
            }
            closing = last;
            db.close()?;
            (closed, at_rest) = (last, true);
        }
        Ok(())
    };
    let result = go();
    Run { closed, closing, at_rest, result }
}

fn redb_is_what_was_closed_or_empty(to: u64, largest: usize, cuts: u64, every: u64) -> u64 {
    let mut kept = 0;
    for k in (0..1_000_000).step_by(every as usize) {
        let disk = SimDisk::new();
        disk.power_off_after(k);
        // A process that is to open it may have begun to.
        let run = Run { at_rest: false, ..run(&disk, to, largest) };
        for seed in 0..cuts {
            let after = disk.fork();
            after.power_cut(if seed == 0 { Cut::DropUnsynced } else { Cut::KeepSome(k * 13 + seed) });
            let what = format!("change {k}, cut {seed}");
            let db = redb(&after).unwrap_or_else(|e| panic!("{what}: {e}"));
            let at = run.check(&*db, largest, &what);
            kept += u64::from(at > 0);
            apply(&*db, at + 1, largest).unwrap();
            assert!(rows(&*db).unwrap() == rows_after(at + 1, largest), "{what}: goes on");
        }
        if run.result.is_ok() {
            assert!(kept >= cuts, "what was closed outlives a power cut: {kept} times");
            return k;
        }
    }
    panic!("it never ends");
}

#[test]
fn r19_redb_is_what_was_closed_or_empty_when_the_power_goes_at_any_write() {
    let crashes = redb_is_what_was_closed_or_empty(16, 3 << 10, 3, 1);
    assert!(crashes > 100, "every change of the disk: {crashes}");
}

#[test]
fn r19_redb_does_so_with_values_up_to_4_mib() {
    redb_is_what_was_closed_or_empty(16, usize::MAX, 2, 9);
}

/// A full or failing disk is an error at once, named; the next process has what was closed, or nothing. After
/// a failed sync the page cache has more, and is not believed.
#[test]
fn r19_redb_on_a_full_or_failing_disk_says_so_and_is_whole_afterwards() {
    for (errno, fail) in [
        ("os error 28", SimDisk::fail_write_after as fn(&SimDisk, u64)),
        ("os error 5", SimDisk::fail_sync_after),
    ] {
        for k in 0..10_000 {
            let disk = SimDisk::new();
            fail(&disk, k);
            let run = run(&disk, 12, 16 << 10);
            if let Err(e) = &run.result {
                assert!(e.to_string().contains(errno), "failure {k}: {e}");
            }
            assert_eq!(disk.retried_syncs(), 0, "failure {k}, {errno}: a failed sync is never tried again");
            for cut in [Cut::DropUnsynced, Cut::ProcessOnly] {
                let after = disk.fork();
                after.power_cut(cut);
                // A process whose opening failed may have begun to.
                let run = Run { at_rest: run.result.is_ok(), result: Ok(()), ..run };
                run.check(&*redb(&after).unwrap(), 16 << 10, &format!("failure {k}, {errno}, {cut:?}"));
            }
            if run.result.is_ok() {
                assert!(k > 5, "{errno}: {k} met");
                break;
            }
        }
    }
}

/// A disk that was full when the engine was opened had its file removed, and the error named neither.
#[test]
fn r19_redb_whose_disk_fails_while_it_opens_says_so_and_is_whole_afterwards() {
    let whole = SimDisk::new();
    run(&whole, 12, 16 << 10).result.unwrap();
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
            let run = Run { closed: 12, closing: 12, at_rest: false, result: Ok(()) };
            run.check(&*redb(&after).unwrap(), 16 << 10, &format!("failure {k}, {errno}"));
        }
        assert!(refused > 0, "{errno}: an opening that writes nothing would be a weak test");
    }
}
