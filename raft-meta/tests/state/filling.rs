//! The engine while it is filled with a snapshot: nobody reads, copies or changes half of it, also when the
//! filling ends before its end.

use std::{
    io::{self, Read},
    time::Duration,
};

use bytes::Bytes;
use millet_core::{
    SessionId, ShardId,
    store::{Stored, Version},
};
use millet_proto::state::{Done, Op};
use millet_raft_meta::{
    group::{Applied, GroupMachine},
    state::StateGroup,
};
use millet_testkit::SimDisk;

use crate::{apply_history, content, expected, fresh, grain, history, redb_on, results, save, token};

const SHARD: ShardId = ShardId(0);

/// A grain that has a state.
fn acknowledged() -> (StateGroup, Option<Bytes>) {
    let of_shard =
        Op::OpenShard { ty: grain(1).ty, shard: SHARD, grant: token(5).epoch.grant, session: SessionId(5) };
    let value = Some(Bytes::from_static(b"acknowledged"));
    let mut group = fresh();
    results(&mut group, 1, vec![of_shard, save(1, token(5), 0, value.clone())]);
    (group, value)
}

/// The content of a snapshot, which is read while the engine is filled with it.
struct WhileFilled<F>(io::Cursor<Vec<u8>>, Option<F>);

impl<F: FnOnce()> Read for WhileFilled<F> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if let Some(meanwhile) = self.1.take() {
            meanwhile();
        }
        self.0.read(into)
    }
}

/// A leader that was deposed after its read index gets a snapshot: the read it still has to do must not
/// see the emptied engine, in which every grain is new and no floor refuses anybody (R2).
#[test]
fn r2_a_read_never_sees_a_half_restored_state() {
    let (mut group, value) = acknowledged();
    let (applied, bytes) = (group.applied(), content(&mut group));
    let (tell, told) = std::sync::mpsc::channel();
    let reader = group.reader();
    let meanwhile = move || {
        let (over, is_over) = std::sync::mpsc::channel::<()>();
        std::thread::spawn(move || {
            tell.send(reader.load(&grain(1), "s", SHARD, token(5)).unwrap()).unwrap();
            drop(over);
        });
        // A read that does not wait for the rest is over now.
        let _ = is_over.recv_timeout(Duration::from_millis(300));
    };
    group.restore(applied, Box::new(WhileFilled(io::Cursor::new(bytes), Some(meanwhile)))).unwrap();
    assert_eq!(told.recv().unwrap(), Ok(Done::Stored(Stored { version: Version(1), value })));
}

/// The same read, when the snapshot cannot be read to its end: it must not see what was filled in by then.
#[test]
fn r2_a_read_that_waits_for_a_filling_that_fails_is_an_error_and_so_is_everything_after_it() {
    let (mut group, value) = acknowledged();
    let (applied, bytes) = (group.applied(), content(&mut group));
    let (waits, reader) = (std::sync::mpsc::channel(), group.reader());
    let meanwhile = move || {
        let (begin, begun) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            begin.send(()).unwrap();
            waits.0.send(reader.load(&grain(1), "s", SHARD, token(5))).unwrap();
        });
        begun.recv().unwrap();
    };
    let short = io::Cursor::new(bytes[..bytes.len() - 5].to_vec());
    group.restore(applied.clone(), Box::new(WhileFilled(short, Some(meanwhile)))).unwrap_err();
    let read = waits.1.recv().unwrap();
    assert!(read.is_err(), "it saw half of the state: {read:?}");
    assert!(group.reader().oldest_living().is_err());
    assert!(group.snapshot().is_err(), "a copy of half of the state");
    assert!(group.apply(vec![history(2)]).is_err(), "a mark over half of the state");

    // Filled to the end, it is whole.
    group.restore(applied, Box::new(io::Cursor::new(bytes))).unwrap();
    let read = group.reader().load(&grain(1), "s", SHARD, token(5)).unwrap();
    assert_eq!(read, Ok(Done::Stored(Stored { version: Version(1), value })));
}

/// A snapshot is checked where it ends. A flipped length makes its rows end before, unchecked.
#[test]
fn r19_a_snapshot_whose_rows_end_before_it_does_is_an_error_and_leaves_no_mark() {
    let (applied, snapshot) = expected(30);
    let disk = SimDisk::new();
    let mut group = redb_on(&disk);
    apply_history(&mut group, 5);
    let early = [&u32::MAX.to_be_bytes()[..], &snapshot].concat();
    let error = group.restore(applied, Box::new(io::Cursor::new(early))).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    drop(group);
    assert_eq!(redb_on(&disk).applied(), Applied::default(), "it starts over");
}
