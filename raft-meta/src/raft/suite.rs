//! openraft's own storage suite, run over our log on a simulated disk and the real `meta` machine.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use millet_core::world::Disk;
use millet_testkit::{SimDisk, StdThreads};
use openraft::{
    StorageError,
    testing::log::{StoreBuilder, Suite},
};
use parking_lot::Mutex;

use super::{
    files::SnapshotFiles,
    log::Log,
    machine::{Machine, Place},
    types::Cfg,
};
use crate::{
    log::{GroupId, Wal, WalOptions},
    machine::MetaGroup,
};

/// A fresh disk for every test of the suite; `threaded` puts apply on a thread of its own.
struct Fresh {
    threaded: bool,
    next: AtomicU64,
}

fn failed(e: impl std::fmt::Display) -> StorageError<Cfg> {
    StorageError::read(openraft::errors::ErrorSource::from_string(e))
}

impl StoreBuilder<Cfg, Log, Machine<MetaGroup>> for Fresh {
    async fn build(&self) -> Result<((), Log, Machine<MetaGroup>), StorageError<Cfg>> {
        let disk: Arc<dyn Disk> = Arc::new(SimDisk::new());
        let (dir, threads) = (PathBuf::from("/data"), Arc::new(StdThreads));
        let options = WalOptions::new(self.next.fetch_add(1, Ordering::Relaxed) + 1);
        let wal = Wal::open(Arc::clone(&disk), &*threads, &dir.join("log"), options).map_err(failed)?;
        let log = Log::open(Arc::new(wal), GroupId(0)).map_err(failed)?;
        let files = SnapshotFiles::open(disk, dir.join("snapshots"), GroupId(0)).map_err(failed)?;
        let place =
            if self.threaded { Place::thread(&*threads, "apply").map_err(failed)? } else { Place::Inline };
        let machine = Arc::new(Mutex::new(MetaGroup::new(|_| ())));
        Ok(((), log, Machine::new(machine, place, Arc::new(files), threads)))
    }
}

fn run(threaded: bool) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let suite = Suite::test_all(Fresh { threaded, next: AtomicU64::new(0) });
    runtime.block_on(suite).unwrap();
}

#[test]
fn openrafts_storage_suite_passes_with_apply_on_the_core() {
    run(false);
}

#[test]
fn openrafts_storage_suite_passes_with_apply_on_a_thread() {
    run(true);
}
