//! openraft's own storage suite, run over our log on a simulated disk and every machine that is shipped:
//! `meta` in memory, `state` on redb and on sled.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
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
    engine::{self, EngineKind},
    group::{Applied, ApplyEntry, GroupMachine, SnapshotSource},
    log::{GroupId, Wal, WalOptions},
    machine::MetaGroup,
    state::StateGroup,
};

#[path = "../../tests/real/mod.rs"]
mod real;

/// What a group may be made of.
#[derive(Clone, Copy)]
enum Shipped {
    MetaOnTheCore,
    MetaOnAThread,
    State(EngineKind),
}

/// A fresh disk for every test of the suite; the folder is for sled, which does its own I/O.
struct Fresh {
    threaded: bool,
    next: AtomicU64,
}

impl Fresh {
    fn new(threaded: bool) -> Self {
        Self { threaded, next: AtomicU64::new(1) }
    }

    fn store<M: GroupMachine>(&self, machine: M) -> Result<((), Log, Machine<M>), StorageError<Cfg>> {
        let disk: Arc<dyn Disk> = Arc::new(SimDisk::new());
        let (dir, threads) = (PathBuf::from("/data"), Arc::new(StdThreads));
        let options = WalOptions::new(self.next.fetch_add(1, Ordering::Relaxed));
        let wal = Wal::open(Arc::clone(&disk), &*threads, &dir.join("log"), options).map_err(failed)?;
        let log = Log::open(Arc::new(wal), GroupId(0)).map_err(failed)?;
        let files = SnapshotFiles::open(disk, dir.join("snapshots"), GroupId(0)).map_err(failed)?;
        let place =
            if self.threaded { Place::thread(&*threads, "apply").map_err(failed)? } else { Place::Inline };
        Ok(((), log, Machine::new(Arc::new(Mutex::new(machine)), place, Arc::new(files), threads)))
    }
}

fn failed(e: impl std::fmt::Display) -> StorageError<Cfg> {
    StorageError::read(openraft::errors::ErrorSource::from_string(e))
}

impl StoreBuilder<Cfg, Log, Machine<MetaGroup>> for Fresh {
    async fn build(&self) -> Result<((), Log, Machine<MetaGroup>), StorageError<Cfg>> {
        self.store(MetaGroup::new(|_| ()))
    }
}

/// The suite leaves entries out on its way to a state; our machine refuses that (R19), so blank ones take
/// their places.
struct Gapless(StateGroup);

impl GroupMachine for Gapless {
    fn applied(&self) -> Applied {
        self.0.applied()
    }

    fn apply(&mut self, entries: Vec<ApplyEntry>) -> io::Result<Vec<Bytes>> {
        let mut replies = Vec::with_capacity(entries.len());
        for entry in entries {
            let applied = self.0.applied().index;
            let left_out = if applied == 0 { entry.index..entry.index } else { applied + 1..entry.index };
            let blank = |index| ApplyEntry { index, membership: None, command: None, ..entry.clone() };
            self.0.apply(left_out.map(blank).collect())?;
            replies.extend(self.0.apply(vec![entry])?);
        }
        Ok(replies)
    }

    fn snapshot(&mut self) -> io::Result<Box<dyn SnapshotSource>> {
        self.0.snapshot()
    }

    fn restore(&mut self, applied: Applied, content: Box<dyn io::Read + Send>) -> io::Result<()> {
        self.0.restore(applied, content)
    }
}

/// The same with the `state` machine.
struct FreshState(Fresh, EngineKind, tempfile::TempDir);

impl StoreBuilder<Cfg, Log, Machine<Gapless>> for FreshState {
    async fn build(&self) -> Result<((), Log, Machine<Gapless>), StorageError<Cfg>> {
        let (disk, dir): (Arc<dyn Disk>, _) = match self.1 {
            EngineKind::Redb => (Arc::new(SimDisk::new()), PathBuf::from("/data/state")),
            EngineKind::Sled => {
                let n = self.0.next.load(Ordering::Relaxed);
                (Arc::new(real::RealDisk), self.2.path().join(n.to_string()))
            }
        };
        let engine = engine::open(self.1, disk, &dir, 1 << 20).map_err(failed)?;
        self.0.store(Gapless(StateGroup::open(engine).map_err(failed)?))
    }
}

fn run(shipped: Shipped) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let passed = match shipped {
            Shipped::MetaOnTheCore => Suite::test_all(Fresh::new(false)).await,
            Shipped::MetaOnAThread => Suite::test_all(Fresh::new(true)).await,
            Shipped::State(kind) => {
                Suite::test_all(FreshState(Fresh::new(true), kind, real::temporary())).await
            }
        };
        passed.unwrap();
    });
}

#[test]
fn openrafts_storage_suite_passes_with_apply_on_the_core() {
    run(Shipped::MetaOnTheCore);
}

#[test]
fn openrafts_storage_suite_passes_with_apply_on_a_thread() {
    run(Shipped::MetaOnAThread);
}

#[test]
fn openrafts_storage_suite_passes_with_state_on_redb() {
    run(Shipped::State(EngineKind::Redb));
}

#[test]
fn openrafts_storage_suite_passes_with_state_on_sled() {
    run(Shipped::State(EngineKind::Sled));
}
