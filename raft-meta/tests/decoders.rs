//! What the log, snapshots and other members hand us, from any bytes: read or refused, never a panic, and
//! no memory that the bytes do not pay for.

use millet_core::store::StoreError;
use millet_raft_meta::{
    machine::{Command, Machine, Reply},
    state::{StateCommand, StateReply},
};
use proptest::prelude::*;

/// The version byte, then postcard's small numbers and lengths that lie.
fn postcard() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        4 => (0..12u8).prop_map(|n| vec![n]),
        1 => any::<u8>().prop_map(|n| vec![n]),
        1 => Just(vec![255, 255, 255, 255, 15]),
        1 => Just(vec![255, 255, 255, 255, 255, 255, 255, 255, 255, 1]),
        1 => "[a-z.]{1,8}".prop_map(|s| [vec![s.len() as u8], s.into_bytes()].concat()),
        1 => any::<[u8; 16]>().prop_map(|n| n.to_vec()),
    ];
    let body = prop::collection::vec(part, 0..24).prop_map(|parts| parts.concat());
    (prop_oneof![8 => Just(1u8), 1 => any::<u8>()], body)
        .prop_map(|(version, body)| [vec![version], body].concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn commands_of_the_meta_group(bytes in postcard()) {
        if let Ok(command) = Command::decode(&bytes) {
            prop_assert_eq!(Command::decode(&command.encode()).ok(), Some(command));
        }
        if let Ok(reply) = Reply::decode(&bytes) {
            prop_assert_eq!(Reply::decode(&reply.encode()).ok(), Some(reply));
        }
    }

    #[test]
    fn commands_of_the_state_group(bytes in postcard()) {
        if let Ok(command) = StateCommand::decode(&bytes) {
            prop_assert_eq!(StateCommand::decode(&command.encode()).ok(), Some(command));
        }
        if let Ok(reply) = StateReply::decode(&bytes) {
            prop_assert_eq!(StateReply::decode(&reply.encode()).ok(), Some(reply));
        }
    }

    #[test]
    fn snapshots_of_the_meta_group(mut bytes in postcard(), len: u32, from_new: bool, at: prop::sample::Index, byte: u8) {
        // Half of them are an empty machine's with one byte changed.
        if from_new {
            bytes.clear();
            Machine::default().write_to(&mut bytes).expect("a Vec takes everything");
            let at = at.index(bytes.len());
            let changed = bytes[at] != byte;
            bytes[at] = byte;
            prop_assert_eq!(Machine::read_from(&mut &*bytes).is_err(), changed);
        } else {
            let head = [b"MLtM".to_vec(), vec![1], (len >> (len % 32)).to_le_bytes().to_vec(), bytes].concat();
            prop_assert!(Machine::read_from(&mut &*head).is_err());
        }
    }
}

/// Found by the property above: every way through the log put another "outcome unknown" in front.
#[test]
fn an_unknown_outcome_says_so_once() {
    let reply = StateReply(vec![Err(StoreError::Unknown("no answer".into()))]);
    assert_eq!(StateReply::decode(&reply.encode()).ok(), Some(reply));
}
