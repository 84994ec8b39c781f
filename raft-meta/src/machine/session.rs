//! Living sessions, the attempts by which they were opened (R7), and nodes whose sessions died young
//! (R27). What a session owns is not here: rows name sessions, and a session that is missing here is
//! dead for ever.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use millet_core::{
    KeyKind, NodeId, SessionId,
    control::{Rule, off},
    limits,
    model::{NodeInfo, Ownership, SessionInfo, SessionState},
};
use serde::{Deserialize, Serialize};

use super::command::{Open, millis};

/// A living session.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Session {
    /// The log index that opened it.
    pub id: SessionId,
    /// Whose it is.
    pub node: Arc<NodeInfo>,
    /// `Opened`, `Alive` or `Draining`.
    pub state: SessionState,
    /// Fixed for its life.
    pub ttl_ms: u64,
    /// It dies at the first Tick above this cluster time.
    pub deadline_ms: u64,
    /// Cluster time of its first renewal.
    pub since_ms: u64,
    /// Activations on the node, as last reported.
    pub load: u64,
    /// Its snowflake worker id.
    pub worker: Option<u16>,
    incarnation: u128,
    attempt: u32,
    /// What its build declares, by type id.
    declared: BTreeMap<u64, (Ownership, KeyKind)>,
}

impl Session {
    /// Whether it may hold anything: renewed at least once (R7).
    pub fn has_authority(&self) -> bool {
        match self.state {
            SessionState::Alive | SessionState::Draining => true,
            SessionState::Opened => off(Rule::R7),
            SessionState::Dead => false,
        }
    }

    /// Whether it may be chosen for something new.
    pub fn may_be_chosen(&self) -> bool {
        self.state == SessionState::Alive
    }

    /// What it declares about a type.
    pub fn declared(&self, ty: u64) -> Option<(Ownership, KeyKind)> {
        self.declared.get(&ty).copied()
    }

    /// As watchers see it.
    pub fn info(&self) -> SessionInfo {
        SessionInfo { id: self.id, node: NodeInfo::clone(&self.node), state: self.state }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Attempt {
    pub(super) attempt: u32,
    pub(super) session: SessionId,
    pub(super) ttl_ms: u64,
}

/// A node whose sessions keep expiring soon after their first renewal.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Young {
    deaths: u32,
    until_ms: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Sessions {
    living: BTreeMap<SessionId, Session>,
    /// The latest attempt of every process start that is still remembered.
    attempts: BTreeMap<u128, Attempt>,
    /// Process starts whose session has ended, oldest first.
    over: VecDeque<(u128, SessionId)>,
    young: BTreeMap<NodeId, Young>,
}

impl Sessions {
    pub(super) fn get(&self, id: SessionId) -> Option<&Session> {
        self.living.get(&id)
    }
    pub(super) fn get_mut(&mut self, id: SessionId) -> Option<&mut Session> {
        self.living.get_mut(&id)
    }
    pub(super) fn iter(&self) -> impl Iterator<Item = &Session> {
        self.living.values()
    }
    pub(super) fn len(&self) -> usize {
        self.living.len()
    }
    pub(super) fn oldest(&self) -> Option<SessionId> {
        self.living.keys().next().copied()
    }
    pub(super) fn is_living(&self, id: SessionId) -> bool {
        self.living.contains_key(&id)
    }
    pub(super) fn attempt(&self, incarnation: u128) -> Option<Attempt> {
        self.attempts.get(&incarnation).copied()
    }

    /// Adds a session; its deadline counts from cluster time `now_ms`.
    pub(super) fn open(&mut self, id: SessionId, open: Open, now_ms: u64, worker: Option<u16>) -> &Session {
        let ttl_ms = open.ttl_ms.clamp(millis(limits::SESSION_TTL_MIN), millis(limits::SESSION_TTL_MAX));
        let declared =
            open.node.types.iter().take(limits::TYPES).map(|d| (d.ty.id(), (d.ownership, d.keys))).collect();
        self.attempts.insert(open.incarnation, Attempt { attempt: open.attempt, session: id, ttl_ms });
        self.living.entry(id).or_insert(Session {
            id,
            node: Arc::new(open.node),
            state: SessionState::Opened,
            ttl_ms,
            deadline_ms: now_ms.saturating_add(ttl_ms),
            since_ms: 0,
            load: 0,
            worker,
            incarnation: open.incarnation,
            attempt: open.attempt,
            declared,
        })
    }

    /// Those whose deadline lies before `now_ms`.
    pub(super) fn expired(&self, now_ms: u64) -> Vec<SessionId> {
        self.living.values().filter(|s| s.deadline_ms < now_ms).map(|s| s.id).collect()
    }

    /// Ends a session; it is remembered as over for late repeats of its `OpenSession`.
    pub(super) fn end(&mut self, id: SessionId) -> Option<Session> {
        let session = self.living.remove(&id)?;
        self.over.push_back((session.incarnation, id));
        while self.over.len() > limits::ENDED_INCARNATIONS {
            if let Some((incarnation, ended)) = self.over.pop_front()
                && self.attempts.get(&incarnation).is_some_and(|a| a.session == ended)
            {
                self.attempts.remove(&incarnation);
            }
        }
        Some(session)
    }

    /// Counts an expiry towards its node's young deaths, or forgets them if it lived long enough.
    pub(super) fn note_expiry(&mut self, session: &Session, now_ms: u64) {
        if !session.has_authority() {
            return;
        }
        let node = session.node.id;
        if now_ms.saturating_sub(session.since_ms) >= millis(limits::YOUNG) {
            self.young.remove(&node);
            return;
        }
        let young = self.young.entry(node).or_insert(Young { deaths: 0, until_ms: 0 });
        young.deaths = young.deaths.saturating_add(1);
        if young.deaths >= 2 {
            let wait = millis(limits::YOUNG_WAIT) << (young.deaths - 2).min(16);
            young.until_ms = now_ms.saturating_add(wait.min(millis(limits::YOUNG_WAIT_MAX)));
        }
        while self.young.len() > limits::YOUNG_NODES {
            let oldest = self.young.iter().min_by_key(|(n, y)| (y.until_ms, **n)).map(|(n, _)| *n);
            oldest.and_then(|n| self.young.remove(&n));
        }
    }

    /// Whether the node's last sessions died young and it has to wait before it is assigned again.
    pub(super) fn must_wait(&self, node: NodeId, now_ms: u64) -> bool {
        self.young.get(&node).is_some_and(|y| now_ms < y.until_ms)
    }
}
