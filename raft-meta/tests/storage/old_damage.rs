//! Bits that flip where nothing looks at once: in old segments, in keys and counts, and under an engine that
//! runs. What it serves then is right, or it says that something is wrong; the next process has the right
//! rows, or none, and rebuilds. Never an older row.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use millet_core::world::Disk;
use millet_raft_meta::{
    EngineKind,
    engine::{self, Engine, Put},
};
use millet_testkit::{Cut, SeededEntropy, SimDisk};

use crate::{
    engine_crash::{CACHE, apply, mark, reached},
    flips::files_below,
    log_crash::payload,
    real::{self, RealDisk},
};

/// Small rows: enough that trees have branches, some of them not written for a while, so that old segments
/// and pages hold what is still of use, beside older versions of it.
#[derive(Clone, Copy)]
struct Rows {
    rows: u64,
    bytes: usize,
}

/// Every so many rounds, a row is written again.
const EVERY: u64 = 4;

impl Rows {
    /// As of a round, from 1 on.
    fn row(self, n: u64, round: u64) -> Option<(Bytes, Bytes)> {
        let written = (1..=round).rev().find(|r| (n + r).is_multiple_of(EVERY))?;
        Some((format!("row {n:04}").into(), payload(n * 100 + written, self.bytes)))
    }

    fn write(self, engine: &dyn Engine, round: u64) {
        for part in 0..10 {
            let due = (part..self.rows).step_by(10).filter(|n| (n + round).is_multiple_of(EVERY));
            let puts: Vec<Put> =
                due.filter_map(|n| self.row(n, round)).map(|(key, value)| (key, Some(value))).collect();
            engine.apply(&puts, Some(&mark(round))).unwrap();
        }
        engine.guard().unwrap();
    }

    /// Each row by itself, from `first` on, then all of them at once, at a round: right, or an error.
    fn look(self, engine: &dyn Engine, first: u64, round: u64, what: &str) -> io::Result<()> {
        for n in (first..self.rows).chain(0..first) {
            let Some((key, value)) = self.row(n, round) else { continue };
            let found = engine.get(&key)?;
            assert!(found.as_ref() == Some(&value), "{what}: {key:?} is another one, or none");
        }
        let found = engine.scan(b"", usize::MAX, usize::MAX)?;
        assert!(
            found.into_iter().eq((0..self.rows).filter_map(|n| self.row(n, round))),
            "{what}: a scan differs"
        );
        assert!(reached(engine)? == round, "{what}: the mark differs");
        Ok(())
    }
}

/// How often an engine was right, or said that something is wrong, or was found empty by the next process.
#[derive(Default, Debug)]
struct Seen {
    right: usize,
    refused: usize,
    empty: usize,
}

impl Seen {
    /// What a running engine serves. A panic of its own stops the member, as an error does.
    fn running(&mut self, rows: Rows, engine: &dyn Engine, first: u64, round: u64, what: &str) {
        match catch_unwind(AssertUnwindSafe(|| rows.look(engine, first, round, what))) {
            Ok(Ok(())) => self.right += 1,
            Ok(Err(_)) => self.refused += 1,
            Err(panic) => match panic.downcast_ref::<String>() {
                Some(why) if why.starts_with(what) => resume_unwind(panic),
                Some(_) | None => self.refused += 1,
            },
        }
    }

    /// What the next process finds: everything, or nothing.
    fn opened(&mut self, rows: Rows, engine: &dyn Engine, round: u64, what: &str) {
        if reached(engine).unwrap() == 0 {
            assert_eq!(engine.scan(b"", 1, 1).unwrap(), [], "{what}: rows without a mark");
            self.empty += 1;
        } else {
            rows.look(engine, 0, round, what).unwrap();
            self.right += 1;
        }
    }
}

struct Sled {
    _temp: tempfile::TempDir,
    root: PathBuf,
    files: Vec<(String, Vec<u8>)>,
    dice: SeededEntropy,
}

const SLED: Rows = Rows { rows: 400, bytes: 1000 };
const SLED_ROUNDS: u64 = 12;
/// Bytes of sled's segments.
const SEGMENT: usize = 512 << 10;

impl Sled {
    fn open(dir: &Path) -> Arc<dyn Engine> {
        engine::open(EngineKind::Sled, Arc::new(RealDisk), dir, CACHE).unwrap()
    }

    /// One that was closed after all rounds.
    fn closed() -> Self {
        let temp = real::temporary();
        let whole = temp.path().join("whole");
        let db = Self::open(&whole);
        (1..=SLED_ROUNDS).for_each(|round| SLED.write(&*db, round));
        db.close().unwrap();
        let files = files_below(&whole);
        let segments = files.iter().find(|(name, _)| name == "db/db").unwrap().1.len() / SEGMENT;
        assert!(segments >= 4, "there are old segments: {segments}");
        Self { root: temp.path().to_owned(), _temp: temp, files, dice: SeededEntropy::new(11) }
    }

    fn copy(&self, name: &str) -> PathBuf {
        let dir = self.root.join(name);
        for (name, bytes) in &self.files {
            let to = dir.join(name);
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::write(to, bytes).unwrap();
        }
        dir
    }

    /// A bit of a segment before the last one; each fourth in the segment's head.
    fn flip(&self, dir: &Path) -> String {
        let path = dir.join("db/db");
        let mut bytes = std::fs::read(&path).unwrap();
        let old = (bytes.len() - 1) / SEGMENT;
        let at = loop {
            let segment = self.dice.below(old as u64) as usize * SEGMENT;
            let in_it = if self.dice.below(4) == 0 { 16 } else { SEGMENT };
            let at = segment + self.dice.below(in_it as u64) as usize;
            if bytes[at] != 0 {
                break at;
            }
        };
        bytes[at] ^= 1 << self.dice.below(8);
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        std::os::unix::fs::FileExt::write_at(&file, &bytes[at..=at], at as u64).unwrap();
        format!("byte {at} of {}", bytes.len())
    }
}

/// sled leaves out what it finds damaged, and has the latest mark over older rows.
#[test]
fn g1a_a_flipped_bit_in_an_old_segment_of_sled_is_never_an_older_row() {
    let (sled, mut seen) = (Sled::closed(), Seen::default());
    for n in 0..80 {
        let dir = sled.copy(&format!("bad-{n}"));
        let what = sled.flip(&dir);
        seen.opened(SLED, &*Sled::open(&dir), SLED_ROUNDS, &what);
        std::fs::remove_dir_all(&dir).unwrap();
    }
    println!("sled, closed, then flipped: {seen:?}");
    assert_eq!(seen.empty, 80, "the seal is over all files: {seen:?}");
}

/// A checksum over the files as they are closed covers damage that came before.
#[test]
fn g1a_a_bit_that_flips_under_a_running_sled_is_never_an_older_row_after_a_clean_close() {
    let (sled, mut running, mut next) = (Sled::closed(), Seen::default(), Seen::default());
    // Much of the old segments is of no use any more: how much depends on when sled flushed.
    for n in 0..600 {
        if next.empty == 10 {
            break;
        }
        let dir = sled.copy(&format!("bad-{n}"));
        let db = Sled::open(&dir);
        SLED.write(&*db, SLED_ROUNDS + 1);
        let what = sled.flip(&dir);
        running.running(SLED, &*db, sled.dice.below(SLED.rows), SLED_ROUNDS + 1, &what);
        let end = catch_unwind(AssertUnwindSafe(|| db.close()));
        drop(catch_unwind(AssertUnwindSafe(|| drop(db))));
        next.opened(SLED, &*Sled::open(&dir), SLED_ROUNDS + 1, &format!("{what}, closed: {end:?}"));
        std::fs::remove_dir_all(&dir).unwrap();
    }
    println!("sled, flipped, then closed: running {running:?}, then {next:?}");
    assert!(next.empty == 10, "the flips met something: {next:?}");
}

const REDB: Rows = Rows { rows: 300, bytes: 60 };
const REDB_ROUNDS: u64 = 6;

fn redb(disk: &SimDisk) -> Arc<dyn Engine> {
    engine::open(EngineKind::Redb, Arc::new(disk.clone()), Path::new("/data/state"), 0).unwrap()
}

/// redb checks no page that it reads. A key that is another one, or a count that is too low, is a row less; a
/// reference that is another one leads to a page of before.
#[test]
fn g1a_a_bit_that_flips_under_a_running_redb_is_an_error_and_never_an_older_row_or_none() {
    let disk = SimDisk::new();
    let db = redb(&disk);
    (1..REDB_ROUNDS).for_each(|round| REDB.write(&*db, round));
    db.close().unwrap();
    drop(db);
    let (dice, mut running, mut next) = (SeededEntropy::new(12), Seen::default(), Seen::default());
    for _ in 0..400 {
        let bad = disk.fork();
        let db = redb(&bad);
        REDB.write(&*db, REDB_ROUNDS);
        let path = bad.paths().into_iter().find(|p| p.ends_with("state.redb")).unwrap();
        let bytes = bad.read(&path).unwrap();
        // Keys, and the beginnings of pages, where kinds, counts and references are.
        let at = loop {
            let at = dice.below(bytes.len() as u64) as usize;
            if bytes[at] != 0 && (at % 4096 < 64 || bytes[at - 8..at + 8].windows(4).any(|w| w == b"row ")) {
                break at;
            }
        };
        let bit = dice.below(8) as u8;
        bad.flip_bit(&path, at as u64, bit);
        let what = format!("byte {at} of {}, bit {bit}", bytes.len());
        running.running(REDB, &*db, dice.below(REDB.rows), REDB_ROUNDS, &what);
        let end = db.close();
        drop(db);
        bad.power_cut(Cut::ProcessOnly);
        next.opened(REDB, &*redb(&bad), REDB_ROUNDS, &format!("{what}, closed: {end:?}"));
    }
    println!("redb, flipped under it: running {running:?}, then {next:?}");
    assert!(running.refused > 100 && next.empty > 100, "the flips met something: {running:?}, {next:?}");
}

/// The page cache has what a failed sync lost; only the process that failed knows.
#[test]
fn g2_what_a_failed_sync_of_redb_lost_is_not_read_back_from_the_page_cache() {
    let disk = SimDisk::new();
    let db = redb(&disk);
    (1..=8).for_each(|n| apply(&*db, n, 3 << 10).unwrap());
    disk.fail_sync_after(0);
    assert!(db.guard().unwrap_err().to_string().contains("os error 5"));
    drop(db);
    disk.power_cut(Cut::ProcessOnly);
    assert_eq!(reached(&*redb(&disk)).unwrap(), 0, "it is rebuilt");
}
