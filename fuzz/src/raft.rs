//! What the Raft adapter keeps and sends: entries, log ids, votes, messages between members, rows and the
//! mark of the state engine. These decoders are private to their crate.

use millet_raft_meta::fuzzing;

use crate::bytes::{Input, hex};

pub(crate) fn run(input: &[u8]) {
    let mut input = Input(input);
    if input.byte() & 1 == 0 {
        let index = input.number();
        fuzzing::raft(input.rest(), index);
    } else {
        fuzzing::rows(input.rest());
    }
}

/// The golden bytes of `raft/codec.rs` and `state/rows.rs`, and hand-made messages.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let raft = [
        "01020000000000000003000000000000000500000000000000",
        "010700000000000000010000000000000001",
        "0101020000000000000001000000000000006162",
        "010200000000000000000000000000000000010101010103613a31",
        // A vote request; an append of one entry.
        "0100070101000101020305",
        "010701010102010304000101020103040501026162",
    ];
    let rows = [
        "0100000001000000000000000900000002000000000000000800000000000000070000000100000000000000050000000201",
        "01000000010000000000000009",
        "010000000000000009",
        "01000000000000000700000002abcd0102",
    ];
    let raft = raft.iter().map(|h| [vec![0, 10], hex(h)].concat());
    raft.chain(rows.iter().map(|h| [vec![1], hex(h)].concat())).collect()
}
