//! The `state` group: commands and replies of its log, applied over any rows, and its snapshots.

use std::{collections::BTreeMap, io, sync::Arc};

use bytes::Bytes;
use millet_core::{
    Epoch, GrainId, GrainType, Grant, Key, SessionId, ShardId,
    store::{StoreError, Token, Version},
};
use millet_proto::state::{Done, Op};
use millet_raft_meta::{
    engine::{Engine, Put},
    group::{Applied, ApplyEntry, GroupMachine as _},
    state::{StateCommand, StateGroup, StateReply, recover, survey},
};
use parking_lot::Mutex;

use crate::bytes::{Input, piece};

/// Entries of one input.
const ENTRIES: u64 = 64;

/// An engine in memory.
#[derive(Default)]
struct Memory(Mutex<(BTreeMap<Bytes, Bytes>, Option<Bytes>)>);

impl Engine for Memory {
    fn name(&self) -> &'static str {
        "memory"
    }
    fn get(&self, key: &[u8]) -> io::Result<Option<Bytes>> {
        Ok(self.0.lock().0.get(key).cloned())
    }
    fn apply(&self, puts: &[Put], mark: Option<&[u8]>) -> io::Result<()> {
        let (rows, kept) = &mut *self.0.lock();
        for (key, value) in puts.iter().cloned() {
            match value {
                Some(value) => drop(rows.insert(key, value)),
                None => drop(rows.remove(&key)),
            }
        }
        if let Some(mark) = mark {
            *kept = Some(Bytes::copy_from_slice(mark));
        }
        Ok(())
    }
    fn scan(&self, from: &[u8], items: usize, bytes: usize) -> io::Result<Vec<(Bytes, Bytes)>> {
        let (rows, _) = &*self.0.lock();
        let (mut found, mut size) = (Vec::new(), 0);
        for (key, value) in rows.range(Bytes::copy_from_slice(from)..) {
            size += key.len() + value.len();
            found.push((key.clone(), value.clone()));
            if found.len() >= items || size >= bytes {
                break;
            }
        }
        Ok(found)
    }
    fn mark(&self) -> io::Result<Option<Bytes>> {
        Ok(self.0.lock().1.clone())
    }
    fn guard(&self) -> io::Result<()> {
        Ok(())
    }
    fn wipe(&self) -> io::Result<()> {
        *self.0.lock() = Default::default();
        Ok(())
    }
    fn close(&self) -> io::Result<()> {
        Ok(())
    }
}

pub(crate) fn run(input: &[u8]) {
    let mut input = Input(input);
    match input.byte() % 4 {
        0 => {
            if let Ok(command) = StateCommand::decode(input.0) {
                assert_eq!(StateCommand::decode(&command.encode()).ok(), Some(command));
            }
        }
        1 => {
            if let Ok(reply) = StateReply::decode(input.0) {
                assert_eq!(StateReply::decode(&reply.encode()).ok(), Some(reply));
            }
        }
        2 => content(input.rest()),
        _ => entries(&mut input),
    }
}

/// A snapshot's content: surveyed, recovered and restored, or refused; what is restored comes back.
fn content(bytes: &[u8]) {
    drop(survey(&mut &bytes[..]));
    let mut recovered = Vec::new();
    if recover(&mut &bytes[..], &mut recovered, 7, SessionId(9)).is_ok() {
        // Rows that the recovery does not read may be wrong still.
        drop(survey(&mut &recovered[..]));
    }
    let engine = Arc::new(Memory::default());
    let mut group = StateGroup::open(Arc::clone(&engine) as _).expect("an empty engine");
    let applied = Applied { index: 5, ..Applied::default() };
    if group.restore(applied, Box::new(io::Cursor::new(bytes.to_vec()))).is_ok() {
        comes_back(&engine, &mut group);
    }
}

fn comes_back(engine: &Memory, group: &mut StateGroup) {
    let mut bytes = Vec::new();
    let mut picture = group.snapshot().expect("memory does not fail");
    picture.write_to(&mut bytes).expect("a Vec takes everything");
    let other = Arc::new(Memory::default());
    let mut again = StateGroup::open(Arc::clone(&other) as _).expect("an empty engine");
    again.restore(picture.applied(), Box::new(io::Cursor::new(bytes))).expect("what was written is read");
    assert_eq!(other.0.lock().0, engine.0.lock().0);
    let opened = StateGroup::open(other as _).expect("its mark is its own");
    assert_eq!(opened.applied(), group.applied());
}

/// Rows of any form, then a log, then reads. A row that cannot be read stops the group with an error.
fn entries(input: &mut Input<'_>) {
    let engine = Arc::new(Memory::default());
    for _ in 0..input.byte() % 8 {
        let row = (Bytes::copy_from_slice(input.piece()), Some(Bytes::copy_from_slice(input.piece())));
        engine.apply(&[row], None).expect("memory does not fail");
    }
    let mut group = StateGroup::open(Arc::clone(&engine) as _).expect("no mark");
    let reader = group.reader();
    for index in 1..=ENTRIES {
        if input.is_empty() {
            break;
        }
        let command = [&[1], input.piece()].concat();
        let entry = ApplyEntry {
            index,
            log_id: Bytes::new(),
            membership: None,
            command: Some(command.clone().into()),
        };
        let Ok(replies) = group.apply(vec![entry]) else { return };
        assert!(StateReply::decode(&replies[0]).is_ok());
        let Ok(StateCommand::Batch(ops)) = StateCommand::decode(&command) else { continue };
        for op in ops {
            if let Op::Load { grain, slot, shard, token } = op {
                drop(reader.load(&grain, &slot, shard, token));
            }
        }
    }
    comes_back(&engine, &mut group);
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let ty = GrainType::new("realm.Player").expect("a good name");
    let grain = GrainId::new(ty.clone(), 42);
    let text = GrainId::new(ty.clone(), Key::text("anna").expect("a good key"));
    let (grant, session) = (Grant { generation: 1, index: 300 }, SessionId(200));
    let token = Token { epoch: Epoch { grant, activation: 7 }, session };
    let (slot, shard) = (String::from("profile"), ShardId(3));
    let write = |version, value| Op::Write {
        grain: grain.clone(),
        slot: slot.clone(),
        shard: None,
        token,
        version: Version(version),
        value,
    };
    let commands = [
        StateCommand::Batch(vec![Op::Open { grain: grain.clone(), slot: slot.clone(), token }]),
        StateCommand::Batch(vec![write(0, Some(Bytes::from_static(b"gold"))), write(1, None)]),
        StateCommand::Batch(vec![Op::OpenShard { ty, shard, grant, session }]),
        StateCommand::Batch(vec![Op::Load { grain: text, slot: slot.clone(), shard, token }]),
        StateCommand::OldestLiving(SessionId(201)),
    ];
    let reply = StateReply(vec![
        Ok(Done::Written(Version(5))),
        Ok(Done::Opened),
        Err(StoreError::Fenced { given: Epoch::default(), floor: token.epoch }),
        Err(StoreError::TooLarge { bytes: 300, limit: 200 }),
    ]);
    let mut all = vec![[&[1][..], &reply.encode()].concat()];
    all.extend(commands.iter().map(|c| [&[0][..], &c.encode()].concat()));
    let log: Vec<u8> = commands.iter().flat_map(|c| piece(&c.encode()[1..])).collect();
    all.push([&[3, 0][..], &log].concat());
    // A head of its own form for a row that the log meets, and one of another.
    let engine = Arc::new(Memory::default());
    let mut group = StateGroup::open(Arc::clone(&engine) as _).expect("an empty engine");
    let entry = |(c, index): (&StateCommand, u64)| ApplyEntry {
        index,
        log_id: Bytes::new(),
        membership: None,
        command: Some(c.encode()),
    };
    group.apply(commands.iter().zip(1..).map(entry).collect()).expect("memory does not fail");
    let rows = engine.0.lock().0.clone();
    let written: Vec<u8> = rows.iter().take(7).flat_map(|(k, v)| [piece(k), piece(v)].concat()).collect();
    let count = u8::try_from(rows.len().min(7)).expect("few rows");
    all.push([&[3, count][..], &written, &log].concat());
    let mut content = vec![2];
    group.snapshot().expect("memory does not fail").write_to(&mut content).expect("a Vec takes everything");
    all.push(content);
    all
}
