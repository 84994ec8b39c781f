//! Files that a member or an administrator reads: the identity, snapshot files, backups, and redb's. Where a
//! checksum guards them, it is made to fit, so that what lies behind it is met too.

use std::{
    io::{Read as _, Write as _},
    path::Path,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use millet_core::world::Disk as _;
use millet_proto::{
    backup::{Reader, Writer},
    wire::{BackupHeader, BackupSection},
};
use millet_raft_meta::{
    backup::verify,
    engine::{Engine as _, RedbEngine},
    fuzzing,
    identity::DataDir,
    machine::Machine,
};
use millet_testkit::{SeededEntropy, SimDisk};
use prost::Message as _;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::bytes::{Input, piece};

pub(crate) fn run(input: &[u8]) {
    let mut input = Input(input);
    match input.byte() % 5 {
        0 => identity(input.byte() & 1 == 0, input.rest()),
        1 => snapshot(input.rest()),
        2 => frames(&mut input),
        3 => backup(&mut input),
        _ => drop(read(input.rest())),
    }
}

/// A disk with one file.
fn disk(path: &str, bytes: &[u8]) -> Arc<SimDisk> {
    let (disk, path) = (SimDisk::new(), Path::new(path));
    disk.create_dir(path.parent().expect("a folder")).expect("an empty disk");
    disk.create(path, bytes.len() as u64).expect("a new file").write_at(0, bytes).expect("room");
    Arc::new(disk)
}

fn identity(fits: bool, text: &[u8]) {
    let mut file = text.to_vec();
    if fits {
        file.push(b'\n');
        let sum = xxh3_64(&file);
        file.extend_from_slice(format!("checksum={sum:016x}\n").as_bytes());
    }
    let disk = disk("/data/identity", &file);
    let open = || DataDir::open(Arc::clone(&disk) as _, Path::new("/data"), None, &SeededEntropy::new(1), 7);
    let Ok(mut dir) = open() else { return };
    dir.retire().expect("the disk takes it");
    let wanted = dir.identity().clone();
    drop(dir);
    let again = open().unwrap_or_else(|e| panic!("what was written is refused: {e}"));
    assert_eq!(*again.identity(), wanted);
}

fn snapshot(bytes: &[u8]) {
    let body = [b"MLTSNAP\x01", bytes].concat();
    let foot = [(body.len() as u64).to_le_bytes(), xxh3_64(&body).to_le_bytes()].concat();
    let disk = disk("/snapshots/snapshot-0-00000000000000000005", &[body, foot].concat());
    drop(fuzzing::snapshot(disk, Path::new("/snapshots")));
}

/// A backup of any frames, each with a checksum that fits.
fn frames(input: &mut Input<'_>) {
    let mut hash = Xxh3::new();
    let mut file = Vec::new();
    let mut put = |bytes: &[u8]| {
        hash.update(bytes);
        file.extend_from_slice(bytes);
        hash.digest().to_le_bytes()
    };
    put(b"MLTBKUP\x01");
    while !input.is_empty() {
        let (kind, payload) = (input.byte(), input.piece());
        put(&[kind]);
        put(&u32::try_from(payload.len()).expect("small").to_le_bytes());
        let sum = put(payload);
        put(&sum);
    }
    drop(read(&file));
}

type Sections = Vec<(BackupSection, Vec<u8>)>;

/// All of a backup; one that is whole can be written again, byte for byte, unless its pieces were cut in
/// another way.
fn read(bytes: &[u8]) -> Option<(BackupHeader, Sections)> {
    let mut reader = Reader::new(bytes).ok()?;
    let header = reader.header().clone();
    let mut sections = Vec::new();
    while let Some(section) = reader.next_section().ok()? {
        let mut data = Vec::new();
        reader.read_to_end(&mut data).ok()?;
        sections.push((section, data));
    }
    assert_eq!(reader.offset(), bytes.len() as u64, "something is behind the end");
    Some((header, sections))
}

/// A backup file that is whole, with any content.
fn backup(input: &mut Input<'_>) {
    let header = BackupHeader::decode(input.piece()).unwrap_or_default();
    let mut writer = Writer::new(Vec::new(), &header).expect("a Vec takes everything");
    while !input.is_empty() {
        let section = BackupSection::decode(input.piece()).unwrap_or_default();
        writer.section(&section).expect("a Vec takes everything");
        let mut data = input.piece().to_vec();
        if section.group == 0 && input.byte() & 1 == 0 {
            let sum = xxh3_64(&data);
            data.extend_from_slice(&sum.to_le_bytes());
        }
        writer.write_all(&data).expect("a Vec takes everything");
        writer.end_section().expect("a Vec takes everything");
    }
    let file = writer.finish().expect("a Vec takes everything");
    assert!(read(&file).is_some(), "what was written is no backup");
    let disk = disk("/backup/file", &file);
    if let Ok(survey) = verify(&*disk, Path::new("/backup/file")) {
        assert_eq!(survey.bytes, file.len() as u64);
        let _ = survey.generation();
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let identity = b"millet data directory\nformat=1\nnode=5\ncreated_ms=6\ncluster=c1\nmember=2\nsecret=09090909090909090909090909090909\nfounder=1 a:1\nfounder=2 b:1";
    // A snapshot as of entry 5: its log id, no membership, content.
    let mut snapshot = 5u64.to_le_bytes().to_vec();
    snapshot.extend_from_slice(&25u32.to_le_bytes());
    snapshot.extend_from_slice(&0u32.to_le_bytes());
    snapshot.extend_from_slice(&[1; 25]);
    snapshot.extend_from_slice(b"content");
    let header =
        BackupHeader { cluster: "c1".into(), member: 2, taken_ms: 3, members: vec![], version: "v".into() };
    let section = |group: u32| BackupSection { group, name: "g".into(), index: 7 }.encode_to_vec();
    let mut meta = Vec::new();
    Machine::new().write_to(&mut meta).expect("a Vec takes everything");
    meta.truncate(meta.len() - 8);
    // One grain's generation floor, and the end.
    let mut state = vec![0, 0, 0, 9, 0, 0, 0, 13, b'g', 1, 2, 3, 4, 5, 6, 7, 8, 1];
    state.extend_from_slice(&[0; 12]);
    state.extend_from_slice(&[0xff; 4]);
    let mut writer = Writer::new(Vec::new(), &header).expect("a Vec takes everything");
    writer.section(&BackupSection::default()).expect("a Vec takes everything");
    writer.write_all(b"data").expect("a Vec takes everything");
    writer.end_section().expect("a Vec takes everything");
    let file = writer.finish().expect("a Vec takes everything");
    let frame = |kind: u8, payload: &[u8]| [vec![kind], piece(payload)].concat();
    vec![
        [&[0, 0][..], identity].concat(),
        [&[0, 0][..], identity, b"\nretired=1"].concat(),
        [&[1][..], &snapshot].concat(),
        [
            vec![2],
            frame(1, &header.encode_to_vec()),
            frame(2, &section(1)),
            frame(3, b"ab"),
            frame(4, &2u64.to_le_bytes()),
            frame(5, &1u32.to_le_bytes()),
        ]
        .concat(),
        [
            vec![3],
            piece(&header.encode_to_vec()),
            piece(&section(1)),
            piece(&state),
            piece(&section(0)),
            piece(&meta),
            vec![0],
        ]
        .concat(),
        [&[4][..], &file].concat(),
    ]
}

/// A good file of redb's.
fn good() -> &'static [u8] {
    static GOOD: OnceLock<Vec<u8>> = OnceLock::new();
    GOOD.get_or_init(|| {
        let disk = Arc::new(SimDisk::new());
        let engine =
            RedbEngine::open(Arc::clone(&disk) as _, Path::new("/redb"), 1 << 20).expect("a new one");
        let rows: Vec<_> =
            (0..40u8).map(|n| (Bytes::from(vec![n; 9]), Some(Bytes::from(vec![n; 50])))).collect();
        engine.apply(&rows, Some(b"mark")).expect("room");
        engine.close().expect("room");
        disk.read(Path::new("/redb/state.redb")).expect("its file")
    })
}

/// redb's file with some bytes changed, or cut off: opened, or an error, or made anew; never half read. The
/// engine's own checks run over whatever is there.
pub(crate) fn redb(input: &[u8]) {
    let mut input = Input(input);
    let mut file = good().to_vec();
    if input.byte() & 0x80 != 0 {
        file.truncate(usize::from(input.short()) * 512 % (file.len() + 1));
    }
    while !input.is_empty() && !file.is_empty() {
        let at = match input.byte() & 3 {
            // The header; the first pages; anywhere.
            0 => usize::from(input.byte()),
            1 => usize::from(input.short()),
            _ => usize::from(input.short()) * 4096 + usize::from(input.short()) % 4096,
        } % file.len();
        let change = input.byte();
        file[at] ^= change;
    }
    let disk = disk("/redb/state.redb", &file);
    let Ok(engine) = RedbEngine::open(disk, Path::new("/redb"), 1 << 20) else { return };
    for (key, value) in engine.scan(b"", 1000, 1 << 20).unwrap_or_default() {
        assert!(key.len() == 9 && value.len() == 50 && key[0] == value[0], "a row that nobody wrote");
    }
    drop(engine.mark());
}

pub(crate) fn redb_seeds() -> Vec<Vec<u8>> {
    vec![vec![0], vec![0, 0, 9, 1], vec![0, 1, 0, 16, 4], vec![0x80, 100, 0], vec![0, 2, 3, 0, 7, 0, 1]]
}
