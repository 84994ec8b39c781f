//! Conversions of `state.proto`: the built-in state store's operations.

use bytes::Bytes;
use millet_core::{
    Epoch, GrainId, GrainType, Grant, SessionId, ShardId,
    store::{StoreError, Stored, Token, Version},
};

use crate::{
    WireError,
    common::grain_type,
    required,
    wire::{self, state_op, state_op_result},
};

/// One operation; [`millet_core::store::StateStore`] says what each does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Op {
    /// Raises the floor and reads.
    Open {
        /// Whose state.
        grain: GrainId,
        /// Which of its named states.
        slot: String,
        /// Who opens.
        token: Token,
    },
    /// Raises the floor of a shard.
    OpenShard {
        /// The type.
        ty: GrainType,
        /// Its shard.
        shard: ShardId,
        /// The owner's grant.
        grant: Grant,
        /// The owner.
        session: SessionId,
    },
    /// Reads under a shard's floor.
    Load {
        /// Whose state.
        grain: GrainId,
        /// Which of its named states.
        slot: String,
        /// The shard.
        shard: ShardId,
        /// Who reads.
        token: Token,
    },
    /// Saves, or clears where there is no value.
    Write {
        /// Whose state.
        grain: GrainId,
        /// Which of its named states.
        slot: String,
        /// The shard, for sharded types.
        shard: Option<ShardId>,
        /// Who writes.
        token: Token,
        /// The version last seen.
        version: Version,
        /// What.
        value: Option<Bytes>,
    },
}

/// What an operation gave.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Done {
    /// `Open`, `Load`.
    Stored(Stored),
    /// `Write`: the new version.
    Written(Version),
    /// `OpenShard`.
    Opened,
}

fn token(epoch: Option<wire::Epoch>, session: u64) -> Result<Token, WireError> {
    Ok(Token { epoch: required(epoch, "StateOp.epoch")?.try_into()?, session: SessionId(session) })
}

fn grain(grain: Option<wire::GrainId>) -> Result<GrainId, WireError> {
    required(grain, "StateOp.grain")?.try_into()
}

impl From<Op> for wire::StateOp {
    fn from(op: Op) -> Self {
        use state_op::{Kind, Load, Open, OpenShard, Write};
        let kind = match op {
            Op::Open { grain, slot, token } => Kind::Open(Open {
                grain: Some(grain.into()),
                slot,
                epoch: Some(token.epoch.into()),
                session: token.session.0,
            }),
            Op::OpenShard { ty, shard, grant, session } => Kind::OpenShard(OpenShard {
                r#type: ty.into(),
                shard: shard.0,
                grant: Some(grant.into()),
                session: session.0,
            }),
            Op::Load { grain, slot, shard, token } => Kind::Load(Load {
                grain: Some(grain.into()),
                slot,
                shard: shard.0,
                epoch: Some(token.epoch.into()),
                session: token.session.0,
            }),
            Op::Write { grain, slot, shard, token, version, value } => Kind::Write(Write {
                grain: Some(grain.into()),
                slot,
                shard: shard.map(|s| s.0),
                epoch: Some(token.epoch.into()),
                session: token.session.0,
                version: version.0,
                value,
            }),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<wire::StateOp> for Op {
    type Error = WireError;
    fn try_from(op: wire::StateOp) -> Result<Self, WireError> {
        Ok(match required(op.kind, "StateOp.kind")? {
            state_op::Kind::Open(o) => {
                Self::Open { grain: grain(o.grain)?, slot: o.slot, token: token(o.epoch, o.session)? }
            }
            state_op::Kind::OpenShard(o) => Self::OpenShard {
                ty: grain_type(&o.r#type, "OpenShard.type")?,
                shard: ShardId(o.shard),
                grant: required(o.grant, "OpenShard.grant")?.into(),
                session: SessionId(o.session),
            },
            state_op::Kind::Load(o) => Self::Load {
                grain: grain(o.grain)?,
                slot: o.slot,
                shard: ShardId(o.shard),
                token: token(o.epoch, o.session)?,
            },
            state_op::Kind::Write(o) => Self::Write {
                grain: grain(o.grain)?,
                slot: o.slot,
                shard: o.shard.map(ShardId),
                token: token(o.epoch, o.session)?,
                version: Version(o.version),
                value: o.value,
            },
        })
    }
}

/// A result in wire form. `Unavailable` and `Unknown` are not results of an operation but of the road
/// to the store: the service answers them as statuses, so they have no form here.
pub fn result_to_wire(result: Result<Done, StoreError>) -> Option<wire::StateOpResult> {
    use state_op_result::{
        Done as WireDone, Fenced, Kind, SessionEnded, Stored as WireStored, TooLarge, VersionMismatch,
        Written,
    };
    let kind = match result {
        Ok(Done::Stored(s)) => Kind::Stored(WireStored { version: s.version.0, value: s.value }),
        Ok(Done::Written(version)) => Kind::Written(Written { version: version.0 }),
        Ok(Done::Opened) => Kind::Done(WireDone {}),
        Err(StoreError::Fenced { given, floor }) => {
            Kind::Fenced(Fenced { given: Some(given.into()), floor: Some(floor.into()) })
        }
        Err(StoreError::SessionEnded(session)) => Kind::SessionEnded(SessionEnded { session: session.0 }),
        Err(StoreError::Version { given, stored }) => {
            Kind::Version(VersionMismatch { given: given.0, stored: stored.0 })
        }
        Err(StoreError::TooLarge { bytes, limit }) => {
            Kind::TooLarge(TooLarge { bytes: bytes as u64, limit: limit as u64 })
        }
        Err(_) => return None,
    };
    Some(wire::StateOpResult { kind: Some(kind) })
}

/// Reads [`result_to_wire`].
pub fn result_from_wire(result: wire::StateOpResult) -> Result<Result<Done, StoreError>, WireError> {
    use state_op_result::Kind;
    let epoch =
        |e: Option<wire::Epoch>| -> Result<Epoch, WireError> { required(e, "Fenced.epoch")?.try_into() };
    let size = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    Ok(match required(result.kind, "StateOpResult.kind")? {
        Kind::Stored(s) => Ok(Done::Stored(Stored { version: Version(s.version), value: s.value })),
        Kind::Written(w) => Ok(Done::Written(Version(w.version))),
        Kind::Done(_) => Ok(Done::Opened),
        Kind::Fenced(f) => Err(StoreError::Fenced { given: epoch(f.given)?, floor: epoch(f.floor)? }),
        Kind::SessionEnded(s) => Err(StoreError::SessionEnded(SessionId(s.session))),
        Kind::Version(v) => Err(StoreError::Version { given: Version(v.given), stored: Version(v.stored) }),
        Kind::TooLarge(t) => Err(StoreError::TooLarge { bytes: size(t.bytes), limit: size(t.limit) }),
    })
}

#[cfg(test)]
mod tests {
    use millet_core::Key;

    use super::*;

    #[test]
    fn every_operation_and_result_survives_the_wire() {
        let ty = GrainType::new("realm.Org").expect("a good name");
        let (grain, slot) = (GrainId::new(ty.clone(), Key::Int(4)), "main".to_owned());
        let grant = Grant { generation: 2, index: 7 };
        let token = Token { epoch: Epoch { grant, activation: 3 }, session: SessionId(9) };
        let write = |shard, value| Op::Write {
            grain: grain.clone(),
            slot: slot.clone(),
            shard,
            token,
            version: Version(5),
            value,
        };
        let ops = [
            Op::Open { grain: grain.clone(), slot: slot.clone(), token },
            Op::OpenShard { ty, shard: ShardId(0), grant, session: SessionId(9) },
            Op::Load { grain: grain.clone(), slot: slot.clone(), shard: ShardId(0), token },
            write(None, None),
            write(Some(ShardId(0)), Some(Bytes::new())),
        ];
        for op in ops {
            assert_eq!(Op::try_from(wire::StateOp::from(op.clone())), Ok(op));
        }
        let results = [
            Ok(Done::Stored(Stored { version: Version(1), value: None })),
            Ok(Done::Stored(Stored { version: Version(1), value: Some(Bytes::new()) })),
            Ok(Done::Written(Version(2))),
            Ok(Done::Opened),
            Err(StoreError::Fenced { given: token.epoch, floor: token.epoch }),
            Err(StoreError::SessionEnded(SessionId(1))),
            Err(StoreError::Version { given: Version(1), stored: Version(2) }),
            Err(StoreError::TooLarge { bytes: 2, limit: 1 }),
        ];
        for r in results {
            assert_eq!(result_from_wire(result_to_wire(r.clone()).expect("a result")), Ok(r));
        }
        assert_eq!(result_to_wire(Err(StoreError::Unknown("x".into()))), None);
    }
}
