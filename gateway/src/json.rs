//! JSON to arguments and results to JSON: the proto3 mapping for contract-first interfaces, plain objects
//! for Rust-first ones (MessagePack with named fields).

use std::fmt;

use base64::Engine as _;
use bytes::Bytes;
use millet_core::{AppError, ErrorKind};
use prost_reflect::{DynamicMessage, MessageDescriptor, SerializeOptions, prost::Message as _};
use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value};

use crate::interfaces::{Method, Types};

impl Method {
    /// Arguments from a JSON object; empty text is an object without fields.
    ///
    /// # Errors
    /// `BadArgument` that names the field.
    pub(crate) fn args_from_json(&self, json: &str) -> Result<Bytes, ErrorKind> {
        let json = if json.trim().is_empty() { "{}" } else { json };
        let bad = |why: String| ErrorKind::BadArgument { why: format!("{}: {why}", self.info.name) };
        match &self.types {
            Types::Protobuf { input, .. } => message_from_json(input, json).map_err(bad),
            Types::Named(fields) => named_from_json(fields, json).map_err(bad),
        }
    }

    /// A result as JSON.
    ///
    /// # Errors
    /// `Unknown`: the turn ran, but its result is not what the interface says.
    pub(crate) fn result_to_json(&self, result: &[u8]) -> Result<String, ErrorKind> {
        let json = match &self.types {
            Types::Protobuf { output, .. } => message_to_json(output, result),
            Types::Named(_) => named_to_json(result).map(|v| v.to_string()),
        };
        json.map_err(|why| ErrorKind::Unknown {
            why: format!("{}: the result cannot be read: {why}", self.info.name),
        })
    }
}

/// An application's error as JSON.
pub(crate) fn error_to_json(error: &AppError) -> Value {
    match error {
        AppError::Refusal(r) => {
            let details = base64::prelude::BASE64_STANDARD.encode(&r.details);
            serde_json::json!({ "code": r.code, "message": r.message, "details": details })
        }
        AppError::Encoded(bytes) => named_to_json(bytes)
            .unwrap_or_else(|e| Value::String(format!("an error that cannot be read: {e}"))),
    }
}

fn message_from_json(ty: &MessageDescriptor, json: &str) -> Result<Bytes, String> {
    let mut input = serde_json::Deserializer::from_str(json);
    let message = DynamicMessage::deserialize(ty.clone(), &mut input).map_err(|e| locate(ty, json, &e))?;
    input.end().map_err(|e| e.to_string())?;
    Ok(message.encode_to_vec().into())
}

/// The error with its path: only failures pay for finding it.
fn locate(ty: &MessageDescriptor, json: &str, plain: &serde_json::Error) -> String {
    let mut input = serde_json::Deserializer::from_str(json);
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(&mut input, &mut track);
    let failed = DynamicMessage::deserialize(ty.clone(), tracked).is_err();
    let path = track.path();
    if failed && path.iter().len() > 0 { format!("field {path}: {plain}") } else { plain.to_string() }
}

/// Fields with default values are written too: `{}` would tell a reader nothing.
fn message_to_json(ty: &MessageDescriptor, bytes: &[u8]) -> Result<String, String> {
    let message = DynamicMessage::decode(ty.clone(), bytes).map_err(|e| e.to_string())?;
    let mut out = serde_json::Serializer::new(Vec::new());
    let options = SerializeOptions::new().skip_default_fields(false);
    message.serialize_with_options(&mut out, &options).map_err(|e| e.to_string())?;
    String::from_utf8(out.into_inner()).map_err(|e| e.to_string())
}

fn named_from_json(fields: &[&str], json: &str) -> Result<Bytes, String> {
    let value: Map<String, Value> = serde_json::from_str(json)
        .map_err(|e| format!("arguments are one JSON object with named fields: {e}"))?;
    if let Some(unknown) = value.keys().find(|k| !fields.contains(&k.as_str())) {
        let known = if fields.is_empty() { "none".to_owned() } else { fields.join(", ") };
        return Err(format!("unknown field {unknown:?}; known: {known}"));
    }
    rmp_serde::to_vec_named(&value).map(Into::into).map_err(|e| e.to_string())
}

fn named_to_json(bytes: &[u8]) -> Result<Value, String> {
    rmp_serde::from_slice::<Tree>(bytes).map(|t| t.0).map_err(|e| e.to_string())
}

/// A JSON value read from MessagePack, which has more: bytes become base64, map keys become text.
struct Tree(Value);

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }
    fn visit_bool<E>(self, v: bool) -> Result<Tree, E> {
        Ok(Tree(v.into()))
    }
    fn visit_i64<E>(self, v: i64) -> Result<Tree, E> {
        Ok(Tree(v.into()))
    }
    fn visit_u64<E>(self, v: u64) -> Result<Tree, E> {
        Ok(Tree(v.into()))
    }
    fn visit_f64<E>(self, v: f64) -> Result<Tree, E> {
        // As proto3-JSON does it: what JSON has no number for is text.
        Ok(Tree(serde_json::Number::from_f64(v).map_or_else(|| v.to_string().into(), Value::Number)))
    }
    fn visit_str<E>(self, v: &str) -> Result<Tree, E> {
        Ok(Tree(v.into()))
    }
    fn visit_bytes<E>(self, v: &[u8]) -> Result<Tree, E> {
        Ok(Tree(base64::prelude::BASE64_STANDARD.encode(v).into()))
    }
    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree(Value::Null))
    }
    fn visit_none<E>(self) -> Result<Tree, E> {
        Ok(Tree(Value::Null))
    }
    fn visit_some<D: Deserializer<'de>>(self, d: D) -> Result<Tree, D::Error> {
        d.deserialize_any(self)
    }
    fn visit_newtype_struct<D: Deserializer<'de>>(self, d: D) -> Result<Tree, D::Error> {
        d.deserialize_any(self)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Tree, A::Error> {
        let mut items = Vec::new();
        while let Some(Tree(v)) = seq.next_element()? {
            items.push(v);
        }
        Ok(Tree(items.into()))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
        let mut fields = Map::new();
        while let Some((Tree(k), Tree(v))) = map.next_entry()? {
            let key = match k {
                Value::String(s) => s,
                Value::Null | Value::Bool(_) | Value::Number(_) => k.to_string(),
                // As text it would be twice as long with every map around it: gigabytes from a few bytes.
                Value::Array(_) | Value::Object(_) => {
                    return Err(de::Error::custom("a key that is a list or a map has no form in JSON"));
                }
            };
            fields.insert(key, v);
        }
        Ok(Tree(fields.into()))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use millet_core::{MethodId, MethodInfo};
    use prost_reflect::DescriptorPool;

    use super::*;

    /// The contract that stub-gen's golden file is made from.
    pub(crate) fn arena() -> DescriptorPool {
        let bytes = include_bytes!("../../stub-gen/tests/golden/arena.descriptors.bin");
        DescriptorPool::decode(&bytes[..]).expect("a descriptor set")
    }

    fn method(types: Types) -> Method {
        Method {
            info: MethodInfo { name: "Strike", id: MethodId::of("Strike"), shared: false, idempotent: false },
            types,
        }
    }
    fn echo() -> Method {
        let ty = arena().get_message_by_name("arena.StrikeRequest").expect("in the set");
        method(Types::Protobuf { input: ty.clone(), output: ty })
    }

    const FULL: &str = r#"{"force":"-9007199254740993","seal":"AP8=","spot":{"x":-1,"y":2},"runes":{"ur":3},"stance":"STANCE_LOW","path":[{"x":1,"y":0}]}"#;

    pub(crate) fn strike_bytes() -> Vec<u8> {
        echo().args_from_json(FULL).expect("good").to_vec()
    }

    /// int64 as text, bytes as base64, oneof, map, enum by name, nested and repeated messages.
    #[test]
    fn the_proto3_mapping_goes_both_ways() {
        let m = echo();
        for (json, wanted) in [
            (FULL, FULL),
            (
                r#"{"force": 5}"#,
                r#"{"force":"5","seal":"","runes":{},"stance":"STANCE_UNSPECIFIED","path":[]}"#,
            ),
            (
                r#"{"at":"x","stance":1}"#,
                r#"{"force":"0","seal":"","at":"x","runes":{},"stance":"STANCE_LOW","path":[]}"#,
            ),
            ("", r#"{"force":"0","seal":"","runes":{},"stance":"STANCE_UNSPECIFIED","path":[]}"#),
        ] {
            let bytes = m.args_from_json(json).unwrap_or_else(|e| panic!("{json}: {e}"));
            let back: Value =
                serde_json::from_str(&m.result_to_json(&bytes).expect("readable")).expect("json");
            assert_eq!(back, serde_json::from_str::<Value>(wanted).expect("json"), "{json}");
        }
    }

    #[test]
    fn wrong_json_is_refused_with_the_name_of_the_field() {
        let m = echo();
        for (json, named) in [
            (r#"{"forse": 1}"#, "forse"),
            (r#"{"spot": {"z": 1}}"#, "z"),
            (r#"{"at": "x", "spot": {}}"#, "aim"),
            (r#"{"force": "many"}"#, "field force:"),
            (r#"{"path": [{"x": 1}, {"x": "a"}]}"#, "field path[1].x:"),
            (r#"{"stance": "STANCE_SIDEWAYS"}"#, "STANCE_SIDEWAYS"),
            (r#"{"force": 1} x"#, "trailing"),
            ("[1]", "Strike"),
        ] {
            let error = m.args_from_json(json).expect_err(json);
            assert!(
                matches!(error, ErrorKind::BadArgument { .. }) && error.to_string().contains(named),
                "{json}: {error}"
            );
        }
    }

    #[test]
    fn named_arguments_are_objects_whose_fields_are_known() {
        #[derive(serde::Deserialize)]
        struct Seen {
            who: u64,
            score: i64,
            note: Option<String>,
        }
        let m = method(Types::Named(&["who", "score", "note"]));
        let bytes =
            m.args_from_json(r#"{"who": 18446744073709551615, "score": -3, "note": null}"#).expect("good");
        let seen: Seen = rmp_serde::from_slice(&bytes).expect("named fields");
        assert_eq!((seen.who, seen.score, seen.note), (u64::MAX, -3, None));
        let error = m.args_from_json(r#"{"scor": 3}"#).expect_err("a typing error").to_string();
        assert!(error.contains("unknown field \"scor\"; known: who, score, note"), "{error}");
        assert!(m.args_from_json("[7]").expect_err("no object").to_string().contains("one JSON object"));
    }

    /// MessagePack says more than JSON: integer map keys, bytes, numbers that are none.
    #[test]
    fn named_results_become_json_without_loss_of_meaning() {
        #[derive(serde::Serialize)]
        enum Kind {
            Plain,
            With { n: u8 },
        }
        let value = (
            BTreeMap::from([(7u64, "seven")]),
            f64::NAN,
            1.5f32,
            Option::<u8>::None,
            Kind::Plain,
            Kind::With { n: 1 },
        );
        let bytes = rmp_serde::to_vec_named(&value).expect("encoded");
        let json = method(Types::Named(&[])).result_to_json(&bytes).expect("readable");
        assert_eq!(json, r#"[{"7":"seven"},"NaN",1.5,null,"Plain",{"With":{"n":1}}]"#);
        assert_eq!(named_to_json(&[0xc4, 2, 0, 255]), Ok("AP8=".into()));
    }

    /// Found by the fuzz target `gateway`: 275 bytes took 33 MB, 20 more a thousand times that.
    #[test]
    fn a_map_with_maps_as_keys_is_refused_and_takes_no_memory() {
        for head in [&[0x81][..], &[0x91]] {
            let bytes = [[0x81].repeat(300), head.to_vec(), vec![0xa1, b'"'], vec![0xc0; 400]].concat();
            let error = named_to_json(&bytes).expect_err("no JSON has such keys");
            assert!(error.contains("a key that is a list or a map"), "{error}");
        }
    }

    /// What a deep result costs is the stack of a thread of ours.
    #[test]
    fn a_result_nested_too_deep_is_refused() {
        let read = |bytes: Vec<u8>| std::thread::spawn(move || named_to_json(&bytes).map(|v| v.to_string()));
        for bytes in [[0x91].repeat(100_000), [0x81, 0xa1, b'k'].repeat(100_000)] {
            assert!(read(bytes).join().expect("the stack lasts").is_err());
        }
        let fits = [[0x91].repeat(100), vec![0xc0]].concat();
        assert!(read(fits).join().expect("the stack lasts").is_ok());
    }

    #[test]
    fn a_result_that_is_none_is_unknown_because_the_turn_ran() {
        let error = echo().result_to_json(&[0x12, 9]).expect_err("cut short");
        assert!(matches!(error, ErrorKind::Unknown { .. }));
    }

    #[test]
    fn application_errors_become_json() {
        let refusal =
            AppError::Refusal(millet_core::Refusal { code: 9, message: "closed".into(), details: vec![0] });
        assert_eq!(error_to_json(&refusal).to_string(), r#"{"code":9,"details":"AA==","message":"closed"}"#);
        let own = AppError::Encoded(
            rmp_serde::to_vec_named(&BTreeMap::from([("best", 3)])).expect("encoded").into(),
        );
        assert_eq!(error_to_json(&own).to_string(), r#"{"best":3}"#);
    }
}
