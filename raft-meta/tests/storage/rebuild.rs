//! What it costs that an engine which was not closed is rebuilt: the time a member needs to serve again after
//! it was killed, by the rows of its snapshot and the entries of its log. docs/operations.md has the figures.

use std::{
    io::Cursor,
    time::{Duration, Instant},
};

use millet_raft_meta::{
    EngineKind, engine,
    group::{Applied, GroupMachine},
    state::StateGroup,
};
use parking_lot::Mutex;

use crate::{
    book::Book,
    log_crash::payload,
    member::{One, Setup, Started},
    member_crash::on_runtime,
    real::{self, RealDisk},
};

const ENGINES: [EngineKind; 2] = [EngineKind::Sled, EngineKind::Redb];
/// A bound that only something of another order of magnitude breaks, also on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// A snapshot's content: rows of about 200 bytes.
fn snapshot(rows: u32) -> Vec<u8> {
    let mut content = Vec::new();
    for n in 0..rows {
        let (key, value) = (format!("vrow {n:09}"), payload(u64::from(n), 180));
        content.extend((key.len() as u32).to_be_bytes());
        content.extend((value.len() as u32).to_be_bytes());
        content.extend(key.as_bytes());
        content.extend(&value);
    }
    content.extend(u32::MAX.to_be_bytes());
    content
}

#[test]
fn r19_the_rows_of_a_snapshot_are_back_in_an_engine_in_time() {
    for kind in ENGINES {
        for rows in [2_000, 100_000] {
            let temp = tempfile::tempdir().unwrap();
            let open = || engine::open(kind, std::sync::Arc::new(RealDisk), temp.path(), 64 << 20).unwrap();
            let content = snapshot(rows);
            let mut group = StateGroup::open(open()).unwrap();
            let begun = Instant::now();
            let applied = Applied { index: 7, ..Applied::default() };
            group.restore(applied.clone(), Box::new(Cursor::new(content.clone()))).unwrap();
            let filled = begun.elapsed();
            let begun = Instant::now();
            group.engine().close().unwrap();
            let closed = begun.elapsed();
            drop(group);
            let begun = Instant::now();
            let mut group = StateGroup::open(open()).unwrap();
            let opened = begun.elapsed();
            assert_eq!(group.applied(), applied, "what was closed is used again");
            let mut copy = Vec::new();
            group.snapshot().unwrap().write_to(&mut copy).unwrap();
            assert!(copy == content, "{kind:?}: all {rows} rows");
            println!(
                "{kind:?}, {rows} rows: rebuilt in {filled:?}, closed in {closed:?}, opened in {opened:?}"
            );
            assert!(filled + closed + opened < LIMIT);
        }
    }
}

#[test]
fn g3_a_member_that_was_killed_is_back_in_time_with_thousands_of_entries_to_apply() {
    for kind in ENGINES {
        let temp = real::temporary();
        let setup = || Setup {
            // None: all of it is in the log.
            snapshot_every: 1 << 20,
            ..Setup::new(std::sync::Arc::new(RealDisk), &temp.path().join("data"), kind)
        };
        let book = Mutex::new(Book::default());
        on_runtime(async {
            let started = Started::default();
            let one = One::start(&setup(), &started).await.unwrap();
            let sizes: Vec<usize> = (0..3_000).map(|n| 100 + n % 400).collect();
            one.work(1, &Book::default(), &sizes, &mut |event| book.lock().note(event)).await;
            drop(one);
            started.abandon().await;
        });
        let mut book = book.into_inner();
        let answered = book.answered;
        on_runtime(async {
            let (started, begun) = (Started::default(), Instant::now());
            let one = One::start(&setup(), &started).await.unwrap();
            one.check(2, &mut book).await.unwrap();
            let back = begun.elapsed();
            let snapshots = std::fs::read_dir(temp.path().join("data/snapshots")).unwrap().count();
            let entries = one.member.status().unwrap().groups[1].last_log;
            assert!(snapshots == 0 && entries > 3_000, "{snapshots} snapshots, {entries} entries");
            println!("{kind:?}: killed after {answered} answers, serves all of them again after {back:?}");
            assert!(back < LIMIT);
            one.stop().await.unwrap();
            let (started, begun) = (Started::default(), Instant::now());
            let one = One::start(&setup(), &started).await.unwrap();
            one.check(3, &mut book).await.unwrap();
            println!("{kind:?}: stopped in order, serves again after {:?}", begun.elapsed());
            one.stop().await.unwrap();
        });
    }
}
