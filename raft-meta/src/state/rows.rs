//! How grain state lies in the engine: keys and the forms of values. Keys hold the whole grain key, so no
//! two grains share a row.
//!
//! | key | value |
//! |---|---|
//! | `g` type | the type's generation floor |
//! | `h` type, slot, key | a row's head: floor, session, version, writer |
//! | `m` name | the machine's own: oldest session, sweep position, the generation floor of all types |
//! | `s` type, shard | a shard's floor |
//! | `v` type, slot, key | a row's value, apart, so that raising a floor does not rewrite it |

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use millet_core::{Epoch, GrainId, GrainType, Grant, Key, SessionId, ShardId, store::Version};

/// Version of every value's form.
const VERSION: u8 = 1;
/// Longest name of a slot; more is `TooLarge`.
pub(super) const SLOT_BYTES: usize = 128;

/// Where heads begin, and where they end.
pub(super) const HEADS: (&[u8], &[u8]) = (b"h", b"i");
/// The oldest session that lives.
pub(super) const OLDEST: &[u8] = b"m oldest";
/// The generation floor of all types, also of those without a row: above everything that the cluster a
/// recovery came from can have granted (R16).
pub(super) const GENERATION: &[u8] = b"m generation";
/// Where the next sweep goes on.
pub(super) const SWEEP: &[u8] = b"m sweep";

/// A row's head.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Head {
    pub floor: Epoch,
    /// The session that raised the floor last.
    pub session: SessionId,
    pub version: Version,
    /// Token of the write that made `version`.
    pub writer: Epoch,
    pub has_value: bool,
}

/// Keys of a grain's state: head and value.
pub(super) fn row_keys(grain: &GrainId, slot: &str) -> (Bytes, Bytes) {
    let mut k = BytesMut::with_capacity(64);
    k.put_u8(b'h');
    k.put_u64(grain.ty.id());
    k.put_u8(u8::try_from(slot.len()).expect("slots are checked against their limit"));
    k.put_slice(slot.as_bytes());
    match &grain.key {
        Key::Int(n) => {
            k.put_u8(0);
            k.put_u64(*n);
        }
        Key::Text(text) => {
            k.put_u8(1);
            k.put_slice(text.as_bytes());
        }
    }
    let head = k.clone().freeze();
    (head, value_key(k))
}

/// The value's key of a head's key.
pub(super) fn value_key(head: impl Into<BytesMut>) -> Bytes {
    let mut k = head.into();
    k[0] = b'v';
    k.freeze()
}

pub(super) fn generation_key(ty: &GrainType) -> Bytes {
    let mut k = BytesMut::with_capacity(9);
    k.put_u8(b'g');
    k.put_u64(ty.id());
    k.freeze()
}

pub(super) fn shard_key(ty: &GrainType, shard: ShardId) -> Bytes {
    let mut k = BytesMut::with_capacity(13);
    k.put_u8(b's');
    k.put_u64(ty.id());
    k.put_u32(shard.0);
    k.freeze()
}

impl Head {
    pub fn encode(&self) -> Bytes {
        let mut b = BytesMut::with_capacity(50);
        b.put_u8(VERSION);
        put_epoch(&mut b, self.floor);
        b.put_u64(self.session.0);
        b.put_u64(self.version.0);
        put_epoch(&mut b, self.writer);
        b.put_u8(u8::from(self.has_value));
        b.freeze()
    }

    pub fn decode(bytes: &[u8]) -> io::Result<Self> {
        let mut b = versioned(bytes, 50)?;
        Ok(Self {
            floor: epoch(&mut b),
            session: SessionId(b.get_u64()),
            version: Version(b.get_u64()),
            writer: epoch(&mut b),
            has_value: b.get_u8() != 0,
        })
    }
}

pub(super) fn encode_grant(grant: Grant) -> Bytes {
    let mut b = BytesMut::with_capacity(13);
    b.put_u8(VERSION);
    b.put_u32(grant.generation);
    b.put_u64(grant.index);
    b.freeze()
}

pub(super) fn decode_grant(bytes: &[u8]) -> io::Result<Grant> {
    let mut b = versioned(bytes, 13)?;
    Ok(Grant { generation: b.get_u32(), index: b.get_u64() })
}

pub(super) fn encode_u64(n: u64) -> Bytes {
    let mut b = BytesMut::with_capacity(9);
    b.put_u8(VERSION);
    b.put_u64(n);
    b.freeze()
}

pub(super) fn decode_u64(bytes: &[u8]) -> io::Result<u64> {
    Ok(versioned(bytes, 9)?.get_u64())
}

fn put_epoch(b: &mut BytesMut, e: Epoch) {
    b.put_u32(e.grant.generation);
    b.put_u64(e.grant.index);
    b.put_u32(e.activation);
}

fn epoch(b: &mut &[u8]) -> Epoch {
    Epoch { grant: Grant { generation: b.get_u32(), index: b.get_u64() }, activation: b.get_u32() }
}

/// The bytes after the version byte, if all is as this release writes it.
fn versioned(bytes: &[u8], len: usize) -> io::Result<&[u8]> {
    match bytes.split_first() {
        Some((&VERSION, rest)) if bytes.len() == len => Ok(rest),
        _ => {
            let why = "a row of the state engine is unreadable: it is damaged, or of a later release; stop this member, remove its state engine's folder and start it again";
            Err(io::Error::new(io::ErrorKind::InvalidData, why))
        }
    }
}

/// Reads any bytes as every kind of row: refused, or the same again.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn any_bytes(bytes: &[u8]) {
    if let Ok(head) = Head::decode(bytes) {
        assert_eq!(Head::decode(&head.encode()).ok(), Some(head));
    }
    if let Ok(grant) = decode_grant(bytes) {
        assert_eq!(encode_grant(grant)[..], *bytes);
    }
    if let Ok(n) = decode_u64(bytes) {
        assert_eq!(encode_u64(n)[..], *bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grain(key: impl Into<Key>) -> GrainId {
        GrainId::new(GrainType::new("realm.Player").unwrap(), key)
    }

    /// Rows outlive releases.
    #[test]
    fn golden_bytes() {
        let hex = |b: &[u8]| b.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let e = |index| Epoch { grant: Grant { generation: 1, index }, activation: 2 };
        let head =
            Head { floor: e(9), session: SessionId(8), version: Version(7), writer: e(5), has_value: true };
        assert_eq!(
            hex(&head.encode()),
            concat!(
                "01",
                "00000001",
                "0000000000000009",
                "00000002",
                "0000000000000008",
                "0000000000000007",
                "00000001",
                "0000000000000005",
                "00000002",
                "01"
            )
        );
        assert_eq!(Head::decode(&head.encode()).unwrap(), head);
        let (head, value) = row_keys(&grain(42), "ab");
        assert_eq!(hex(&head), concat!("68", "27d3b7b6656742e4", "02", "6162", "00", "000000000000002a"));
        assert_eq!(hex(&value), concat!("76", "27d3b7b6656742e4", "02", "6162", "00", "000000000000002a"));
        assert_eq!(value_key(BytesMut::from(&head[..])), value);
        assert_eq!(hex(&shard_key(&grain(1).ty, ShardId(3))), concat!("73", "27d3b7b6656742e4", "00000003"));
        assert_eq!(hex(&generation_key(&grain(1).ty)), concat!("67", "27d3b7b6656742e4"));
        assert_eq!(hex(&encode_grant(e(9).grant)), concat!("01", "00000001", "0000000000000009"));
    }

    #[test]
    fn no_two_grains_or_slots_share_a_key() {
        let text = |s: &str| grain(Key::text(s).unwrap());
        let rows =
            [(grain(1), "a"), (grain(1), "ab"), (text("b1"), "a"), (text("1"), "ab"), (text("1"), "a")];
        let keys: std::collections::BTreeSet<Bytes> = rows.iter().map(|(g, s)| row_keys(g, s).0).collect();
        assert_eq!(keys.len(), rows.len());
    }

    #[test]
    fn a_row_of_another_version_is_an_error() {
        let mut head = Head::default().encode().to_vec();
        head[0] = 2;
        assert!(Head::decode(&head).is_err());
        assert!(Head::decode(&[]).is_err());
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { cases: 20_000, ..Default::default() })]

        #[test]
        fn any_bytes_are_a_row_or_an_error(mut bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..60), versioned: bool) {
            if let Some(first) = bytes.first_mut().filter(|_| versioned) {
                *first = VERSION;
            }
            super::any_bytes(&bytes);
        }
    }
}
