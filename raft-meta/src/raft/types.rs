//! openraft's types, filled in for Millet. Nothing outside `raft/` names them.

use std::fmt;

use bytes::Bytes;
use openraft::{
    BasicNode, EntryPayload,
    impls::leader_id_adv,
    type_config::alias::{EntryOf, LogIdOf, SnapshotMetaOf, StoredMembershipOf, VoteOf},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Visitor};

openraft::declare_raft_types!(
    /// Millet's Raft: opaque commands in, opaque replies out.
    pub(crate) Cfg:
        D = Blob,
        R = Blob,
        NodeId = u64,
        Node = BasicNode,
);

pub(crate) type LogId = LogIdOf<Cfg>;
pub(crate) type Vote = VoteOf<Cfg>;
pub(crate) type Entry = EntryOf<Cfg>;
pub(crate) type Payload = EntryPayload<Blob, u64, BasicNode>;
pub(crate) type StoredMembership = StoredMembershipOf<Cfg>;
pub(crate) type SnapshotMeta = SnapshotMetaOf<Cfg>;
pub(crate) type LeaderId = leader_id_adv::LeaderId<u64, u64>;

/// A command or a reply: bytes that only the group's machine reads.
#[derive(Clone, PartialEq, Eq, Default)]
pub(crate) struct Blob(pub Bytes);

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}
impl fmt::Display for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(&self.0)
    }
}
impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct V;
        impl Visitor<'_> for V {
            type Value = Blob;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E>(self, v: &[u8]) -> Result<Blob, E> {
                Ok(Blob(Bytes::copy_from_slice(v)))
            }
            fn visit_byte_buf<E>(self, v: Vec<u8>) -> Result<Blob, E> {
                Ok(Blob(v.into()))
            }
        }
        from.deserialize_byte_buf(V)
    }
}
