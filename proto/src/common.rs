//! Conversions of `common.proto`: keys, grain ids, grants, epochs, errors, outcomes, nodes.

use std::{cell::RefCell, collections::VecDeque, time::Duration};

use millet_core::{
    AppError, CallError, Epoch, ErrorKind, GrainId, GrainType, Grant, Key, KeyKind, NodeId, Outcome,
    PlatformError, Refusal, SessionId, limits,
    model::{NodeInfo, Ownership, TypeDecl},
};

use crate::{WireError, required, wire};

impl From<Key> for wire::Key {
    fn from(key: Key) -> Self {
        let kind = match key {
            Key::Int(n) => wire::key::Kind::Int(n),
            Key::Text(s) => wire::key::Kind::Text(s.into()),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<wire::Key> for Key {
    type Error = WireError;
    fn try_from(key: wire::Key) -> Result<Self, WireError> {
        match required(key.kind, "Key.kind")? {
            wire::key::Kind::Int(n) => Ok(Self::Int(n)),
            wire::key::Kind::Text(s) => Self::text(&s).map_err(|e| WireError::bad("Key.text", e)),
        }
    }
}

impl From<GrainId> for wire::GrainId {
    fn from(grain: GrainId) -> Self {
        Self { r#type: grain.ty.into(), key: Some(grain.key.into()) }
    }
}

impl TryFrom<wire::GrainId> for GrainId {
    type Error = WireError;
    fn try_from(grain: wire::GrainId) -> Result<Self, WireError> {
        let ty = grain_type(&grain.r#type, "GrainId.type")?;
        Ok(Self { ty, key: required(grain.key, "GrainId.key")?.try_into()? })
    }
}

/// Types that a thread remembers: a lane brings the same few again and again.
const RECENT: usize = 16;

thread_local! {
    static TYPES: RefCell<VecDeque<GrainType>> = const { RefCell::new(VecDeque::new()) };
}

/// A grain type's name, checked.
pub fn grain_type(name: &str, field: &'static str) -> Result<GrainType, WireError> {
    TYPES.with_borrow_mut(|types| {
        if let Some(known) = types.iter().find(|ty| ty.as_str() == name) {
            return Ok(known.clone());
        }
        let bad = |_| WireError::bad(field, format_args!("{name:.64?} is not a type name"));
        let ty = GrainType::new(name).map_err(bad)?;
        types.truncate(RECENT - 1);
        types.push_front(ty.clone());
        Ok(ty)
    })
}

impl From<Grant> for wire::Grant {
    fn from(grant: Grant) -> Self {
        Self { generation: grant.generation, index: grant.index }
    }
}

impl From<wire::Grant> for Grant {
    fn from(grant: wire::Grant) -> Self {
        Self { generation: grant.generation, index: grant.index }
    }
}

impl From<Epoch> for wire::Epoch {
    fn from(epoch: Epoch) -> Self {
        Self { grant: Some(epoch.grant.into()), activation: epoch.activation }
    }
}

impl TryFrom<wire::Epoch> for Epoch {
    type Error = WireError;
    fn try_from(epoch: wire::Epoch) -> Result<Self, WireError> {
        Ok(Self { grant: required(epoch.grant, "Epoch.grant")?.into(), activation: epoch.activation })
    }
}

/// Milliseconds, rounded up: a wait is never made shorter by the wire.
pub fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

impl From<PlatformError> for wire::Error {
    fn from(error: PlatformError) -> Self {
        let (kind, grain) = error.into_parts();
        let mut e = Self { kind: kind.name().into(), grain: grain.map(Into::into), ..Self::default() };
        match kind {
            ErrorKind::Moved { holder, node, grant } => {
                e.holder_session = holder.map_or(0, |s| s.0);
                e.holder_node = node.map_or(0, |n| n.0);
                e.holder_grant = grant.map(Into::into);
            }
            ErrorKind::Fenced | ErrorKind::Unauthenticated => {}
            ErrorKind::PermissionDenied { method } | ErrorKind::NoSuchMethod { method } => e.text = method,
            ErrorKind::Unavailable { what } => e.text = what,
            ErrorKind::Overloaded { retry_after, what } => {
                e.text = what;
                e.retry_after_ms = millis(retry_after);
            }
            ErrorKind::DeadlineExceeded { blocker } => e.text = blocker.unwrap_or_default(),
            ErrorKind::Unknown { why }
            | ErrorKind::BadKey { why }
            | ErrorKind::BadArgument { why }
            | ErrorKind::ActivateFailed { why } => e.text = why,
            ErrorKind::CallCycle { chain } => e.text = chain,
            ErrorKind::NoSuchGrain { ty, known } => {
                e.text = ty;
                e.text2 = known;
            }
            ErrorKind::TooLarge { what, limit } => {
                e.text = what;
                e.number = limit as u64;
            }
            ErrorKind::Panicked { id } => e.number = id,
            ErrorKind::Quarantined { retry_after } => e.retry_after_ms = millis(retry_after),
            // A kind this crate does not know yet travels as what claims least.
            other => {
                e.kind = "Unknown".into();
                e.text = other.to_string();
            }
        }
        e
    }
}

impl TryFrom<wire::Error> for PlatformError {
    type Error = WireError;
    fn try_from(e: wire::Error) -> Result<Self, WireError> {
        let grain = e.grain.map(GrainId::try_from).transpose()?;
        let text = e.text;
        let retry_after = Duration::from_millis(e.retry_after_ms);
        let kind = match e.kind.as_str() {
            "Moved" => ErrorKind::Moved {
                holder: (e.holder_session != 0).then_some(SessionId(e.holder_session)),
                node: (e.holder_node != 0).then_some(NodeId(e.holder_node)),
                grant: e.holder_grant.map(Into::into),
            },
            "Fenced" => ErrorKind::Fenced,
            "Unauthenticated" => ErrorKind::Unauthenticated,
            "PermissionDenied" => ErrorKind::PermissionDenied { method: text },
            "Unavailable" => ErrorKind::Unavailable { what: text },
            "Overloaded" => ErrorKind::Overloaded { retry_after, what: text },
            "DeadlineExceeded" => ErrorKind::DeadlineExceeded { blocker: (!text.is_empty()).then_some(text) },
            "Unknown" => ErrorKind::Unknown { why: text },
            "CallCycle" => ErrorKind::CallCycle { chain: text },
            "NoSuchGrain" => ErrorKind::NoSuchGrain { ty: text, known: e.text2 },
            "NoSuchMethod" => ErrorKind::NoSuchMethod { method: text },
            "BadKey" => ErrorKind::BadKey { why: text },
            "BadArgument" => ErrorKind::BadArgument { why: text },
            "TooLarge" => {
                ErrorKind::TooLarge { what: text, limit: usize::try_from(e.number).unwrap_or(usize::MAX) }
            }
            "Panicked" => ErrorKind::Panicked { id: e.number },
            "ActivateFailed" => ErrorKind::ActivateFailed { why: text },
            "Quarantined" => ErrorKind::Quarantined { retry_after },
            // A newer peer's kind: nothing may be assumed about the turn.
            newer => ErrorKind::Unknown { why: format!("the peer answered {newer:.40}: {text}") },
        };
        let error = Self::new(kind);
        Ok(match grain {
            Some(g) => error.at(&g),
            None => error,
        })
    }
}

impl From<Refusal> for wire::Refusal {
    fn from(r: Refusal) -> Self {
        Self { code: r.code, message: r.message, details: r.details.into() }
    }
}

impl From<wire::Refusal> for Refusal {
    fn from(r: wire::Refusal) -> Self {
        Self { code: r.code, message: r.message, details: r.details.into() }
    }
}

/// An outcome in wire form.
pub fn outcome_to_wire(outcome: Outcome) -> wire::Outcome {
    use wire::outcome::Kind;
    let kind = match outcome {
        Ok(bytes) => Kind::Ok(bytes),
        Err(CallError::App(AppError::Refusal(r))) => Kind::Refusal(r.into()),
        Err(CallError::App(AppError::Encoded(bytes))) => Kind::App(bytes),
        Err(CallError::Platform(p)) => Kind::Error(p.into()),
    };
    wire::Outcome { kind: Some(kind) }
}

/// An outcome from wire form.
pub fn outcome_from_wire(outcome: wire::Outcome) -> Result<Outcome, WireError> {
    use wire::outcome::Kind;
    Ok(match required(outcome.kind, "Outcome.kind")? {
        Kind::Ok(bytes) => Ok(bytes),
        Kind::Refusal(r) => Err(CallError::App(AppError::Refusal(r.into()))),
        Kind::App(bytes) => Err(CallError::App(AppError::Encoded(bytes))),
        Kind::Error(e) => Err(CallError::Platform(e.try_into()?)),
    })
}

/// A context in wire form.
pub fn context_to_wire(context: &[(String, String)]) -> Vec<wire::ContextEntry> {
    context.iter().map(|(k, v)| wire::ContextEntry { key: k.clone(), value: v.clone() }).collect()
}

/// A context from wire form, within [`limits::CONTEXT_ENTRIES`] and [`limits::CONTEXT_BYTES`].
pub fn context_from_wire(entries: Vec<wire::ContextEntry>) -> Result<Vec<(String, String)>, WireError> {
    let bytes: usize = entries.iter().map(|e| e.key.len() + e.value.len()).sum();
    if entries.len() > limits::CONTEXT_ENTRIES || bytes > limits::CONTEXT_BYTES {
        let why = format!(
            "{} entries of {bytes} bytes are over the limit of {} entries and {} bytes",
            entries.len(),
            limits::CONTEXT_ENTRIES,
            limits::CONTEXT_BYTES
        );
        return Err(WireError::bad("context", why));
    }
    Ok(entries.into_iter().map(|e| (e.key, e.value)).collect())
}

impl From<KeyKind> for wire::KeyKind {
    fn from(kind: KeyKind) -> Self {
        match kind {
            KeyKind::Int => Self::Int,
            KeyKind::Text => Self::Text,
        }
    }
}

impl TryFrom<wire::KeyKind> for KeyKind {
    type Error = WireError;
    fn try_from(kind: wire::KeyKind) -> Result<Self, WireError> {
        match kind {
            wire::KeyKind::Int => Ok(Self::Int),
            wire::KeyKind::Text => Ok(Self::Text),
            wire::KeyKind::Unspecified => Err(WireError::missing("TypeDecl.keys")),
        }
    }
}

impl From<TypeDecl> for wire::TypeDecl {
    fn from(decl: TypeDecl) -> Self {
        let (mode, shards) = match decl.ownership {
            Ownership::Leased => (wire::OwnershipMode::Leased, 0),
            Ownership::Sharded { shards } => (wire::OwnershipMode::Sharded, shards),
        };
        Self {
            r#type: decl.ty.into(),
            mode: mode.into(),
            shards,
            keys: wire::KeyKind::from(decl.keys).into(),
        }
    }
}

impl TryFrom<wire::TypeDecl> for TypeDecl {
    type Error = WireError;
    fn try_from(decl: wire::TypeDecl) -> Result<Self, WireError> {
        let ownership = match decl.mode() {
            wire::OwnershipMode::Leased => Ownership::Leased,
            wire::OwnershipMode::Sharded if (1..=limits::SHARDS).contains(&decl.shards) => {
                Ownership::Sharded { shards: decl.shards }
            }
            wire::OwnershipMode::Sharded => {
                let why = format!("{} is not within 1 to {}", decl.shards, limits::SHARDS);
                return Err(WireError::bad("TypeDecl.shards", why));
            }
            wire::OwnershipMode::Unspecified => return Err(WireError::missing("TypeDecl.mode")),
        };
        let keys = decl.keys().try_into()?;
        Ok(Self { ty: grain_type(&decl.r#type, "TypeDecl.type")?, ownership, keys })
    }
}

impl From<NodeInfo> for wire::NodeInfo {
    fn from(node: NodeInfo) -> Self {
        Self {
            id: node.id.0,
            name: node.name,
            peer_addr: node.peer_addr,
            api_addr: node.api_addr,
            types: node.types.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<wire::NodeInfo> for NodeInfo {
    type Error = WireError;
    fn try_from(node: wire::NodeInfo) -> Result<Self, WireError> {
        if node.id == 0 {
            return Err(WireError::missing("NodeInfo.id"));
        }
        let texts = [("name", &node.name), ("peer_addr", &node.peer_addr), ("api_addr", &node.api_addr)];
        if let Some((which, text)) = texts.iter().find(|(_, t)| t.len() > limits::NODE_TEXT_BYTES) {
            let (bytes, limit) = (text.len(), limits::NODE_TEXT_BYTES);
            let why = format!("{which} has {bytes} bytes, over the limit of {limit}");
            return Err(WireError::bad("NodeInfo", why));
        }
        if node.types.len() > limits::TYPES {
            let why = format!("{} types are over the limit of {}", node.types.len(), limits::TYPES);
            return Err(WireError::bad("NodeInfo.types", why));
        }
        Ok(Self {
            id: NodeId(node.id),
            name: node.name,
            peer_addr: node.peer_addr,
            api_addr: node.api_addr,
            types: node.types.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
        })
    }
}
