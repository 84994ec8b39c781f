//! Flipped bits in what the engines and a whole member have on disk: it refuses, or rebuilds, or nothing is
//! different. It never serves another value than was written. The log's own are in `log_damage`.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
};

use millet_core::world::Disk;
use millet_raft_meta::{
    EngineKind,
    engine::{self, Engine},
};
use millet_testkit::{Cut, SeededEntropy, SimDisk};
use parking_lot::Mutex;

use crate::{
    book::Book,
    engine_crash::{CACHE, apply, reached, rows, rows_after},
    member::{One, Setup, Started},
    member_crash::on_runtime,
    real::{self, RealDisk},
};

const LARGEST: usize = 60 << 10;
const CHANGES: u64 = 40;

/// What an engine makes of its damaged files.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Verdict {
    /// Everything is as it was.
    Same,
    /// It is empty, or at an earlier change, whole.
    Behind,
    /// It says that it is damaged.
    Refused,
}

/// Opens an engine over damaged files, reads all of it; panics where it serves what was never there.
fn look(open: impl FnOnce() -> std::io::Result<Arc<dyn Engine>>, what: &str) -> Verdict {
    let read = || -> std::io::Result<(u64, _)> {
        let db = open()?;
        let found = (reached(&*db)?, rows(&*db)?);
        db.close()?;
        Ok(found)
    };
    match catch_unwind(AssertUnwindSafe(read)) {
        // A panic of the engine stops the member, as an error does.
        Err(_) | Ok(Err(_)) => Verdict::Refused,
        Ok(Ok((at, found))) => {
            assert!(
                at <= CHANGES && found == rows_after(at, LARGEST),
                "{what}: at change {at} with other rows"
            );
            if at == CHANGES { Verdict::Same } else { Verdict::Behind }
        }
    }
}

fn count(verdicts: &[Verdict]) -> [usize; 3] {
    [Verdict::Same, Verdict::Behind, Verdict::Refused].map(|v| verdicts.iter().filter(|w| **w == v).count())
}

#[test]
fn r19_redb_with_any_flipped_bit_is_rebuilt() {
    let disk = SimDisk::new();
    let open = |disk: &SimDisk| {
        engine::open(EngineKind::Redb, Arc::new(disk.clone()), Path::new("/data/state"), CACHE)
    };
    let db = open(&disk).unwrap();
    (1..=CHANGES).for_each(|n| apply(&*db, n, LARGEST).unwrap());
    db.close().unwrap();
    drop(db);
    disk.power_cut(Cut::ProcessOnly);
    let path = disk.paths().into_iter().find(|p| p.ends_with("state.redb")).unwrap();
    let bytes = disk.read(&path).unwrap();
    let dice = SeededEntropy::new(7);
    // The header byte by byte; of the rest, bytes that are something.
    let used: Vec<usize> = (512..bytes.len()).filter(|at| bytes[*at] != 0).collect();
    let sampled = (0..600).map(|_| used[dice.below(used.len() as u64) as usize]);
    let verdicts: Vec<_> = (0..512)
        .chain(sampled)
        .map(|byte| {
            let bad = disk.fork();
            bad.flip_bit(&path, byte as u64, (dice.below(8)) as u8);
            look(|| open(&bad), &format!("byte {byte} of {}", bytes.len()))
        })
        .collect();
    let [same, behind, refused] = count(&verdicts);
    println!("redb: {same} as it was, {behind} rebuilt, {refused} refused");
    assert_eq!([same, behind, refused], [0, verdicts.len(), 0], "the seal is over the whole file");
}

/// A value that changes after it was opened is found when it is read, and then nothing is served any more.
#[test]
fn r19_a_value_that_changes_on_the_disk_under_redb_is_an_error_and_not_served() {
    let disk = SimDisk::new();
    let db = engine::open(EngineKind::Redb, Arc::new(disk.clone()), Path::new("/data/state"), 0).unwrap();
    let value = crate::log_crash::payload(5, 3000);
    db.apply(&[("key".into(), Some(value.clone())), ("other".into(), Some("x".into()))], Some(b"mark"))
        .unwrap();
    db.guard().unwrap();
    let path = disk.paths().into_iter().find(|p| p.ends_with("state.redb")).unwrap();
    let bytes = disk.read(&path).unwrap();
    let mut met = 0;
    for at in bytes.windows(64).enumerate().filter(|(_, w)| *w == &value[1000..1064]).map(|(at, _)| at) {
        disk.flip_bit(&path, at as u64, 3);
        met += 1;
    }
    assert!(met > 0, "the value is in the file");
    let error = db.get(b"key").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
    assert!(error.to_string().contains("/data/state"), "{error}");
    assert!(db.scan(b"", 10, usize::MAX).is_err());
    assert!(db.get(b"other").unwrap_err().to_string().contains("not what was written"));
    assert!(db.close().is_err(), "it is rebuilt");
}

#[test]
fn r19_sled_with_any_flipped_bit_is_rebuilt() {
    let temp = real::temporary();
    let whole = temp.path().join("whole");
    let disk = || -> Arc<dyn Disk> { Arc::new(RealDisk) };
    let db = engine::open(EngineKind::Sled, disk(), &whole, CACHE).unwrap();
    (1..=CHANGES).for_each(|n| apply(&*db, n, LARGEST).unwrap());
    db.close().unwrap();
    drop(db);
    let files = files_below(&whole);
    let dice = SeededEntropy::new(9);
    let mut verdicts = Vec::new();
    for (name, bytes) in &files {
        let used: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
        let flips = if name.ends_with("db/db") { 120 } else { 12.min(used.len()) };
        for n in 0..flips {
            let at = used[dice.below(used.len() as u64) as usize];
            let bad = temp.path().join(format!("bad-{}-{n}", name.replace('/', "-")));
            for (other, bytes) in &files {
                let mut bytes = bytes.clone();
                if other == name {
                    bytes[at] ^= 1 << dice.below(8);
                }
                let to = bad.join(other);
                std::fs::create_dir_all(to.parent().unwrap()).unwrap();
                std::fs::write(to, bytes).unwrap();
            }
            verdicts.push(look(
                || engine::open(EngineKind::Sled, disk(), &bad, CACHE),
                &format!("byte {at} of {name}"),
            ));
            std::fs::remove_dir_all(&bad).unwrap();
        }
    }
    let [same, behind, refused] = count(&verdicts);
    println!(
        "sled: {same} as it was, {behind} rebuilt, {refused} refused, files {:?}",
        files.iter().map(|f| (&f.0, f.1.len())).collect::<Vec<_>>()
    );
    assert_eq!([same, behind, refused], [0, verdicts.len(), 0], "the seal is over all files");
}

/// Names below a folder and what is in them.
pub fn files_below(root: &Path) -> Vec<(String, Vec<u8>)> {
    let (mut found, mut dirs) = (Vec::new(), vec![root.to_owned()]);
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                found.push((name, std::fs::read(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

/// Every file of a member that was stopped in order: identity, log, snapshots, engine.
#[test]
fn g2_a_member_with_any_flipped_bit_refuses_by_name_or_has_everything() {
    let (disk, book) = (SimDisk::new(), Mutex::new(Book::default()));
    let setup = |disk: &SimDisk| Setup {
        snapshot_every: 15,
        ..Setup::new(Arc::new(disk.clone()), Path::new("/data"), EngineKind::Redb)
    };
    on_runtime(async {
        let one = One::start(&setup(&disk), &Started::default()).await.unwrap();
        let sizes = [1, 128, 3000, 16 << 10, 9, 700, 60 << 10, 5, 40, 33, 1, 2, 3, 4, 5, 6, 7, 8];
        one.work(1, &Book::default(), &sizes, &mut |event| book.lock().note(event)).await;
        one.stop().await.unwrap();
    });
    disk.power_cut(Cut::ProcessOnly);
    let (book, dice) = (book.into_inner(), SeededEntropy::new(3));
    let mut flips = Vec::new();
    for path in disk.paths() {
        let bytes = disk.read(&path).unwrap();
        let used: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
        for _ in 0..30.min(used.len()) {
            flips.push((
                path.clone(),
                used[dice.below(used.len() as u64) as usize] as u64,
                dice.below(8) as u8,
            ));
        }
    }
    let (next, refused) = (Mutex::new(flips.iter()), Mutex::new(0));
    let one = || {
        while let Some((path, byte, bit)) = { next.lock().next() } {
            let what = format!("{}, byte {byte}, bit {bit}", path.display());
            let bad = disk.fork();
            bad.flip_bit(path, *byte, *bit);
            on_runtime(async {
                let started = Started::default();
                match One::start(&setup(&bad), &started).await {
                    Err(e) => {
                        *refused.lock() += 1;
                        assert!(e.to_string().contains("/data/"), "{what}: it does not say where: {e}");
                    }
                    Ok(one) => {
                        if let Err(why) = one.check(2, &mut book.clone()).await {
                            panic!("{what}: {why}");
                        }
                    }
                }
                started.abandon().await;
            });
        }
    };
    std::thread::scope(|s| (0..6).for_each(|_| drop(s.spawn(one))));
    let (all, refused) = (flips.len(), refused.into_inner());
    println!("{all} flips in {} files: {refused} refused, the rest had everything", disk.paths().len());
    assert!(refused > all / 4, "{refused} of {all} refused");
}
