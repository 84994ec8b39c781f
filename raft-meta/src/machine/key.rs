//! How a lease row is named: a keyed hash of a grain's type and whole key (R31).
//!
//! The proposer computes it with the cluster's secret; the log entry carries the result.

use std::fmt;

use millet_core::{GrainId, Key};
use serde::{Deserialize, Serialize};
use siphasher::sip128::{Hasher128, SipHasher24};

/// The cluster's 16 secret bytes, drawn at `init`, kept in the log and in backups.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Secret(pub [u8; 16]);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Names one lease row: SipHash-2-4-128 of type name and whole key. Nobody without the secret can make
/// two grains share a row (R31).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct LeaseKey(pub [u8; 16]);

impl LeaseKey {
    /// The row of `grain` in the cluster with this secret: the hash of type name, 0xFF (which no name
    /// contains), a tag byte (0 integer, 1 text) and the key's bytes (integers little endian).
    pub fn of(secret: &Secret, grain: &GrainId) -> Self {
        let mut bytes = Vec::with_capacity(64);
        bytes.extend_from_slice(grain.ty.as_str().as_bytes());
        bytes.push(0xFF);
        match &grain.key {
            Key::Int(n) => {
                bytes.push(0);
                bytes.extend_from_slice(&n.to_le_bytes());
            }
            Key::Text(s) => {
                bytes.push(1);
                bytes.extend_from_slice(s.as_bytes());
            }
        }
        let mut hasher = SipHasher24::new_with_key(&secret.0);
        std::hash::Hasher::write(&mut hasher, &bytes);
        Self(hasher.finish128().as_bytes())
    }

    /// The first 10 bits: which page of the table it lives in.
    pub(super) fn page(self) -> u16 {
        u16::from_be_bytes([self.0[0], self.0[1]]) >> 6
    }
}

impl fmt::Debug for LeaseKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

#[cfg(test)]
mod tests {
    use millet_core::GrainType;

    use super::*;

    fn grain(ty: &str, key: Key) -> GrainId {
        GrainId::new(GrainType::new(ty).unwrap(), key)
    }

    /// A change of these would lose every lease in a rolling upgrade.
    #[test]
    fn r31_golden_lease_keys() {
        let secret = Secret(*b"0123456789abcdef");
        let shown: Vec<String> = [
            grain("realm.Player", Key::Int(42)),
            grain("realm.Player", Key::text("42").unwrap()),
            grain("realm.Org", Key::Int(42)),
        ]
        .iter()
        .map(|g| format!("{:?}", LeaseKey::of(&secret, g)))
        .collect();
        assert_eq!(shown, GOLDEN);
    }
    const GOLDEN: [&str; 3] = [
        "66ad30b62b7894e02c2242b812cf0fce",
        "88f523f778b64a3fcee3ee70162a31a1",
        "2d7bd531e9dcb079935bfff46f529e4f",
    ];

    /// Two clusters give the same grain different rows: collisions cannot be prepared elsewhere.
    #[test]
    fn r31_the_row_depends_on_the_secret() {
        let g = grain("realm.Player", Key::Int(42));
        assert_ne!(LeaseKey::of(&Secret([1; 16]), &g), LeaseKey::of(&Secret([2; 16]), &g));
    }
}
