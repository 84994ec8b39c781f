//! Names of things: grain types, keys, grains, nodes, sessions, shards, revisions.
//!
//! A value of these types is already valid: keys and type names are checked when they are built.

use std::{fmt, sync::Arc};

use crate::{error::ErrorKind, limits};

/// The name a grain type declares, such as `realm.Player`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(try_from = "String", into = "String")
)]
pub struct GrainType {
    name: Arc<str>,
    id: u64,
}

impl std::hash::Hash for GrainType {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        state.write_u64(self.id);
    }
}

impl GrainType {
    /// Checks and interns a name: 1 to 128 bytes of ASCII letters, digits, `_`, `.` and `-`.
    pub fn new(name: &str) -> Result<Self, ErrorKind> {
        let fits = !name.is_empty() && name.len() <= limits::TYPE_NAME_BYTES;
        if fits && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-')) {
            Ok(Self { name: name.into(), id: crate::hash::type_id(name) })
        } else {
            Err(ErrorKind::NoSuchGrain { ty: name.chars().take(64).collect(), known: String::new() })
        }
    }

    /// The declared name.
    pub fn as_str(&self) -> &str {
        &self.name
    }

    /// The number that stands for this type in hashes; fixed for ever (xxh3-64 of the name).
    pub fn id(&self) -> u64 {
        self.id
    }
}

impl TryFrom<String> for GrainType {
    type Error = ErrorKind;
    fn try_from(name: String) -> Result<Self, ErrorKind> {
        Self::new(&name)
    }
}
impl From<GrainType> for String {
    fn from(ty: GrainType) -> Self {
        ty.name.as_ref().to_owned()
    }
}

impl fmt::Display for GrainType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}
impl fmt::Debug for GrainType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// Which of the two kinds of key a grain type uses; declared once per type (R32).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum KeyKind {
    /// A 64-bit unsigned integer.
    Int,
    /// UTF-8 text of 1 to [`limits::KEY_BYTES`] bytes without control characters.
    Text,
}

/// The key of one grain within its type.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Key {
    /// A 64-bit integer.
    Int(u64),
    /// Text; see [`Key::text`] for its limits.
    Text(Box<str>),
}

impl Key {
    /// A text key: 1 byte to [`limits::KEY_BYTES`], no control characters.
    pub fn text(s: &str) -> Result<Self, ErrorKind> {
        if s.is_empty() {
            return Err(ErrorKind::BadKey { why: "a text key may not be empty".into() });
        }
        if s.len() > limits::KEY_BYTES {
            let why = format!("a key of {} bytes is over the limit of {} bytes", s.len(), limits::KEY_BYTES);
            return Err(ErrorKind::BadKey { why });
        }
        if let Some((at, c)) = s.char_indices().find(|(_, c)| c.is_control()) {
            let why = format!("a key may not hold control characters: U+{:04X} at byte {at}", u32::from(c));
            return Err(ErrorKind::BadKey { why });
        }
        Ok(Self::Text(s.into()))
    }

    /// Reads the text form of a key for a type of the given kind; integers only in canonical form
    /// (no sign, no leading zero), so that one grain has one name.
    pub fn parse(kind: KeyKind, s: &str) -> Result<Self, ErrorKind> {
        match kind {
            KeyKind::Text => Self::text(s),
            KeyKind::Int => match s.parse::<u64>() {
                Ok(n) if n.to_string() == s => Ok(Self::Int(n)),
                _ => {
                    let shown: String = s.chars().filter(|c| !c.is_control()).take(40).collect();
                    Err(ErrorKind::BadKey {
                        why: format!(
                            "this type has integer keys, and {shown:?} is not a canonical unsigned 64-bit integer"
                        ),
                    })
                }
            },
        }
    }

    /// The kind of this key.
    pub fn kind(&self) -> KeyKind {
        match self {
            Self::Int(_) => KeyKind::Int,
            Self::Text(_) => KeyKind::Text,
        }
    }
}

impl From<u64> for Key {
    fn from(n: u64) -> Self {
        Self::Int(n)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(n) => write!(f, "{n}"),
            Self::Text(s) => f.write_str(s),
        }
    }
}
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(n) => write!(f, "{n}"),
            Self::Text(s) => write!(f, "{s:?}"),
        }
    }
}

/// A grain's full name: type and key. Written `Player/42`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct GrainId {
    /// The declared type.
    pub ty: GrainType,
    /// The key within the type.
    pub key: Key,
}

impl GrainId {
    /// Puts a type and a key together.
    pub fn new(ty: GrainType, key: impl Into<Key>) -> Self {
        Self { ty, key: key.into() }
    }
}

impl fmt::Display for GrainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ty, self.key)
    }
}
impl fmt::Debug for GrainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:?}", self.ty, self.key)
    }
}

/// A method within its service: the low 32 bits of xxh3-64 of the method's name. Two methods of one
/// service that collide are refused when the code is generated.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct MethodId(pub u32);

impl MethodId {
    /// The id of a method name such as `AddGold`.
    pub const fn of(name: &str) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "the low half is the id")]
        Self(xxhash_rust::const_xxh3::xxh3_64(name.as_bytes()) as u32)
    }
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
        pub struct $name(pub $inner);
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { write!(f, concat!($prefix, "{}"), self.0) }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { write!(f, concat!($prefix, "{}"), self.0) }
        }
    };
}
number!(/// A process that hosts grains: drawn at random when it starts for the first time, kept in its data directory.
    NodeId(u64), "n");
number!(/// A node's lease with the metadata store: the log index that opened it; never reused.
    SessionId(u64), "s");
number!(/// One shard of a stub type, counted from 0.
    ShardId(u32), "#");
number!(/// A position in the history of the metadata store: the log index of the last applied entry.
    Revision(u64), "r");
