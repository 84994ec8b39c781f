//! A whole member on a disk that forgets, fills up or fails, at every change of the disk: identity, log,
//! votes, snapshots and the state engine together. What it answered is there when it starts again.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use millet_raft_meta::EngineKind;
use millet_testkit::{Cut, SimDisk, until_async};
use parking_lot::Mutex;

use crate::{
    book::Book,
    disks::Odd,
    member::{LIMIT, One, Setup, Started},
};

/// Members at once: most of their time they wait for elections.
const AT_ONCE: u64 = 8;

fn setup(disk: &SimDisk) -> Setup {
    Setup { snapshot_every: 12, ..Setup::new(Arc::new(disk.clone()), Path::new("/data"), EngineKind::Redb) }
}

/// Two lives of a member; what was told is in the book. The error is why it could not start.
async fn lives(setup: &Setup, book: &Mutex<Book>, started: &Started) -> Result<(), String> {
    for (life, sizes) in
        [(1, &[1, 128, 3000, 16 << 10, 9, 700, 60 << 10, 5, 40, 33][..]), (2, &[20, 20 << 10, 1, 1, 77])]
    {
        let one = One::start(setup, started).await.map_err(|e| e.to_string())?;
        let known = book.lock().clone();
        one.work(life, &known, sizes, &mut |event| book.lock().note(event)).await;
        // What fails now has failed in this life: there is no next one on such a disk.
        one.stop().await.map_err(|e| e.to_string())?;
    }
    Ok(())
}

/// Starts what is left of a disk and looks at everything.
async fn look(disk: &SimDisk, book: &mut Book) -> Result<(), String> {
    let started = Started::default();
    let looked = async {
        let one = One::start(&setup(disk), &started).await.map_err(|e| format!("it does not start: {e}"))?;
        one.check(3, book).await?;
        let known = book.clone();
        one.work(3, &known, &[10, 10], &mut |event| book.note(event)).await;
        Ok(())
    };
    let result = match tokio::time::timeout(LIMIT, looked).await {
        Ok(result) => result,
        Err(_) => Err("it does not come back".into()),
    };
    started.abandon().await;
    result
}

/// How a run ended.
enum End {
    /// All was done: nothing met the fault.
    Done,
    /// The power went, or it stopped and said why.
    Stopped(String),
}

async fn until_off(disk: &SimDisk) {
    until_async("the power goes", async || disk.is_off(), Duration::from_secs(600)).await;
}

/// One run on one disk, with one fault.
async fn run(setup: Setup, disk: &SimDisk, book: &Mutex<Book>) -> End {
    let started = Started::default();
    let end = tokio::select! {
        done = lives(&setup, book, &started) => match done {
            Ok(()) => End::Done,
            Err(why) => End::Stopped(why),
        },
        why = async { until_async("a member starts", async || started.any(), LIMIT).await; started.failed().await } => End::Stopped(why),
        () = until_off(disk) => End::Stopped("the power went".into()),
    };
    started.abandon().await;
    end
}

/// Runs `one` for 0, 1, … on several threads until it says that it met no fault; returns how many did.
fn everywhere(one: impl Fn(u64) -> bool + Sync) -> u64 {
    let (next, end) = (AtomicU64::new(0), AtomicU64::new(u64::MAX));
    std::thread::scope(|s| {
        for _ in 0..AT_ONCE {
            s.spawn(|| {
                loop {
                    let k = next.fetch_add(1, Ordering::SeqCst);
                    if k >= end.load(Ordering::SeqCst) {
                        return;
                    }
                    assert!(k < 20_000, "it never ends");
                    if !one(k) {
                        end.fetch_min(k, Ordering::SeqCst);
                    }
                }
            });
        }
    });
    end.load(Ordering::SeqCst)
}

pub fn on_runtime<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let result = runtime.block_on(work);
    runtime.shutdown_background();
    result
}

/// `every`: only each so-manieth change, where all would take too long.
fn crashes(every: u64, wrap: impl Fn(SimDisk) -> Setup + Sync) -> (u64, Vec<String>) {
    let wrong = Mutex::new(Vec::new());
    let met = everywhere(|n| {
        on_runtime(async {
            let (disk, book) = (SimDisk::new(), Mutex::new(Book::default()));
            disk.power_off_after(n * every);
            let end = run(wrap(disk.clone()), &disk, &book).await;
            let after = disk.fork();
            after.power_cut(if n % 2 == 0 { Cut::DropUnsynced } else { Cut::KeepSome(n) });
            if let Err(why) = look(&after, &mut book.into_inner()).await {
                wrong.lock().push(format!("change {}: {why}", n * every));
            }
            matches!(end, End::Stopped(_))
        })
    });
    (met, wrong.into_inner())
}

#[test]
fn g2_a_member_keeps_what_it_answered_when_the_power_goes_at_any_write() {
    let (met, wrong) = crashes(1, |disk| setup(&disk));
    assert!(wrong.is_empty(), "{} of {met}: {:#?}", wrong.len(), &wrong[..wrong.len().min(5)]);
    assert!(met > 100, "{met} changes");
}

/// The control: the same member whose log does not sync.
#[test]
fn control_a_member_without_syncs_is_caught() {
    let (met, wrong) = crashes(9, |disk| Setup { disk: Odd::unsynced(disk.clone()), ..setup(&disk) });
    assert!(wrong.len() as u64 * 3 > met, "a crash shows it often: {} of {met}", wrong.len());
}

/// It stops, naming what failed, and has everything again when the disk is mended.
fn stops_at_every(fail: fn(&SimDisk, u64), errno: &str, cut: Cut) -> u64 {
    everywhere(|n| {
        on_runtime(async {
            let (disk, book) = (SimDisk::new(), Mutex::new(Book::default()));
            fail(&disk, n);
            let end = run(setup(&disk), &disk, &book).await;
            let after = disk.fork();
            after.power_cut(cut);
            assert_eq!(disk.retried_syncs(), 0, "failure {n}: a failed sync is never tried again");
            if let Err(why) = look(&after, &mut book.into_inner()).await {
                panic!("failure {n}: {why}");
            }
            match end {
                End::Done => false,
                End::Stopped(why) => {
                    assert!(why.contains("/data") && why.contains(errno), "failure {n}: {why}");
                    true
                }
            }
        })
    })
}

#[test]
fn a_full_disk_at_any_write_stops_the_member_with_path_and_errno_and_loses_nothing() {
    let met = stops_at_every(SimDisk::fail_write_after, "os error 28", Cut::ProcessOnly);
    assert!(met > 50, "{met} writes met it");
}

#[test]
fn a_failed_sync_at_any_point_stops_the_member_and_is_never_tried_again() {
    let met = stops_at_every(SimDisk::fail_sync_after, "os error 5", Cut::DropUnsynced);
    assert!(met > 30, "{met} syncs met it");
}
