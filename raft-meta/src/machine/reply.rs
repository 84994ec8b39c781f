//! What apply answers, in the form in which it travels from the state machine to whoever proposed.

use millet_core::{
    Grant, NodeId, Revision, SessionId,
    model::{Verdict, WorkerLease},
};
use serde::{Deserialize, Serialize};

use super::{
    MemberChange,
    command::{CodecError, decode, encode},
};

/// The result of one applied [`Command`](super::Command).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Reply {
    /// Done (`Init`, `FeatureLevel`, `TypeSet`).
    Done,
    /// `OpenSession`.
    Opened(Opened),
    /// `Tick`.
    Ticked(Ticked),
    /// `Batch`: as many as ops, in order.
    Batch(Vec<OpResult>),
    /// `ShardDecisions`: which of them were applied, in order.
    Decided(Vec<bool>),
    /// `Sweep`.
    Swept {
        /// Rows deleted.
        deleted: u32,
    },
    /// Nothing was done, and why.
    Refused(String),
    /// `Members`: the change as it stands.
    Change(MemberChange),
}

impl Reply {
    /// To bytes.
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }
    /// From bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        decode("reply", bytes)
    }
}

/// A session as opened. It grants nothing until its first keepalive is renewed (R7).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Opened {
    /// The session; may have ended since, if the request is a late repeat.
    pub session: SessionId,
    /// As fixed for its life, milliseconds.
    pub ttl_ms: u64,
    /// Its snowflake worker id, if one was free.
    pub worker: Option<WorkerLease>,
}

/// The result of a Tick.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Ticked {
    /// The Tick's entry: answers name it.
    pub revision: Revision,
    /// Cluster time after it.
    pub time_ms: u64,
    /// One per renewal in the Tick, in its order.
    pub answers: Vec<TickAnswer>,
}

/// What became of one renewal.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TickAnswer {
    /// Whose.
    pub session: SessionId,
    /// The keepalive.
    pub number: u64,
    /// False: the session is dead, for ever.
    pub alive: bool,
    /// Snowflake times up to here are reserved for its worker (0: none).
    pub reserved_ms: u64,
}

impl TickAnswer {
    /// As the node hears it.
    pub fn verdict(&self) -> Verdict {
        if self.alive { Verdict::Renewed } else { Verdict::Dead }
    }
}

/// The result of one [`Op`](super::Op).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum OpResult {
    /// `Acquire`: the asking session holds the grain. `Move`: the new session does.
    Granted {
        /// The grant.
        grant: Grant,
        /// The grant it replaced by a Move (R23).
        previous: Option<Grant>,
    },
    /// Another living session holds it.
    Held {
        /// Which.
        session: SessionId,
        /// Its node.
        node: NodeId,
        /// Under which grant.
        grant: Grant,
    },
    /// Ask again: not in this entry (R24), or leases of an older generation are still out (R11).
    Retry,
    /// Done; also where there was nothing left to do.
    Done,
    /// This session is not alive, or not yet renewed (R7): nothing was granted to it.
    NotAlive {
        /// Which.
        session: SessionId,
    },
    /// The request is wrong.
    Refused {
        /// Why.
        why: String,
    },
}
