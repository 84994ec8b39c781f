//! Keys, names, and arguments and results of Rust-first grains as generated code reads them.

use std::collections::BTreeMap;

use bytes::Bytes;
use millet_client::codec;
use millet_core::{GrainType, Key, KeyKind};
use serde::{Deserialize, Serialize};

use crate::bytes::Input;

/// Every form that serde has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Args {
    who: u64,
    line: String,
    votes: Vec<i64>,
    tags: BTreeMap<String, Option<u32>>,
    next: Option<Box<Args>>,
    kind: Kind,
    pair: (bool, char),
    #[serde(default)]
    unit: (),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Kind {
    Plain,
    One(i8),
    Two(u8, u16),
    With { n: u8 },
}

pub(crate) fn run(input: &[u8]) {
    let mut input = Input(input);
    match input.byte() % 4 {
        0 => names(input.rest()),
        1 => same::<Args>(input.rest()),
        2 => same::<BTreeMap<u64, Vec<(Kind, Option<String>)>>>(input.rest()),
        _ => {
            let outcome = || Ok(Bytes::copy_from_slice(input.0));
            drop(codec::decode_named_result::<Args, Kind>(outcome(), "fuzz"));
            drop(codec::decode_named_value::<Vec<Args>>(outcome(), "fuzz"));
            drop(codec::decode_message_result::<millet_proto::wire::NodeInfo>(outcome(), "fuzz"));
        }
    }
}

/// One grain has one name.
fn names(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for kind in [KeyKind::Int, KeyKind::Text] {
        if let Ok(key) = Key::parse(kind, text) {
            assert_eq!(key.to_string(), text);
            assert_eq!(key.kind(), kind);
        }
    }
    if let Ok(ty) = GrainType::new(text) {
        assert_eq!(ty.as_str(), text);
    }
}

fn same<T: Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    let Ok(value) = codec::decode_named::<T>(bytes, "fuzz") else { return };
    let again = codec::encode_named(&value, "fuzz").expect("small");
    assert_eq!(codec::decode_named::<T>(&again, "fuzz"), Ok(value));
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let args = Args {
        who: 1,
        line: "hello".into(),
        votes: vec![-1, 70_000],
        tags: [("a".into(), Some(1)), ("b".into(), None)].into(),
        next: None,
        kind: Kind::With { n: 3 },
        pair: (true, 'x'),
        unit: (),
    };
    let nested = Args { next: Some(Box::new(args.clone())), kind: Kind::Two(1, 2), ..args.clone() };
    let map = BTreeMap::from([(7u64, vec![(Kind::Plain, None), (Kind::One(-1), Some(String::from("x")))])]);
    let bytes = |which: u8, bytes: Bytes| [&[which][..], &bytes].concat();
    let encoded = |args: &Args| codec::encode_named(args, "seed").expect("small");
    vec![
        bytes(0, Bytes::from_static(b"42")),
        bytes(0, Bytes::from_static(b"anna")),
        bytes(1, encoded(&args)),
        bytes(1, encoded(&nested)),
        bytes(2, codec::encode_named(&map, "seed").expect("small")),
        bytes(3, encoded(&nested)),
    ]
}
