//! The metadata machine against its lease rows: memory, snapshots, the time of a grant.

use std::{
    fs::File,
    io::{BufReader, BufWriter},
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};
use millet_core::{SessionId, limits, model::Ownership};
use millet_raft_meta::machine::{Command, LeaseKey, Machine, Op, OpResult, Reply};

use crate::{
    memory::resident_bytes,
    meta::{self, Replica},
    row::{Figures, Size},
    sweep::Sweep,
};

/// The sweep.
pub const SWEEP: Sweep = Sweep {
    name: "leases",
    work: "the metadata state machine alone, no Raft, no network, one thread: grants so many leases to one session \
           in log entries of 512, decoded and applied one after the other. `grant_us`: of that, a lease. `bytes`: \
           growth of resident memory over grants after the first 70,000, which fill the bounded history, divided \
           by them; left out below 1,000,000. `write_ms`: the snapshot into a file, synced; `load_ms`: a machine \
           from that file; `loaded_bytes`: resident memory a lease in machines loaded so, of which as many are \
           kept as make 2,000,000 leases; `snapshot_bytes`: the file, a lease",
    axis: "leases",
    points: &[10_000, 100_000, 1_000_000, 10_000_000],
    // The machine and a loaded one, 70 bytes a row in each as the design allows, and slack.
    memory: |leases| leases.max(2_000_000) * 200 + (1 << 30),
    run,
};

const TYPE: &str = "bench.Leased";
/// Over the bound of the history, so that it grows no more.
const FIRST: u64 = 70_000;
/// Below, the growth of the process is more than that of the rows.
const COUNTED: u64 = 1_000_000;
/// Leases in machines loaded.
const LOADED: u64 = 2_000_000;

fn run(leases: u64, size: Size) -> Result<Figures> {
    let leases = size.of(leases, 2_000);
    let mut replica = Replica::new()?;
    let session = replica.join(1, &[meta::declares(TYPE, Ownership::Leased)?])?;
    let (first, mut figures) = (leases.min(FIRST), Figures::new());
    let start = Instant::now();
    grant(&mut replica, session, 0..first)?;
    let before = resident_bytes()?;
    grant(&mut replica, session, first..leases)?;
    figures.push(("grant_us", start.elapsed().as_secs_f64() * 1e6 / leases as f64));
    if leases >= COUNTED {
        let grown = resident_bytes()?.saturating_sub(before);
        figures.push(("bytes", grown as f64 / (leases - first) as f64));
    }
    ensure!(replica.machine.lease_rows() == leases, "the machine has {:?}", replica.machine);
    figures.extend(snapshot(&replica.machine, size.of((LOADED / leases).max(1), 1))?);
    Ok(figures)
}

fn grant(replica: &mut Replica, session: SessionId, leases: std::ops::Range<u64>) -> Result<()> {
    let ty = meta::type_id(TYPE)?;
    for first in leases.clone().step_by(limits::BATCH_OPS) {
        let keys = first..leases.end.min(first + limits::BATCH_OPS as u64);
        let ops = keys.map(|n| Op::Acquire { key: key(n), ty, session }).collect();
        match replica.apply(&Command::Batch(ops))? {
            Reply::Batch(results) => {
                let granted = results.iter().filter(|r| matches!(r, OpResult::Granted { .. })).count();
                ensure!(granted == results.len(), "{granted} of {} leases were granted", results.len());
            }
            other => bail!("a batch was answered with {other:?}"),
        }
    }
    Ok(())
}

/// Rows are named by a keyed hash: here by something as evenly spread, in no order.
fn key(n: u64) -> LeaseKey {
    LeaseKey(u128::from(n + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835).to_be_bytes())
}

/// Writes it once and loads it so many times.
fn snapshot(machine: &Machine, copies: u64) -> Result<Figures> {
    let (rows, folder) = (machine.lease_rows() as f64, tempfile::tempdir()?);
    let path = folder.path().join("snapshot");
    let start = Instant::now();
    let mut file = BufWriter::new(File::create(&path)?);
    machine.write_to(&mut file)?;
    file.into_inner().context("writing what is left in the buffer")?.sync_all()?;
    let written = start.elapsed();
    let before = resident_bytes()?;
    let start = Instant::now();
    let load = || Ok(Machine::read_from(&mut BufReader::new(File::open(&path)?))?);
    let loaded = (0..copies).map(|_| load()).collect::<Result<Vec<Machine>>>()?;
    let took = start.elapsed();
    let grown = resident_bytes()?.saturating_sub(before);
    ensure!(loaded.iter().all(|copy| copy.lease_rows() == machine.lease_rows()), "a copy has other rows");
    Ok(vec![
        ("write_ms", written.as_secs_f64() * 1000.0),
        ("load_ms", took.as_secs_f64() * 1000.0 / copies as f64),
        ("loaded_bytes", grown as f64 / (rows * copies as f64)),
        ("snapshot_bytes", std::fs::metadata(&path)?.len() as f64 / rows),
    ])
}
