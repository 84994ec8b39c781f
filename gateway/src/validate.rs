//! Checks encoded protobuf against its descriptor without building anything, so that malformed arguments
//! are refused at the edge with the path of the field.

use prost_reflect::{Cardinality, FieldDescriptor, Kind, MessageDescriptor};

/// Messages inside messages; prost's own limit.
const DEPTH: usize = 100;

/// What is wrong, and where.
#[derive(Debug, PartialEq)]
pub(crate) struct Malformed {
    path: Vec<String>,
    why: String,
}

impl Malformed {
    fn new(why: impl Into<String>) -> Self {
        Self { path: Vec::new(), why: why.into() }
    }
    fn within(mut self, field: &FieldDescriptor) -> Self {
        self.path.push(field.name().to_owned());
        self
    }
}

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.path.is_empty() {
            return f.write_str(&self.why);
        }
        let path: Vec<&str> = self.path.iter().rev().map(String::as_str).collect();
        write!(f, "field {}: {}", path.join("."), self.why)
    }
}

/// Whether `bytes` are a message of this type.
pub(crate) fn check(message: &MessageDescriptor, bytes: &[u8]) -> Result<(), Malformed> {
    walk(message, bytes, DEPTH)
}

fn walk(message: &MessageDescriptor, bytes: &[u8], depth: usize) -> Result<(), Malformed> {
    if depth == 0 {
        return Err(Malformed::new(format!("messages are nested more than {DEPTH} deep")));
    }
    let mut rest = Cursor(bytes);
    while !rest.0.is_empty() {
        let (number, wire) = rest.tag()?;
        match message.get_field(number) {
            Some(field) => known(&field, wire, &mut rest, depth).map_err(|e| e.within(&field))?,
            None => rest.skip(number, wire, depth)?,
        }
    }
    Ok(())
}

fn known(field: &FieldDescriptor, wire: Wire, rest: &mut Cursor<'_>, depth: usize) -> Result<(), Malformed> {
    let kind = field.kind();
    let wanted = wire_of(&kind);
    let packed =
        field.cardinality() == Cardinality::Repeated && wanted != Wire::Bytes && wanted != Wire::Group;
    match (kind, wire) {
        (Kind::String, Wire::Bytes) => match std::str::from_utf8(rest.bytes()?) {
            Ok(_) => Ok(()),
            Err(e) => Err(Malformed::new(format!("not UTF-8 at byte {}", e.valid_up_to()))),
        },
        (Kind::Bytes, Wire::Bytes) => rest.bytes().map(drop),
        (Kind::Message(inner), Wire::Bytes) if wanted == Wire::Bytes => {
            walk(&inner, rest.bytes()?, depth - 1)
        }
        (_, Wire::Bytes) if packed => {
            let mut items = Cursor(rest.bytes()?);
            while !items.0.is_empty() {
                items.skip(0, wanted, depth)?;
            }
            Ok(())
        }
        (_, wire) if wire == wanted => rest.skip(field.number(), wire, depth),
        (_, wire) => Err(Malformed::new(format!("wire type {wire:?} where {wanted:?} is expected"))),
    }
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Wire {
    Varint,
    Fixed64,
    Bytes,
    Group,
    EndGroup,
    Fixed32,
}

fn wire_of(kind: &Kind) -> Wire {
    match kind {
        Kind::Double | Kind::Fixed64 | Kind::Sfixed64 => Wire::Fixed64,
        Kind::Float | Kind::Fixed32 | Kind::Sfixed32 => Wire::Fixed32,
        Kind::Int32
        | Kind::Int64
        | Kind::Uint32
        | Kind::Uint64
        | Kind::Sint32
        | Kind::Sint64
        | Kind::Bool
        | Kind::Enum(_) => Wire::Varint,
        Kind::String | Kind::Bytes | Kind::Message(_) => Wire::Bytes,
    }
}

/// What is left to read.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], Malformed> {
        let Some((taken, rest)) = self.0.split_at_checked(n) else {
            return Err(Malformed::new(format!("{n} bytes are announced, {} are there", self.0.len())));
        };
        self.0 = rest;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let Some((&byte, rest)) = self.0.split_first() else {
                return Err(Malformed::new("a number is cut short"));
            };
            self.0 = rest;
            if shift == 63 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed::new("a number of more than 64 bits"))
    }

    fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let n = self.varint()?;
        self.take(usize::try_from(n).unwrap_or(usize::MAX))
    }

    fn tag(&mut self) -> Result<(u32, Wire), Malformed> {
        let tag = self.varint()?;
        let wire = match tag & 7 {
            0 => Wire::Varint,
            1 => Wire::Fixed64,
            2 => Wire::Bytes,
            3 => Wire::Group,
            4 => Wire::EndGroup,
            5 => Wire::Fixed32,
            other => return Err(Malformed::new(format!("wire type {other} does not exist"))),
        };
        match u32::try_from(tag >> 3) {
            Ok(number @ 1..=0x1fff_ffff) => Ok((number, wire)),
            _ => Err(Malformed::new(format!("field number {} does not exist", tag >> 3))),
        }
    }

    /// Passes over one value.
    fn skip(&mut self, number: u32, wire: Wire, depth: usize) -> Result<(), Malformed> {
        match wire {
            Wire::Varint => self.varint().map(drop),
            Wire::Fixed64 => self.take(8).map(drop),
            Wire::Bytes => self.bytes().map(drop),
            Wire::Fixed32 => self.take(4).map(drop),
            Wire::EndGroup => Err(Malformed::new(format!("group {number} ends without a start"))),
            Wire::Group if depth == 0 => {
                Err(Malformed::new(format!("groups are nested more than {DEPTH} deep")))
            }
            Wire::Group => loop {
                match self.tag()? {
                    (n, Wire::EndGroup) if n == number => return Ok(()),
                    (n, wire) => self.skip(n, wire, depth - 1)?,
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> MessageDescriptor {
        crate::json::tests::arena().get_message_by_name("arena.StrikeRequest").expect("in the set")
    }
    fn refused(bytes: &[u8]) -> String {
        check(&message(), bytes).expect_err("malformed").to_string()
    }

    #[test]
    fn a_malformed_field_is_named_by_its_path() {
        // spot (4): a message of 2 bytes; in it x (1) as fixed32, cut short.
        assert_eq!(refused(&[0x22, 2, 0x0d, 1]), "field spot.x: wire type Fixed32 where Varint is expected");
        assert_eq!(refused(&[0x12, 5, 1]), "field seal: 5 bytes are announced, 1 are there");
        assert_eq!(refused(&[0x1a, 2, b'a', 0xff]), "field at: not UTF-8 at byte 1");
        assert_eq!(refused(&[0x08, 0xff]), "field force: a number is cut short");
        assert_eq!(
            refused(&[0x08, 255, 255, 255, 255, 255, 255, 255, 255, 255, 2]),
            "field force: a number of more than 64 bits"
        );
        assert_eq!(refused(&[0x2a, 3, 0x0a, 1, 0xfe]), "field runes.key: not UTF-8 at byte 0");
    }

    #[test]
    fn nonsense_is_refused_and_unknown_fields_are_not() {
        assert_eq!(refused(&[0x07]), "wire type 7 does not exist");
        assert_eq!(refused(&[0x00]), "field number 0 does not exist");
        assert_eq!(refused(&[0x0c]), "field force: wire type EndGroup where Varint is expected");
        // Field 15: a varint; field 16: a group with a field in it; both unknown.
        assert_eq!(check(&message(), &[0x78, 1, 0x83, 0x01, 0x08, 7, 0x84, 0x01]), Ok(()));
    }

    /// 200,000 nested groups end at the depth limit, not in the stack.
    #[test]
    fn deep_nesting_ends_at_the_limit() {
        assert!(refused(&[0x7b].repeat(200_000)).contains("nested more than 100 deep"));
    }

    /// `arena.StrikeRequest` as prost reads it.
    mod prosts {
        use std::collections::HashMap;

        #[derive(Clone, PartialEq, prost::Message)]
        pub(super) struct Strike {
            #[prost(int64, tag = "1")]
            force: i64,
            #[prost(bytes = "vec", tag = "2")]
            seal: Vec<u8>,
            #[prost(oneof = "Aim", tags = "3, 4")]
            aim: Option<Aim>,
            #[prost(map = "string, int32", tag = "5")]
            runes: HashMap<String, i32>,
            #[prost(int32, tag = "6")]
            stance: i32,
            #[prost(message, repeated, tag = "7")]
            path: Vec<Point>,
        }
        #[derive(Clone, PartialEq, prost::Oneof)]
        pub(super) enum Aim {
            #[prost(string, tag = "3")]
            At(String),
            #[prost(message, tag = "4")]
            Spot(Point),
        }
        #[derive(Clone, PartialEq, prost::Message)]
        pub(super) struct Point {
            #[prost(sint32, tag = "1")]
            x: i32,
            #[prost(sint32, tag = "2")]
            y: i32,
        }
    }

    /// Whatever prost reads is accepted here, and the other way round: the check never refuses a call
    /// that the grain would have understood, and lets none through that it would not.
    #[test]
    fn agrees_with_prost_on_mutations_of_a_good_message() {
        use prost::Message as _;
        let good = crate::json::tests::strike_bytes();
        let ty = message();
        assert_eq!(check(&ty, &good), Ok(()));
        let (mut good_ones, mut bad_ones) = (0, 0);
        for at in 0..good.len() {
            for flip in 1..=255u8 {
                let mut bytes = good.clone();
                bytes[at] ^= flip;
                let prost = prosts::Strike::decode(&bytes[..]);
                let ours = check(&ty, &bytes);
                // The one difference: prost reads a map whatever its wire type says.
                let map = ours.as_ref().is_err_and(|e| e.path == ["runes"] && e.why.starts_with("wire type"));
                if map && at == 21 {
                    continue;
                }
                assert_eq!(ours.is_ok(), prost.is_ok(), "byte {at} ^ {flip:#x}: {ours:?}, {prost:?}");
                if ours.is_ok() { good_ones += 1 } else { bad_ones += 1 }
            }
        }
        assert!(good_ones > 100 && bad_ones > 100, "{good_ones} {bad_ones}");
    }
}
