//! What comes half-way: a batch that sled cannot finish. sled carries a batch out key by key, and leaves what it
//! has done when a key fails.

use std::{
    io,
    mem::ManuallyDrop,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    time::Duration,
};

use millet_core::world::Disk;
use millet_raft_meta::{
    EngineKind,
    engine::{Engine, Put, SledEngine},
};
use millet_testkit::{Cut, SimDisk, until_async};
use parking_lot::Mutex;

use crate::{
    book::Book,
    disks::Odd,
    engine_crash::{CACHE, mark, reached},
    flips::files_below,
    member::{LIMIT, One, Setup, Started},
    member_crash::on_runtime,
    real::{self, RealDisk},
};

const ROWS: u64 = 40;

fn open(dir: &Path) -> SledEngine {
    SledEngine::open(Arc::new(RealDisk), dir, CACHE).unwrap()
}

/// All rows, and one that goes to a file of its own.
fn batch(value: &'static str) -> Vec<Put> {
    let rows = (0..ROWS).map(|n| (format!("row {n:04}").into(), Some(value.into())));
    rows.chain([("large".into(), Some(vec![7; 300 << 10].into()))]).collect()
}

/// sled finds no room for files of their own any more: in the middle of a batch, since it sorts none.
fn break_blobs(state: &Path) {
    std::fs::remove_dir_all(state.join("db/blobs")).unwrap();
}

#[test]
fn g1a_a_batch_that_sled_did_not_finish_is_neither_served_nor_closed() {
    let temp = real::temporary();
    let dir = temp.path().join("state");
    // sled would wait for the write that failed.
    let db = Arc::new(ManuallyDrop::new(open(&dir)));
    db.apply(&batch("before"), Some(&mark(1))).unwrap();
    db.guard().unwrap();
    break_blobs(&dir);
    let error = db.apply(&batch("after"), Some(&mark(2))).unwrap_err();
    assert!(error.to_string().contains(dir.to_str().unwrap()), "{error}");
    for (key, _) in batch("") {
        let found = db.get(&key);
        assert!(found.is_err(), "{key:?} is served: {:?}", found.map(|f| f.map(|f| f.len())));
    }
    assert!(db.scan(b"", 1, 1).is_err() && db.mark().is_err());
    assert!(db.apply(&[], Some(&mark(3))).is_err() && db.guard().is_err() && db.wipe().is_err());
    let (ended, end) = mpsc::channel::<io::Result<()>>();
    let closing = Arc::clone(&db);
    std::thread::spawn(move || ended.send(closing.close()));
    assert!(end.recv_timeout(Duration::from_secs(20)).expect("it does not wait").is_err());

    // The next process finds what is there now.
    let next = temp.path().join("next");
    for (name, bytes) in files_below(&dir) {
        std::fs::create_dir_all(next.join(&name).parent().unwrap()).unwrap();
        std::fs::write(next.join(&name), bytes).unwrap();
    }
    let next = open(&next);
    assert_eq!((reached(&next).unwrap(), next.scan(b"", 1, 1).unwrap()), (0, Vec::new()), "it is rebuilt");
}

/// The stop comes before anybody has looked whether the group still runs.
#[test]
fn g2_a_member_that_stops_while_its_state_group_fails_says_so_and_is_rebuilt() {
    let temp = real::temporary();
    let dir = temp.path().join("data");
    let setup = Setup::new(Arc::new(RealDisk), &dir, EngineKind::Sled);
    on_runtime(async {
        let one = One::start(&setup, &Started::default()).await.unwrap();
        one.work(1, &Book::default(), &[100; 12], &mut |_| {}).await;
        break_blobs(&dir.join("state"));
        one.save_unanswered(300 << 10).await;
        let stopped = tokio::time::timeout(LIMIT, one.stop()).await.expect("it does not wait for sled");
        assert!(stopped.is_err(), "the group has failed");
    });
    assert!(!dir.join("state/life").exists(), "what was applied half-way counts as closed");
}

/// What a member of one has on disk after an orderly stop, snapshots of both groups among it.
fn stopped() -> (SimDisk, Mutex<Book>) {
    let (disk, book) = (SimDisk::new(), Mutex::new(Book::default()));
    on_runtime(async {
        let one = One::start(&simulated(&disk), &Started::default()).await.unwrap();
        one.work(1, &Book::default(), &[100; 30], &mut |event| book.lock().note(event)).await;
        // Until this group's log has been purged for sure, 64 entries at once: each Tick is one.
        let index = |path: &PathBuf| path.to_str()?.split_once("snapshot-0-")?.1.parse::<u64>().ok();
        let purged = async || disk.paths().iter().filter_map(index).any(|index| index > 150);
        until_async("the log is purged", purged, LIMIT).await;
        one.stop().await.unwrap();
    });
    disk.power_cut(Cut::ProcessOnly);
    (disk, book)
}

fn simulated(disk: &SimDisk) -> Setup {
    Setup { snapshot_every: 10, ..Setup::new(Arc::new(disk.clone()), Path::new("/data"), EngineKind::Redb) }
}

/// The engine may be the only whole copy: a start that cannot be must not end its seal. Nothing is gone
/// then, and what was wrong can be mended.
#[test]
fn g2_a_start_that_fails_leaves_the_engine_that_was_closed() {
    let (disk, book) = stopped();
    let named = |part: &str| {
        let mut paths = disk.paths().into_iter();
        paths.find(|p| p.to_str().is_some_and(|p| p.contains(part))).expect("both groups have snapshots")
    };
    let (life, meta, state) = (named("state/life"), named("snapshot-0-"), named("snapshot-1-"));
    let sealed = disk.read(&life).unwrap();
    // Which, and whether it is damaged; else it is missing, which is found out only after the engine was opened.
    for (path, flipped) in [(&state, true), (&meta, true), (&meta, false)] {
        let (bad, what) = (disk.fork(), format!("{}, flipped: {flipped}", path.display()));
        if flipped {
            bad.flip_bit(path, 40, 3);
        } else {
            bad.remove(path).unwrap();
        }
        on_runtime(async {
            let started = Started::default();
            assert!(One::start(&simulated(&bad), &started).await.is_err(), "{what}");
            started.abandon().await;
        });
        let now = bad.read(&life).unwrap_or_else(|e| panic!("{what}: the seal is gone: {e}"));
        assert!(now == sealed || !flipped, "{what}: the engine was opened");
    }
    on_runtime(async {
        let one = One::start(&simulated(&disk), &Started::default()).await.unwrap();
        one.check(2, &mut book.into_inner()).await.unwrap();
        one.stop().await.unwrap();
    });
}

/// What keeps sled from opening its files (here: a folder that cannot be made) says nothing of the rows in
/// them, so they stay, and so does the seal.
#[test]
fn r19_a_disk_error_while_a_closed_sled_is_opened_is_an_error_and_removes_nothing() {
    let temp = real::temporary();
    let dir = temp.path().join("state");
    let db = open(&dir);
    db.apply(&batch("kept")[..ROWS as usize], Some(&mark(4))).unwrap();
    db.close().unwrap();
    drop(db);
    let (closed, blobs) = (files_below(&dir), dir.join("db/blobs"));
    std::fs::remove_dir(&blobs).unwrap();
    std::os::unix::fs::symlink(temp.path().join("nowhere"), &blobs).unwrap();
    let error = SledEngine::open(Arc::new(RealDisk), &dir, CACHE).err().expect("it does not open");
    assert!(error.to_string().contains(dir.to_str().unwrap()), "{error}");
    std::fs::remove_file(&blobs).unwrap();
    std::fs::create_dir(&blobs).unwrap();
    assert!(files_below(&dir) == closed, "the files and the seal are as they were");
}

/// Its files are removed one by one as the disk lists them; here it lists none.
#[test]
fn r19_a_sled_that_was_to_begin_empty_and_has_rows_is_an_error() {
    let temp = real::temporary();
    let dir = temp.path().join("state");
    let db = open(&dir);
    db.apply(&batch("of before"), Some(&mark(4))).unwrap();
    db.guard().unwrap();
    drop(db); // not closed
    let error = SledEngine::open(Odd::blind(RealDisk), &dir, CACHE).err().expect("it has rows");
    assert!(error.to_string().contains("not empty"), "{error}");
}
