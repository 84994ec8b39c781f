//! Bytes of Raft entries, log ids, votes and messages, on disk and between members. Every form starts
//! with a version byte; the golden bytes below may never change.
//!
//! Our indexes count from 1 (0 is "none"), openraft's from 0: the difference lives here.

use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use openraft::entry::RaftEntry;
use serde::{Serialize, de::DeserializeOwned};

use super::types::{Blob, Entry, LeaderId, LogId, Payload, Vote};
use crate::log::LogEntry;

/// Version of every form in this file.
const VERSION: u8 = 1;
const BLANK: u8 = 0;
const NORMAL: u8 = 1;
const MEMBERSHIP: u8 = 2;
/// Version, kind, term, node.
const ENTRY_HEAD: usize = 18;

/// Our index of an openraft index. The last one of all is nobody's: a message that names it is wrong, but
/// must not end the process.
pub(super) fn ours(index: u64) -> u64 {
    index.saturating_add(1)
}

fn bad(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("raft: {what}: written by another version, or damaged"),
    )
}

fn take<const N: usize>(from: &mut &[u8], what: &str) -> io::Result<[u8; N]> {
    let (head, rest) = from.split_first_chunk::<N>().ok_or_else(|| bad(what))?;
    *from = rest;
    Ok(*head)
}

/// A log id in bytes.
pub(super) fn put_log_id(id: &LogId) -> Bytes {
    let mut b = BytesMut::with_capacity(25);
    b.put_u8(VERSION);
    b.put_u64_le(id.leader_id.term);
    b.put_u64_le(id.leader_id.node_id);
    b.put_u64_le(ours(id.index));
    b.freeze()
}

/// Reads [`put_log_id`]; `None` for no bytes.
pub(super) fn log_id(bytes: &[u8]) -> io::Result<Option<LogId>> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let mut b = bytes;
    if take::<1>(&mut b, "log id")? != [VERSION] {
        return Err(bad("log id"));
    }
    let term = u64::from_le_bytes(take(&mut b, "log id")?);
    let node_id = u64::from_le_bytes(take(&mut b, "log id")?);
    let index = u64::from_le_bytes(take(&mut b, "log id")?).checked_sub(1).ok_or_else(|| bad("log id"))?;
    Ok(Some(LogId { leader_id: LeaderId { term, node_id }, index }))
}

/// A vote in bytes.
pub(super) fn put_vote(vote: &Vote) -> Bytes {
    let mut b = BytesMut::with_capacity(18);
    b.put_u8(VERSION);
    b.put_u64_le(vote.leader_id.term);
    b.put_u64_le(vote.leader_id.node_id);
    b.put_u8(u8::from(vote.committed));
    b.freeze()
}

/// Reads [`put_vote`].
pub(super) fn vote(bytes: &[u8]) -> io::Result<Vote> {
    let mut b = bytes;
    if take::<1>(&mut b, "vote")? != [VERSION] {
        return Err(bad("vote"));
    }
    let term = u64::from_le_bytes(take(&mut b, "vote")?);
    let node_id = u64::from_le_bytes(take(&mut b, "vote")?);
    let [committed] = take::<1>(&mut b, "vote")?;
    Ok(Vote { leader_id: LeaderId { term, node_id }, committed: committed != 0 })
}

/// An entry as the log keeps it.
pub(super) fn put_entry(entry: &Entry) -> io::Result<LogEntry> {
    let head = |kind: u8, rest: usize| {
        let mut b = BytesMut::with_capacity(ENTRY_HEAD + rest);
        b.put_u8(VERSION);
        b.put_u8(kind);
        b.put_u64_le(entry.log_id.leader_id.term);
        b.put_u64_le(entry.log_id.leader_id.node_id);
        b
    };
    let b = match &entry.payload {
        Payload::Blank => head(BLANK, 0),
        Payload::Normal(Blob(command)) => {
            let mut b = head(NORMAL, command.len());
            b.put_slice(command);
            b
        }
        Payload::Membership(m) => {
            let m = postcard::to_stdvec(m).map_err(io::Error::other)?;
            let mut b = head(MEMBERSHIP, m.len());
            b.put_slice(&m);
            b
        }
    };
    Ok(LogEntry { index: ours(entry.log_id.index), payload: b.freeze() })
}

/// The log id of a kept entry, without reading the rest.
pub(super) fn entry_log_id(entry: &LogEntry) -> io::Result<LogId> {
    let mut b = &entry.payload[..];
    let [version, _kind] = take::<2>(&mut b, "entry")?;
    if version != VERSION {
        return Err(bad("entry"));
    }
    let term = u64::from_le_bytes(take(&mut b, "entry")?);
    let node_id = u64::from_le_bytes(take(&mut b, "entry")?);
    let index = entry.index.checked_sub(1).ok_or_else(|| bad("entry at index 0"))?;
    Ok(LogId { leader_id: LeaderId { term, node_id }, index })
}

/// Reads [`put_entry`].
pub(super) fn entry(kept: &LogEntry) -> io::Result<Entry> {
    let log_id = entry_log_id(kept)?;
    let rest = kept.payload.slice(ENTRY_HEAD..);
    let payload = match kept.payload[1] {
        BLANK => Payload::Blank,
        NORMAL => Payload::Normal(Blob(rest)),
        MEMBERSHIP => Payload::Membership(postcard::from_bytes(&rest).map_err(io::Error::other)?),
        _ => return Err(bad("entry kind")),
    };
    Ok(Entry::new(log_id, payload))
}

/// A message or a bookkeeping value in bytes.
pub(super) fn put<T: Serialize>(value: &T) -> io::Result<Bytes> {
    let mut out = vec![VERSION];
    postcard::to_io(value, &mut out).map_err(io::Error::other)?;
    Ok(out.into())
}

/// Reads [`put`].
pub(super) fn read<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    match bytes {
        [VERSION, rest @ ..] => postcard::from_bytes(rest).map_err(|_| bad("message")),
        _ => Err(bad("message")),
    }
}

/// Reads any bytes in every form of this file: refused, or the same again.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn any_bytes(bytes: &[u8], index: u64) {
    use openraft::raft::{
        AppendEntriesRequest, SnapshotResponse, StreamAppendResult, TransferLeaderRequest, VoteRequest,
        VoteResponse,
    };

    use super::types::{Cfg, SnapshotMeta, StoredMembership};

    if let Ok(Some(id)) = log_id(bytes) {
        assert_eq!(put_log_id(&id)[..], bytes[..25]);
    }
    if let Ok(read) = vote(bytes) {
        assert_eq!(vote(&put_vote(&read)).ok(), Some(read));
    }
    let kept = LogEntry { index, payload: Bytes::copy_from_slice(bytes) };
    if let Ok(read) = entry(&kept) {
        let again = put_entry(&read).expect("what was read is written");
        assert_eq!(again.index, index);
        assert_eq!(entry(&again).ok(), Some(read));
    }
    again::<AppendEntriesRequest<Cfg>>(bytes);
    if let Ok(request) = read::<AppendEntriesRequest<Cfg>>(bytes) {
        assert!(request.entries.iter().all(|entry| put_entry(entry).is_ok()));
    }
    again::<StreamAppendResult<Cfg>>(bytes);
    again::<(bool, VoteRequest<Cfg>)>(bytes);
    again::<VoteResponse<Cfg>>(bytes);
    again::<TransferLeaderRequest<Cfg>>(bytes);
    again::<(Vote, SnapshotMeta)>(bytes);
    if let Ok((_, meta)) = read::<(Vote, SnapshotMeta)>(bytes) {
        super::machine::applied_of(&meta).expect("what was read is written");
    }
    again::<SnapshotResponse<Cfg>>(bytes);
    again::<StoredMembership>(bytes);
}

#[cfg(any(test, feature = "fuzzing"))]
fn again<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
    let Ok(value) = read::<T>(bytes) else { return };
    let written = put(&value).expect("what was read is written");
    let value = read::<T>(&written).expect("what was written is read");
    assert_eq!(put(&value).expect("written before"), written);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use openraft::{BasicNode, Membership};

    use super::*;

    fn id(term: u64, node_id: u64, index: u64) -> LogId {
        LogId { leader_id: LeaderId { term, node_id }, index }
    }

    #[test]
    fn golden_bytes_of_what_is_on_disk() {
        assert_eq!(hex(&put_log_id(&id(2, 3, 4))), "01020000000000000003000000000000000500000000000000");
        let vote = Vote { leader_id: LeaderId { term: 7, node_id: 1 }, committed: true };
        assert_eq!(hex(&put_vote(&vote)), "010700000000000000010000000000000001");
        let normal = Entry::new(id(2, 1, 9), Payload::Normal(Blob(Bytes::from_static(b"ab"))));
        let kept = put_entry(&normal).expect("encodes");
        assert_eq!((kept.index, hex(&kept.payload)), (10, "0101020000000000000001000000000000006162".into()));
        let nodes: BTreeMap<u64, BasicNode> = [(1, BasicNode { addr: "a:1".into() })].into();
        let m = Membership::new(vec![[1].into()], nodes).expect("valid");
        let kept = put_entry(&Entry::new(id(0, 0, 0), Payload::Membership(m))).expect("encodes");
        assert_eq!(
            (kept.index, hex(&kept.payload)),
            (1, "010200000000000000000000000000000000010101010103613a31".into())
        );
    }

    #[test]
    fn what_is_written_is_read_back_and_damage_is_an_error() {
        for payload in [Payload::Blank, Payload::Normal(Blob(Bytes::from_static(b"x")))] {
            let e = Entry::new(id(2, 1, 9), payload);
            assert_eq!(entry(&put_entry(&e).expect("encodes")).expect("decodes"), e);
        }
        assert_eq!(log_id(&put_log_id(&id(5, 6, 7))).expect("decodes"), Some(id(5, 6, 7)));
        assert_eq!(log_id(&[]).expect("none"), None);
        assert!(log_id(&[1, 2]).is_err());
        assert!(vote(&[9; 18]).is_err(), "another version");
        assert!(entry(&LogEntry { index: 1, payload: Bytes::from_static(&[1, 7]) }).is_err());
        assert!(read::<u64>(&[2, 0]).is_err(), "another version");
    }

    fn hex(b: &[u8]) -> String {
        b.iter().map(|b| format!("{b:02x}")).collect()
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { cases: 20_000, ..Default::default() })]

        #[test]
        fn any_bytes_are_read_or_refused(mut bytes: Vec<u8>, versioned: bool, kind in 0..4u8, index: u64) {
            if versioned && bytes.len() > 1 {
                (bytes[0], bytes[1]) = (VERSION, kind);
            }
            super::any_bytes(&bytes, index);
        }
    }
}
