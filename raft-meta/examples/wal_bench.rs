//! Time of one durable append, against a bare write + fdatasync in the same run:
//! `cargo run --release -p millet-raft-meta --example wal_bench [folder]`.
//!
//! Blocks of both alternate, so that other traffic on the disk meets both. The goal is a ratio of at most
//! 2 at p50.

#![allow(clippy::unwrap_used, reason = "a bench stops at the first failure")]

#[path = "../tests/real/mod.rs"]
mod real;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, mpsc::sync_channel},
    time::{Duration, Instant},
};

use bytes::Bytes;
use millet_core::world::{Disk, DiskFile};
use millet_raft_meta::log::{GroupId, LogEntry, LogStore, Wal, WalOptions};
use millet_testkit::StdThreads;
use real::RealDisk;

const ENTRY: usize = 128;
const BLOCK: usize = 200;
const BLOCKS: usize = 10;

fn main() {
    let temp = tempfile::tempdir().unwrap();
    let dir = std::env::args().nth(1).map_or_else(|| temp.path().to_owned(), PathBuf::from);
    RealDisk.create_dir(&dir).unwrap();
    println!("entries of {ENTRY} bytes, {BLOCKS} blocks of {BLOCK} each, folder {}", dir.display());
    for batch in [1, 16, 256] {
        compare(&dir, batch);
    }
    in_flight(&dir);
}

/// One caller who waits for each batch.
fn compare(dir: &Path, batch: usize) {
    let floor_file = dir.join(format!("floor-{batch}"));
    let floor = RealDisk.create(&floor_file, 64 << 20).unwrap();
    floor.sync_data().unwrap();
    let wal_dir = dir.join(format!("wal-{batch}"));
    let wal = Wal::open(Arc::new(RealDisk), &StdThreads, &wal_dir, WalOptions::new(1)).unwrap();
    let (mut bare, mut ours, mut at, mut index) = (Vec::new(), Vec::new(), 0, 0);
    for _ in 0..BLOCKS {
        bare.extend((0..BLOCK).map(|_| bare_append(&*floor, &mut at, batch)));
        ours.extend((0..BLOCK).map(|_| append(&wal, &mut index, batch)));
    }
    let (b, o) = (percentiles(bare), percentiles(ours));
    println!(
        "batch {batch:>3}: bare p50 {:>5} p99 {:>6} µs; log p50 {:>5} p99 {:>6} µs; ratio at p50 {:.2}",
        b.0,
        b.1,
        o.0,
        o.1,
        o.0 as f64 / b.0 as f64
    );
    drop((wal, floor));
    RealDisk.remove(&floor_file).unwrap();
    std::fs::remove_dir_all(wal_dir).unwrap();
}

fn bare_append(file: &dyn DiskFile, at: &mut u64, batch: usize) -> Duration {
    let bytes = vec![7; (ENTRY + 40) * batch];
    let start = Instant::now();
    file.write_at(*at, &bytes).unwrap();
    file.sync_data().unwrap();
    *at = (*at + bytes.len() as u64) % (32 << 20);
    start.elapsed()
}

fn append(wal: &Wal, index: &mut u64, batch: usize) -> Duration {
    let payload = Bytes::from(vec![7; ENTRY]);
    let entries =
        (0..batch as u64).map(|n| LogEntry { index: *index + 1 + n, payload: payload.clone() }).collect();
    *index += batch as u64;
    let (tell, told) = sync_channel(1);
    let start = Instant::now();
    wal.append(GroupId(0), entries, Box::new(move |r| tell.send(r).unwrap()));
    told.recv().unwrap().unwrap();
    let took = start.elapsed();
    if index.is_multiple_of(16 * 1024) {
        wal.purge(GroupId(0), *index, Bytes::new(), Box::new(|r| r.unwrap()));
    }
    took
}

/// 256 callers, each with one entry under way.
fn in_flight(dir: &Path) {
    let wal_dir = dir.join("wal-many");
    let wal = Wal::open(Arc::new(RealDisk), &StdThreads, &wal_dir, WalOptions::new(1)).unwrap();
    let (tell, told) = sync_channel(256);
    let total = 100_000u64;
    let start = Instant::now();
    let send = |index| {
        let tell = tell.clone();
        let entry = LogEntry { index, payload: Bytes::from(vec![7; ENTRY]) };
        wal.append(GroupId(0), vec![entry], Box::new(move |r| tell.send(r).unwrap()));
    };
    (1..=256).for_each(send);
    for index in 257..=total {
        told.recv().unwrap().unwrap();
        send(index);
    }
    for _ in 0..256 {
        told.recv().unwrap().unwrap();
    }
    println!("256 in flight: {:.0} entries/s", total as f64 / start.elapsed().as_secs_f64());
    drop(wal);
    std::fs::remove_dir_all(wal_dir).unwrap();
}

fn percentiles(mut took: Vec<Duration>) -> (u128, u128) {
    took.sort();
    (took[took.len() / 2].as_micros(), took[took.len() * 99 / 100].as_micros())
}
