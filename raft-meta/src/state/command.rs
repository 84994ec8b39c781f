//! What the `state` group's log holds, and what applying it answers: a version byte, then postcard.
//! Fixed by golden bytes: a later release must read what an earlier one logged.

use bytes::Bytes;
use millet_core::{
    Epoch, GrainId, GrainType, Grant, SessionId, ShardId,
    store::{StoreError, Stored, Token, Version},
};
use millet_proto::state::{Done, Op};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Version of both encodings.
const VERSION: u8 = 1;

/// What one operation gave.
pub type StateResult = Result<Done, StoreError>;

/// One entry of the `state` group's log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StateCommand {
    /// Operations in order, each its own transaction. `Load` may be among them, though reading needs no entry.
    Batch(Vec<Op>),
    /// The oldest session that lives: lower ones are refused from here on. Never goes back.
    OldestLiving(SessionId),
}

/// The answer to a command: one result per operation, none to `OldestLiving`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StateReply(pub Vec<StateResult>);

/// The bytes are not a command or reply of this release.
#[derive(Debug, thiserror::Error)]
#[error("unreadable {what}: {why}; a later release wrote it, or it is damaged")]
pub struct Unreadable {
    what: &'static str,
    why: String,
}

impl StateCommand {
    /// For the log.
    pub fn encode(&self) -> Bytes {
        let form = match self {
            Self::Batch(ops) => CommandForm::Batch(ops.iter().map(OpForm::from).collect()),
            Self::OldestLiving(session) => CommandForm::OldestLiving(*session),
        };
        encode(&form)
    }

    /// From the log.
    pub fn decode(bytes: &[u8]) -> Result<Self, Unreadable> {
        Ok(match decode(bytes, "state command")? {
            CommandForm::Batch(ops) => Self::Batch(ops.into_iter().map(Op::from).collect()),
            CommandForm::OldestLiving(session) => Self::OldestLiving(session),
        })
    }
}

impl StateReply {
    /// For the proposer.
    pub fn encode(&self) -> Bytes {
        encode(&self.0.iter().map(ResultForm::from).collect::<Vec<_>>())
    }

    /// As the proposer reads it. A blank reply has no results.
    pub fn decode(bytes: &[u8]) -> Result<Self, Unreadable> {
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        let forms: Vec<ResultForm> = decode(bytes, "state reply")?;
        Ok(Self(forms.into_iter().map(StateResult::from).collect()))
    }
}

fn encode<T: Serialize>(form: &T) -> Bytes {
    let bytes = postcard::to_extend(form, vec![VERSION])
        .expect("these forms have nothing that postcard cannot encode");
    Bytes::from(bytes)
}

fn decode<T: de::DeserializeOwned>(bytes: &[u8], what: &'static str) -> Result<T, Unreadable> {
    match bytes.split_first() {
        Some((&VERSION, rest)) => {
            let read = postcard::take_from_bytes(rest);
            match read.map_err(|e| Unreadable { what, why: e.to_string() })? {
                (value, []) => Ok(value),
                // A replica that leaves out what others apply differs from them for ever (R24).
                (_, left) => Err(Unreadable { what, why: format!("{} bytes behind the end", left.len()) }),
            }
        }
        Some((version, _)) => {
            Err(Unreadable { what, why: format!("version {version}, this release reads {VERSION}") })
        }
        None => Err(Unreadable { what, why: "no bytes".into() }),
    }
}

/// Bytes in one piece; serde would take them one by one.
#[derive(Clone)]
struct Blob(Bytes);

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visit;
        impl de::Visitor<'_> for Visit {
            type Value = Blob;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E: de::Error>(self, b: &[u8]) -> Result<Blob, E> {
                Ok(Blob(Bytes::copy_from_slice(b)))
            }
        }
        d.deserialize_bytes(Visit)
    }
}

#[derive(Serialize, Deserialize)]
enum CommandForm {
    Batch(Vec<OpForm>),
    OldestLiving(SessionId),
}

#[derive(Serialize, Deserialize)]
enum OpForm {
    Open {
        grain: GrainId,
        slot: String,
        epoch: Epoch,
        session: SessionId,
    },
    OpenShard {
        ty: GrainType,
        shard: ShardId,
        grant: Grant,
        session: SessionId,
    },
    Load {
        grain: GrainId,
        slot: String,
        shard: ShardId,
        epoch: Epoch,
        session: SessionId,
    },
    Write {
        grain: GrainId,
        slot: String,
        shard: Option<ShardId>,
        epoch: Epoch,
        session: SessionId,
        version: Version,
        value: Option<Blob>,
    },
}

impl From<&Op> for OpForm {
    fn from(op: &Op) -> Self {
        match op {
            Op::Open { grain, slot, token } => Self::Open {
                grain: grain.clone(),
                slot: slot.clone(),
                epoch: token.epoch,
                session: token.session,
            },
            Op::OpenShard { ty, shard, grant, session } => {
                Self::OpenShard { ty: ty.clone(), shard: *shard, grant: *grant, session: *session }
            }
            Op::Load { grain, slot, shard, token } => Self::Load {
                grain: grain.clone(),
                slot: slot.clone(),
                shard: *shard,
                epoch: token.epoch,
                session: token.session,
            },
            Op::Write { grain, slot, shard, token, version, value } => Self::Write {
                grain: grain.clone(),
                slot: slot.clone(),
                shard: *shard,
                epoch: token.epoch,
                session: token.session,
                version: *version,
                value: value.clone().map(Blob),
            },
        }
    }
}

impl From<OpForm> for Op {
    fn from(form: OpForm) -> Self {
        match form {
            OpForm::Open { grain, slot, epoch, session } => {
                Self::Open { grain, slot, token: Token { epoch, session } }
            }
            OpForm::OpenShard { ty, shard, grant, session } => Self::OpenShard { ty, shard, grant, session },
            OpForm::Load { grain, slot, shard, epoch, session } => {
                Self::Load { grain, slot, shard, token: Token { epoch, session } }
            }
            OpForm::Write { grain, slot, shard, epoch, session, version, value } => Self::Write {
                grain,
                slot,
                shard,
                token: Token { epoch, session },
                version,
                value: value.map(|b| b.0),
            },
        }
    }
}

#[derive(Serialize, Deserialize)]
enum ResultForm {
    Stored {
        version: Version,
        value: Option<Blob>,
    },
    Written(Version),
    Opened,
    Fenced {
        given: Epoch,
        floor: Epoch,
    },
    SessionEnded(SessionId),
    Version {
        given: Version,
        stored: Version,
    },
    TooLarge {
        bytes: u64,
        limit: u64,
    },
    /// What the machine never says of its own, in words.
    Other(String),
}

impl From<&StateResult> for ResultForm {
    fn from(result: &StateResult) -> Self {
        match result {
            Ok(Done::Stored(s)) => Self::Stored { version: s.version, value: s.value.clone().map(Blob) },
            Ok(Done::Written(version)) => Self::Written(*version),
            Ok(Done::Opened) => Self::Opened,
            Err(StoreError::Fenced { given, floor }) => Self::Fenced { given: *given, floor: *floor },
            Err(StoreError::SessionEnded(session)) => Self::SessionEnded(*session),
            Err(StoreError::Version { given, stored }) => Self::Version { given: *given, stored: *stored },
            Err(StoreError::TooLarge { bytes, limit }) => {
                Self::TooLarge { bytes: *bytes as u64, limit: *limit as u64 }
            }
            // Its text alone: the error says "outcome unknown" itself, once.
            Err(StoreError::Unknown(why)) => Self::Other(why.clone()),
            Err(other) => Self::Other(other.to_string()),
        }
    }
}

impl From<ResultForm> for StateResult {
    fn from(form: ResultForm) -> Self {
        let size = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        match form {
            ResultForm::Stored { version, value } => {
                Ok(Done::Stored(Stored { version, value: value.map(|b| b.0) }))
            }
            ResultForm::Written(version) => Ok(Done::Written(version)),
            ResultForm::Opened => Ok(Done::Opened),
            ResultForm::Fenced { given, floor } => Err(StoreError::Fenced { given, floor }),
            ResultForm::SessionEnded(session) => Err(StoreError::SessionEnded(session)),
            ResultForm::Version { given, stored } => Err(StoreError::Version { given, stored }),
            ResultForm::TooLarge { bytes, limit } => {
                Err(StoreError::TooLarge { bytes: size(bytes), limit: size(limit) })
            }
            ResultForm::Other(why) => Err(StoreError::Unknown(why)),
        }
    }
}

#[cfg(test)]
mod tests {
    use millet_core::Key;

    use super::*;

    fn commands() -> Vec<StateCommand> {
        let ty = GrainType::new("realm.Player").unwrap();
        let grant = Grant { generation: 1, index: 300 };
        let token = Token { epoch: Epoch { grant, activation: 7 }, session: SessionId(200) };
        let (int, text) =
            (GrainId::new(ty.clone(), 42), GrainId::new(ty.clone(), Key::text("anna").unwrap()));
        let (slot, shard) = (String::from("profile"), ShardId(3));
        vec![
            StateCommand::Batch(vec![Op::Open { grain: int.clone(), slot: slot.clone(), token }]),
            StateCommand::Batch(vec![Op::OpenShard { ty, shard, grant, session: SessionId(200) }]),
            StateCommand::Batch(vec![Op::Load { grain: text.clone(), slot: slot.clone(), shard, token }]),
            StateCommand::Batch(vec![
                Op::Write {
                    grain: int,
                    slot: slot.clone(),
                    shard: None,
                    token,
                    version: Version(4),
                    value: Some(Bytes::from_static(b"gold")),
                },
                Op::Write { grain: text, slot, shard: Some(shard), token, version: Version(0), value: None },
            ]),
            StateCommand::OldestLiving(SessionId(199)),
        ]
    }

    fn replies() -> Vec<StateReply> {
        let epoch = Epoch { grant: Grant { generation: 1, index: 300 }, activation: 7 };
        vec![StateReply(vec![
            Ok(Done::Stored(Stored { version: Version(4), value: Some(Bytes::from_static(b"gold")) })),
            Ok(Done::Written(Version(5))),
            Ok(Done::Opened),
            Err(StoreError::Fenced { given: Epoch::default(), floor: epoch }),
            Err(StoreError::SessionEnded(SessionId(200))),
            Err(StoreError::Version { given: Version(4), stored: Version(5) }),
            Err(StoreError::TooLarge { bytes: 300, limit: 200 }),
        ])]
    }

    fn hex(b: &[u8]) -> String {
        b.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// A change of any of these makes old logs unreadable: it needs a new version byte.
    #[test]
    fn golden_bytes() {
        let commands: Vec<String> = commands().iter().map(|c| hex(&c.encode())).collect();
        let replies: Vec<String> = replies().iter().map(|c| hex(&c.encode())).collect();
        assert_eq!(commands, GOLDEN_COMMANDS);
        assert_eq!(replies, GOLDEN_REPLIES);
    }
    const GOLDEN_COMMANDS: [&str; 5] = [
        "010001000c7265616c6d2e506c61796572002a0770726f66696c6501ac0207c801",
        "010001010c7265616c6d2e506c617965720301ac02c801",
        "010001020c7265616c6d2e506c617965720104616e6e610770726f66696c650301ac0207c801",
        "010002030c7265616c6d2e506c61796572002a0770726f66696c650001ac0207c801040104676f6c64030c7265616c6d2e506c617965720104616e6e610770726f66696c65010301ac0207c8010000",
        "0101c701",
    ];
    const GOLDEN_REPLIES: [&str; 1] = ["010700040104676f6c640105020300000001ac020704c80105040506ac02c801"];

    #[test]
    fn commands_and_replies_come_back_as_they_went() {
        for c in commands() {
            assert_eq!(StateCommand::decode(&c.encode()).unwrap(), c);
        }
        for r in replies() {
            assert_eq!(StateReply::decode(&r.encode()).unwrap(), r);
        }
        assert_eq!(StateReply::decode(&[]).unwrap(), StateReply::default());
    }

    #[test]
    fn another_version_or_a_bad_name_is_an_error() {
        let mut bytes = commands()[0].encode().to_vec();
        bytes[0] = 9;
        assert!(StateCommand::decode(&bytes).unwrap_err().to_string().contains("version 9"));
        let mut bytes = commands()[0].encode().to_vec();
        let at = bytes.windows(6).position(|w| w == b"realm.").unwrap();
        bytes[at] = b' ';
        assert!(StateCommand::decode(&bytes).is_err(), "a type name is checked when it is read");
        assert!(StateCommand::decode(&[]).is_err());
    }

    /// A later release may add fields at the end: one that does not know them must stop, not leave them out.
    #[test]
    fn r24_bytes_behind_the_end_are_refused() {
        for bytes in commands().iter().map(StateCommand::encode) {
            let error = StateCommand::decode(&[&bytes[..], &[0]].concat()).unwrap_err().to_string();
            assert!(error.contains("1 bytes behind the end"), "{error}");
        }
        let reply = replies()[0].encode();
        assert!(StateReply::decode(&[&reply[..], &[0]].concat()).is_err());
    }
}
