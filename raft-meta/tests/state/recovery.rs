//! After kills, power cuts and damage: an engine is a cache of log and snapshot (R19).

use super::*;

fn sled(dir: &Path) -> Arc<dyn Engine> {
    engine::open(EngineKind::Sled, real(), dir, CACHE).unwrap()
}

#[test]
fn r19_an_engine_that_was_not_closed_is_rebuilt_from_snapshot_and_log() {
    for kind in [EngineKind::Sled, EngineKind::Redb] {
        let temp = tempfile::tempdir().unwrap();
        let open = || engine::open(kind, real(), temp.path(), CACHE).unwrap();
        let (at_snapshot, snapshot) = expected(40);
        let mut group = StateGroup::open(open()).unwrap();
        apply_history(&mut group, 80);
        group.engine().guard().unwrap();
        drop(group); // not closed
        let mut group = StateGroup::open(open()).unwrap();
        assert_eq!(group.applied(), Applied::default(), "{kind:?}: nothing of it is believed");
        group.restore(at_snapshot, Box::new(io::Cursor::new(snapshot))).unwrap();
        apply_history(&mut group, 80);
        assert!(content(&mut group) == expected(80).1, "{kind:?}");
    }
}

#[test]
fn r19_an_engine_that_was_closed_is_used_again_as_often_as_it_is() {
    for kind in [EngineKind::Sled, EngineKind::Redb] {
        let temp = tempfile::tempdir().unwrap();
        let open = || engine::open(kind, real(), temp.path(), CACHE).unwrap();
        for round in 0..20 {
            let mut group = StateGroup::open(open()).unwrap();
            assert_eq!(group.applied().index, round * 15, "{kind:?}");
            apply_history(&mut group, (round + 1) * 15);
            group.engine().close().unwrap();
            assert!(group.engine().get(b"x").is_err(), "closed");
        }
        let mut group = StateGroup::open(open()).unwrap();
        assert!(content(&mut group) == expected(300).1, "{kind:?}");
    }
}

/// What releases before had left has no seal, and was never checked.
#[test]
fn r19_an_engine_with_a_note_of_the_first_format_is_rebuilt() {
    for note in ["clean 0b5e\n", "running 0b5e\n", "clean/2 \n", "clean/2 0 0", "", "\u{ff}"] {
        for kind in [EngineKind::Sled, EngineKind::Redb] {
            let temp = tempfile::tempdir().unwrap();
            let open = || engine::open(kind, real(), temp.path(), CACHE).unwrap();
            let mut group = StateGroup::open(open()).unwrap();
            apply_history(&mut group, 12);
            group.engine().close().unwrap();
            drop(group);
            std::fs::write(temp.path().join("life"), note).unwrap();
            let mut group = StateGroup::open(open()).unwrap();
            assert_eq!(group.applied(), Applied::default(), "{kind:?}, {note:?}");
            apply_history(&mut group, 12);
            assert!(content(&mut group) == expected(12).1, "{kind:?}, {note:?}");
        }
    }
}

#[test]
fn r19_a_damaged_sled_is_rebuilt() {
    let temp = tempfile::tempdir().unwrap();
    let mut group = StateGroup::open(sled(temp.path())).unwrap();
    apply_history(&mut group, 12);
    group.engine().close().unwrap();
    drop(group);
    let conf = temp.path().join("db/conf");
    assert!(conf.exists());
    std::fs::write(&conf, b"not a configuration").unwrap();
    let mut group = StateGroup::open(sled(temp.path())).unwrap();
    assert_eq!(group.applied(), Applied::default());
    apply_history(&mut group, 12);
    assert!(content(&mut group) == expected(12).1);
}

#[test]
fn r19_the_guard_is_flush_and_then_a_sync_of_the_file_system_whose_failure_is_an_error() {
    let disk = SimDisk::new();
    let mut group = redb_on(&disk);
    apply_history(&mut group, 30);
    group.engine().close().unwrap();
    disk.power_cut(Cut::DropUnsynced);
    let mut group = redb_on(&disk);
    assert_eq!(group.applied().index, 30, "what was closed survives");
    assert!(content(&mut group) == expected(30).1);
    disk.fail_sync_after(0);
    assert!(group.engine().guard().is_err());
    assert!(group.engine().close().is_err(), "it is not noted as clean");

    let temp = tempfile::tempdir().unwrap();
    let sled = engine::open(EngineKind::Sled, Arc::new(NoSync), temp.path(), CACHE).unwrap();
    assert!(sled.guard().unwrap_err().to_string().contains("no sync"));
    assert!(sled.close().is_err(), "it is not noted as clean");
}

/// A real disk whose file system cannot be synced.
struct NoSync;

impl Disk for NoSync {
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        real::RealDisk.open(path)
    }
    fn create(&self, path: &Path, bytes: u64) -> io::Result<Box<dyn DiskFile>> {
        real::RealDisk.create(path, bytes)
    }
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        real::RealDisk.read(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        real::RealDisk.list(dir)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        real::RealDisk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        real::RealDisk.remove(path)
    }
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        real::RealDisk.create_dir(dir)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        real::RealDisk.sync_dir(dir)
    }
    fn sync_file_system(&self, _: &Path) -> io::Result<()> {
        Err(io::Error::other("no sync"))
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        real::RealDisk.lock(path)
    }
}

/// Whatever a power cut leaves, redb comes back as it was closed, or empty, and the log does the rest.
#[test]
fn r19_redb_comes_back_as_it_was_closed_or_empty_after_any_power_cut() {
    let next = |group: &StateGroup| history_up_to(group.applied().index + 1, 20_000);
    let mut expected = vec![content(&mut fresh())];
    let mut whole = fresh();
    for _ in 0..40 {
        whole.apply(vec![next(&whole)]).unwrap();
        expected.push(content(&mut whole));
    }
    let mut kept = 0;
    for seed in 0..40u64 {
        let disk = SimDisk::new();
        let mut group = redb_on(&disk);
        let go_on = |group: &mut StateGroup, to: u64| -> io::Result<()> {
            while group.applied().index < to {
                group.apply(vec![next(group)])?;
                if group.applied().index.is_multiple_of(5) {
                    group.engine().guard()?;
                }
            }
            Ok(())
        };
        go_on(&mut group, 12).unwrap();
        disk.power_off_after(seed * 5);
        let closed = go_on(&mut group, 40).and_then(|()| group.engine().close());
        drop(group);
        disk.power_cut(if seed % 4 == 0 { Cut::DropUnsynced } else { Cut::KeepSome(seed) });
        let mut group = redb_on(&disk);
        let index = group.applied().index;
        assert!(
            index == 40 || index == 0 && closed.is_err(),
            "seed {seed}: found {index}, closed {closed:?}"
        );
        kept += usize::from(index == 40);
        assert!(content(&mut group) == expected[index as usize], "seed {seed}: whole at entry {index}");
        go_on(&mut group, 40).unwrap();
        assert!(content(&mut group) == expected[40], "seed {seed}");
    }
    assert!((5..40).contains(&kept), "some were closed, some were not: {kept}");
}

/// `kill -9` while it writes: the engine comes back empty, and snapshot and log do the rest.
#[test]
fn r19_engines_survive_kill_9() {
    for kind in ["sled", "redb"] {
        let temp = tempfile::tempdir().unwrap();
        for round in 1..=3 {
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "recovery::child_that_writes_until_it_is_killed", "--nocapture"])
                .env("MILLET_TEST_ENGINE", kind)
                .env("MILLET_TEST_DIR", temp.path())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let out = BufReader::new(child.stdout.take().unwrap());
            let reached = out
                .lines()
                .map_while(Result::ok)
                .find(|line| line.starts_with("applied") && line[8..].parse::<u64>().unwrap() >= round * 25);
            child.kill().unwrap();
            child.wait().unwrap();
            assert!(reached.is_some(), "{kind}: the child wrote");
            let engine = engine::open(kind.parse().unwrap(), real(), temp.path(), CACHE).unwrap();
            let mut group = StateGroup::open(engine).unwrap();
            assert_eq!(group.applied().index, 0, "{kind}, round {round}: it was not closed");
            apply_history(&mut group, 5);
            assert!(content(&mut group) == expected(5).1, "{kind}, round {round}: goes on");
            group.engine().close().unwrap();
        }
    }
}

/// Not a test of its own: what [`r19_engines_survive_kill_9`] starts and kills.
#[test]
fn child_that_writes_until_it_is_killed() {
    let (Ok(kind), Ok(dir)) = (std::env::var("MILLET_TEST_ENGINE"), std::env::var("MILLET_TEST_DIR")) else {
        return;
    };
    let engine = engine::open(kind.parse().unwrap(), real(), Path::new(&dir), CACHE).unwrap();
    let mut group = StateGroup::open(engine).unwrap();
    let start = std::time::Instant::now();
    while start.elapsed() < Duration::from_secs(60) {
        let next = group.applied().index + 1;
        apply_history(&mut group, next);
        println!("applied {next}");
    }
}
