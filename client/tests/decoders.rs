//! MessagePack arguments and results from whatever bytes: an error or a value that is the same again,
//! never a panic, and no memory that the bytes do not pay for.

use std::collections::BTreeMap;

use bytes::Bytes;
use millet_client::codec;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Args {
    who: u64,
    line: String,
    votes: Vec<i64>,
    tags: BTreeMap<String, Option<f32>>,
    next: Option<Box<Args>>,
    kind: Kind,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Kind {
    Plain,
    With { n: u8 },
}

/// Markers of every MessagePack form, with lengths that lie.
fn msgpack() -> impl Strategy<Value = Vec<u8>> {
    let name =
        prop::sample::select(vec!["who", "line", "votes", "tags", "next", "kind", "Plain", "With", "n"]);
    let part = prop_oneof![
        3 => name.prop_map(|n| [vec![0xa0 | n.len() as u8], n.as_bytes().to_vec()].concat()),
        1 => (0xc0..=0xdfu8, any::<[u8; 4]>()).prop_map(|(m, n)| [vec![m], n.to_vec()].concat()),
        2 => (0x80..0xa0u8).prop_map(|m| vec![m]),
        2 => any::<u8>().prop_map(|n| vec![n]),
    ];
    prop::collection::vec(part, 0..20).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, ..ProptestConfig::default() })]

    #[test]
    fn arguments_are_read_or_refused(bytes in msgpack()) {
        if let Ok(args) = codec::decode_named::<Args>(&bytes, "test") {
            let again = codec::encode_named(&args, "test").expect("small");
            prop_assert_eq!(codec::decode_named::<Args>(&again, "test"), Ok(args));
        }
        drop(codec::decode_named_result::<Args, Kind>(Ok(Bytes::from(bytes)), "test"));
    }
}

#[test]
fn announced_lengths_are_not_believed_and_nesting_has_a_limit() {
    for bytes in [
        vec![0xdd, 255, 255, 255, 255],
        vec![0xdf, 255, 255, 255, 255],
        vec![0xdb, 255, 255, 255, 255],
        vec![0xc6, 255, 255, 255, 255],
        [0x91].repeat(1_000_000),
        [0x81, 0xa4, b'n', b'e', b'x', b't'].repeat(200_000),
    ] {
        assert!(codec::decode_named::<Args>(&bytes, "test").is_err());
        assert!(codec::decode_named::<Vec<Args>>(&bytes, "test").is_err());
    }
}
