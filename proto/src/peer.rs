//! Conversions of `peer.proto`: calls, replies and hellos between nodes.
//!
//! A call's deadline travels on the sender's boot clock; the receiver's connection turns it into one on
//! its own clock (R15), so that conversion takes it as an argument.

use std::sync::Arc;

use millet_core::{
    BootTime, Chain, Envelope, Frame, MethodId, NodeId, Outcome, RequestId, Sender, SessionId, limits,
};

use crate::{
    WireError,
    common::{context_from_wire, context_to_wire, outcome_from_wire, outcome_to_wire},
    required, wire,
};

/// The protocol versions this build speaks, lowest and highest.
pub const PROTOCOL: (u32, u32) = (1, 1);

/// Names of abilities in one hello.
const FEATURES: usize = 64;

/// What each side of a lane says first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hello {
    /// The cluster's id; another cluster is refused.
    pub cluster: String,
    /// Protocol versions spoken, lowest and highest.
    pub protocol: (u32, u32),
    /// Who speaks.
    pub node: NodeId,
    /// Under which session.
    pub session: SessionId,
    /// Which node is meant.
    pub target_node: NodeId,
    /// Which session is meant (R12).
    pub target_session: SessionId,
    /// 0 is the control lane.
    pub lane: u32,
    /// Names of optional abilities.
    pub features: Vec<String>,
    /// What the receiver of this hello may have in flight towards its sender, in messages.
    pub credit: u32,
}

impl From<Hello> for wire::Hello {
    fn from(h: Hello) -> Self {
        Self {
            cluster: h.cluster,
            protocol_min: h.protocol.0,
            protocol_max: h.protocol.1,
            node: h.node.0,
            session: h.session.0,
            target_node: h.target_node.0,
            target_session: h.target_session.0,
            lane: h.lane,
            features: h.features,
            refused: None,
            credit: h.credit,
        }
    }
}

impl TryFrom<wire::Hello> for Hello {
    type Error = WireError;
    fn try_from(h: wire::Hello) -> Result<Self, WireError> {
        if h.protocol_min > h.protocol_max || h.protocol_max == 0 {
            let why = format!("{}..{} is not a range of versions", h.protocol_min, h.protocol_max);
            return Err(WireError::bad("Hello.protocol_max", why));
        }
        if h.cluster.len() > limits::CLUSTER_NAME_BYTES {
            let why =
                format!("{} bytes are over the limit of {}", h.cluster.len(), limits::CLUSTER_NAME_BYTES);
            return Err(WireError::bad("Hello.cluster", why));
        }
        if h.features.len() > FEATURES || h.features.iter().any(|f| f.len() > limits::TYPE_NAME_BYTES) {
            return Err(WireError::bad("Hello.features", "more or longer than any node has"));
        }
        Ok(Self {
            cluster: h.cluster,
            protocol: (h.protocol_min, h.protocol_max),
            node: NodeId(h.node),
            session: SessionId(h.session),
            target_node: NodeId(h.target_node),
            target_session: SessionId(h.target_session),
            lane: h.lane,
            features: h.features,
            credit: h.credit,
        })
    }
}

/// A call in wire form. The sender's session is the lane's and not repeated.
pub fn call_to_wire(id: u64, e: &Envelope) -> wire::Call {
    wire::Call {
        id,
        target: Some(e.target.clone().into()),
        method: e.method.0,
        args: e.args.clone(),
        request: e.request.0.to_be_bytes().to_vec().into(),
        deadline_ms: boot_ms(e.deadline),
        chain: e
            .chain
            .frames()
            .iter()
            .map(|f| wire::ChainFrame { grain: Some(f.grain.clone().into()), shared: f.shared })
            .collect(),
        sender_epoch: e.sender.and_then(|s| s.epoch).map(Into::into),
        grant: e.grant.map(Into::into),
        one_way: e.one_way,
        context: context_to_wire(&e.context),
    }
}

/// A call from wire form: sent under `session`, to be started before `deadline` on this machine's clock.
pub fn call_from_wire(c: wire::Call, session: SessionId, deadline: BootTime) -> Result<Envelope, WireError> {
    if c.chain.len() > limits::CHAIN_FRAMES {
        let why = format!("{} frames are over the limit of {}", c.chain.len(), limits::CHAIN_FRAMES);
        return Err(WireError::bad("Call.chain", why));
    }
    let request = <[u8; 16]>::try_from(c.request.as_ref())
        .map_err(|_| WireError::bad("Call.request", format_args!("{} bytes, want 16", c.request.len())))?;
    let frames = c
        .chain
        .into_iter()
        .map(|f| Ok(Frame { grain: required(f.grain, "ChainFrame.grain")?.try_into()?, shared: f.shared }));
    let frames = frames.collect::<Result<Vec<_>, WireError>>()?;
    Ok(Envelope {
        target: required(c.target, "Call.target")?.try_into()?,
        method: MethodId(c.method),
        args: c.args,
        request: RequestId(u128::from_be_bytes(request)),
        deadline,
        chain: if frames.is_empty() { Chain::default() } else { Chain(Some(frames.into())) },
        sender: Some(Sender { session, epoch: c.sender_epoch.map(TryInto::try_into).transpose()? }),
        grant: c.grant.map(Into::into),
        one_way: c.one_way,
        context: Arc::new(context_from_wire(c.context)?),
    })
}

/// A reply in wire form.
pub fn reply_to_wire(id: u64, outcome: Outcome) -> wire::CallReply {
    wire::CallReply { id, outcome: Some(outcome_to_wire(outcome)) }
}

/// A reply from wire form.
pub fn reply_from_wire(r: wire::CallReply) -> Result<(u64, Outcome), WireError> {
    Ok((r.id, outcome_from_wire(required(r.outcome, "CallReply.outcome")?)?))
}

/// An instant in whole milliseconds, rounded down: a deadline is never made later by the wire.
pub fn boot_ms(t: BootTime) -> u64 {
    t.0 / 1_000_000
}
