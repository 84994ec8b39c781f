//! Data directories of every format that was ever shipped, as they were left on disk: today's code opens
//! a copy of each and finds exactly what was written. How to add one: `tests/golden-data/README.md`.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use millet_raft_meta::{EngineKind, engine, log::Wal};
use millet_testkit::StdThreads;

use crate::{
    book::{Book, Event},
    flips::files_below,
    log_crash::{Groups, Step, carry_out, found, script, small},
    member::{One, Setup, Started},
    member_crash::on_runtime,
    real::RealDisk,
};

/// What was told, in the folder beside `data`.
const TOLD: &str = "told";
/// The lengths of the files, whose zeros at the end are cut off.
const LENGTHS: &str = "lengths";
const ENGINES: [(&str, EngineKind); 2] = [("sled", EngineKind::Sled), ("redb", EngineKind::Redb)];

fn home() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden-data")
}

fn setup(dir: &Path, engine: EngineKind) -> Setup {
    Setup { snapshot_every: 15, ..Setup::new(Arc::new(RealDisk), dir, engine) }
}

/// A member's directory: leases, saves of several sizes, snapshots, stopped in order.
fn write_member(dir: &Path, engine: EngineKind) -> String {
    on_runtime(async {
        let one = One::start(&setup(dir, engine), &Started::default()).await.unwrap();
        let mut lines = vec![who(&one)];
        let sizes = [1, 128, 700, 9, 40, 33, 20_000, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13];
        one.work(1, &Book::default(), &sizes, &mut |event| lines.push(event.line())).await;
        one.stop().await.unwrap();
        lines.join("\n") + "\n"
    })
}

fn who(one: &One) -> String {
    let place = one.member.membership().unwrap();
    format!("node {} is member {} of {}", one.member.node().0, place.member, place.cluster)
}

fn read_member(dir: &Path, engine: EngineKind, told: &str) {
    let mut book = Book::default();
    told.lines().filter_map(Event::of).for_each(|event| book.note(event));
    assert!(book.answered > 15, "{}: nothing was told", dir.display());
    on_runtime(async {
        let one = One::start(&setup(dir, engine), &Started::default()).await.unwrap();
        assert_eq!(who(&one), told.lines().next().unwrap());
        one.check(2, &mut book).await.unwrap();
        let known = book.clone();
        one.work(2, &known, &[50, 60], &mut |event| book.note(event)).await;
        one.stop().await.unwrap();
    });
}

/// Whether the engine is used as it was left: those of the first format have no seal and are rebuilt.
fn holds_something(dir: &Path, engine: EngineKind) -> bool {
    let engine = engine::open(engine, Arc::new(RealDisk), &dir.join("state"), 1 << 20).unwrap();
    engine.mark().unwrap().is_some()
}

/// A log with every kind of record over several segments.
fn write_log(dir: &Path) -> String {
    let mut steps = script(&[1, 40, 130, 300]);
    steps.extend(
        (0..12).flat_map(|_| [Step::Append(2, vec![300, 300]), Step::Purge(2, 1), Step::Committed(2)]),
    );
    steps.push(Step::Truncate(2, 1));
    let (wal, mut groups) = (open_log(dir), Groups::new());
    for (n, step) in (1..).zip(&steps) {
        carry_out(&wal, &mut groups, step, n).unwrap();
    }
    format!("{groups:#?}\n")
}

fn open_log(dir: &Path) -> Wal {
    Wal::open(Arc::new(RealDisk), &StdThreads, dir, small()).unwrap()
}

/// Keeps a copy of a data directory under its golden name.
fn keep(name: &str, data: &Path, told: &str) {
    let (to, mut lengths) = (home().join(name), String::new());
    assert!(!to.exists(), "{name} is there already: formats that were shipped do not change");
    for (file, bytes) in files_below(data).into_iter().filter(|(file, _)| !file.ends_with("lock")) {
        let used = bytes.iter().rposition(|b| *b != 0).map_or(0, |at| at + 1);
        let path = to.join("data").join(&file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, &bytes[..used]).unwrap();
        lengths += &format!("{} {file}\n", bytes.len());
    }
    std::fs::write(to.join(LENGTHS), lengths).unwrap();
    std::fs::write(to.join(TOLD), told).unwrap();
}

/// A copy of a golden directory to work on, and what was told.
fn copy(name: &str, to: &Path) -> String {
    let from = home().join(name);
    for line in std::fs::read_to_string(from.join(LENGTHS)).unwrap().lines() {
        let (length, file) = line.split_once(' ').unwrap();
        let mut bytes = std::fs::read(from.join("data").join(file)).unwrap();
        bytes.resize(length.parse().unwrap(), 0);
        let path = to.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    std::fs::read_to_string(from.join(TOLD)).unwrap()
}

#[test]
fn data_directories_of_every_version_open_with_exactly_what_was_written() {
    let mut names: Vec<String> = std::fs::read_dir(home())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "README.md")
        .collect();
    names.sort();
    for name in &names {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("data");
        let told = copy(name, &dir);
        let (_, what) = name.split_once('-').unwrap();
        match ENGINES.iter().find(|(engine, _)| *engine == what) {
            Some((_, engine)) => {
                let state = temp.path().join("copy");
                copy(name, &state);
                assert_eq!(holds_something(&state, *engine), !name.starts_with("v1-"), "{name}");
                read_member(&dir, *engine, &told);
            }
            None => assert_eq!(format!("{:#?}\n", found(&open_log(&dir)).unwrap()), told, "{name}"),
        }
    }
    assert!(
        ["v1-log", "v1-redb", "v1-sled", "v2-redb", "v2-sled"].iter().all(|v| names.iter().any(|n| n == v)),
        "{names:?}"
    );
}

/// Not a check: writes the directories of today's formats when `MILLET_WRITE_GOLDEN` names their version.
#[test]
fn write_golden_data_directories_when_asked() {
    let Ok(version) = std::env::var("MILLET_WRITE_GOLDEN") else { return };
    for (what, engine) in ENGINES {
        let temp = tempfile::tempdir().unwrap();
        let told = write_member(&temp.path().join("data"), engine);
        keep(&format!("{version}-{what}"), &temp.path().join("data"), &told);
    }
    let temp = tempfile::tempdir().unwrap();
    let told = write_log(&temp.path().join("data"));
    keep(&format!("{version}-log"), &temp.path().join("data"), &told);
}
