//! The Raft log's segments: any records with checksums that fit, in batches and segments of any shape, and
//! any bytes behind them. What is opened can be added to, and is the same when it is opened once more.

use std::{io, path::Path, sync::Arc};

use bytes::Bytes;
use millet_core::world::Disk as _;
use millet_raft_meta::log::{GroupId, LogEntry, LogState, LogStore as _, Wal, WalOptions};
use millet_testkit::{SimDisk, StdThreads};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::bytes::Input;

const INCARNATION: u64 = 0xABCD;
const DIR: &str = "/log";
const GROUPS: u32 = 3;

/// A record as `raft-meta/src/log/record.rs` writes it.
fn record(
    to: &mut Vec<u8>,
    (batch, ord, last): (u64, u32, bool),
    kind: u8,
    group: u32,
    index: u64,
    payload: &[u8],
) {
    let start = to.len();
    to.extend_from_slice(&[0; 8]);
    to.extend_from_slice(&u32::try_from(payload.len()).expect("small").to_le_bytes());
    to.extend_from_slice(&ord.to_le_bytes());
    to.extend_from_slice(&batch.to_le_bytes());
    to.extend_from_slice(&index.to_le_bytes());
    to.extend_from_slice(&group.to_le_bytes());
    to.extend_from_slice(&[kind, u8::from(last), 0, 0]);
    to.extend_from_slice(payload);
    let sum = xxh3_64_with_seed(&to[start + 8..], INCARNATION);
    to[start..start + 8].copy_from_slice(&sum.to_le_bytes());
    to.resize(to.len().next_multiple_of(8), 0);
}

fn header(sequence: u64, first_batch: u64) -> Vec<u8> {
    let mut h = vec![0; 64];
    h[..8].copy_from_slice(b"MILLETWL");
    h[8..12].copy_from_slice(&1u32.to_le_bytes());
    h[16..24].copy_from_slice(&sequence.to_le_bytes());
    h[24..32].copy_from_slice(&INCARNATION.to_le_bytes());
    h[32..40].copy_from_slice(&first_batch.to_le_bytes());
    let sum = xxh3_64(&h[..40]);
    h[40..48].copy_from_slice(&sum.to_le_bytes());
    h
}

/// Segments from an input: each step is a record, the end of a segment, or bytes as they are.
fn segments(input: &mut Input<'_>) -> Vec<Vec<u8>> {
    let mut batch = input.number();
    let mut all = vec![header(1, batch)];
    let mut ord = 0;
    let mut rising = 0u64;
    while !input.is_empty() {
        let step = input.byte();
        let current = all.last_mut().expect("one at least");
        match step {
            0xff => {
                let sequence = all.len() as u64 + 1;
                all.push(header(sequence, batch));
                ord = 0;
            }
            0xfe => current.extend_from_slice(input.piece()),
            0xfd => current.resize(current.len() + usize::from(input.short() % 512), 0),
            _ => {
                let (kind, last) = (step % 7, step & 0x40 == 0);
                let group = u32::from(step >> 3 & 1);
                let index = if step & 0x80 == 0 { rising.wrapping_add(1) } else { input.number() };
                rising = index;
                let len = usize::from(input.byte());
                record(current, (batch, ord, last), kind, group, index, input.take(len));
                (batch, ord) = if last { (batch.wrapping_add(1), 0) } else { (batch, ord.wrapping_add(1)) };
            }
        }
    }
    all
}

fn options() -> WalOptions {
    WalOptions {
        first_segment_bytes: 4096,
        segment_bytes: 4096,
        prepare_ahead: false,
        ..WalOptions::new(INCARNATION + 1)
    }
}

/// What the log holds: each group's state and entries.
type Content = Vec<(LogState, Vec<LogEntry>)>;

fn content(wal: &Wal) -> io::Result<Content> {
    (0..GROUPS).map(GroupId).map(|g| Ok((wal.state(g), wal.read(g, 0..u64::MAX)?))).collect()
}

pub(crate) fn run(input: &[u8]) {
    let disk = Arc::new(SimDisk::new());
    disk.create_dir(Path::new(DIR)).expect("an empty disk");
    for (bytes, sequence) in segments(&mut Input(input)).iter().zip(1u64..) {
        let path = Path::new(DIR).join(format!("wal-{sequence:016x}.log"));
        let file = disk.create(&path, bytes.len() as u64).expect("a new file");
        file.write_at(0, bytes).expect("room");
    }
    let open = || Wal::open(Arc::clone(&disk) as _, &StdThreads, Path::new(DIR), options());
    let Ok(wal) = open() else { return };
    let before = content(&wal).expect("what was recovered is read");
    // The next entry of a group, as Raft would add it.
    let (state, _) = &before[0];
    let next = state.last.as_ref().map(|e| e.index).or(state.purged.as_ref().map(|(at, _)| *at));
    let Some(index) = next.unwrap_or(0).checked_add(1) else { return };
    let (tell, told) = std::sync::mpsc::channel();
    let entry = LogEntry { index, payload: Bytes::from_static(b"next") };
    wal.append(GroupId(0), vec![entry.clone()], Box::new(move |done| drop(tell.send(done.is_ok()))));
    let kept = told.recv().expect("the log answers");
    assert!(kept, "a log that was opened takes no entry");
    drop(wal);
    let wal = open().unwrap_or_else(|e| panic!("a log that was opened is refused: {e}"));
    let after = content(&wal).expect("what was recovered is read");
    assert_eq!(after[1..], before[1..]);
    let mut wanted = before[0].1.clone();
    wanted.push(entry);
    assert_eq!(after[0].1, wanted);
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let entry = |group: u8, last: bool, payload: &[u8]| {
        let step = 1 | group << 3 | if last { 0 } else { 0x40 };
        // Steps whose remainder by 7 is an entry's kind.
        let step = (0..=0x7fu8)
            .find(|s| s % 7 == 1 && s >> 3 & 1 == group && (s & 0x40 == 0) == last)
            .unwrap_or(step);
        [vec![step, u8::try_from(payload.len()).expect("small")], payload.to_vec()].concat()
    };
    let other = |kind: u8, index: u8, payload: &[u8]| {
        let step = (0x80..=0xbfu8).find(|s| s % 7 == kind && s >> 3 & 1 == 0).expect("there is one");
        [vec![step, index, u8::try_from(payload.len()).expect("small")], payload.to_vec()].concat()
    };
    let some = [entry(0, true, b"one"), entry(0, false, b"two"), entry(0, true, b"three")].concat();
    vec![
        [&[1][..], &some].concat(),
        [&[1][..], &some, &other(3, 2, b""), &other(5, 0, b"vote"), &other(6, 0, b"committed")].concat(),
        [&[1][..], &some, &other(4, 2, b"mark"), &entry(1, true, b"x")].concat(),
        [&[1][..], &some, &[0xff], &entry(0, true, b"four")].concat(),
        [&[1][..], &some, &[0xfd, 100, 0]].concat(),
        [&[1][..], &some, &[0xfe, 4, 0, 1, 2, 3, 4]].concat(),
        [&[1][..], &other(1, 0xf0, b"far"), &other(2, 0xf0, b"moved")].concat(),
        [&[1][..], &other(4, 0xf0, b"mark")].concat(),
    ]
}
