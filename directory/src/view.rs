//! The cluster as the watch stream tells it: sessions, types, shard tables, at one revision.
//!
//! Pure. [`View`] is an immutable snapshot, cheap to clone; [`View::apply`] makes the next one and never
//! goes back in revision, reconnects included (R8, R17). Who publishes it is `directory`.

use std::{collections::BTreeMap, sync::Arc};

use hashbrown::HashMap;
use millet_core::{
    GrainType, Grant, NodeId, Revision, SessionId, ShardId,
    control::{Rule, off},
    model::{Change, SessionInfo, SessionState, ShardState, TypeRow, ViewSnapshot, WatchEvent, Watched},
};
use millet_placement::Ring;

/// How a session stands, as this node knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing<'a> {
    /// Not ended.
    Alive(&'a SessionInfo),
    /// Ended: nothing from it is accepted, nothing is sent to it (G1c).
    Ended,
    /// Opened after this view's revision: wait for the watch.
    Newer,
}

/// An immutable picture of the cluster. Cloning copies a few pointers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct View {
    revision: Revision,
    sessions: Arc<BTreeMap<SessionId, SessionInfo>>,
    /// The newest session of each node.
    by_node: Arc<HashMap<NodeId, SessionId>>,
    /// Their nodes, in ring order.
    ring: Arc<Ring>,
    types: Arc<HashMap<GrainType, TypeRow>>,
    shards: Arc<HashMap<GrainType, Arc<Vec<ShardState>>>>,
    /// Sessions known to have ended ahead of the watch (from keepalive answers), until it gets there.
    ended_early: Arc<BTreeMap<SessionId, Revision>>,
}

/// What an input changed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Delta {
    /// Sessions that ended, in no particular order; each is reported once.
    pub ended: Vec<SessionId>,
    /// Shards whose rows changed.
    pub shards: Vec<(GrainType, ShardId)>,
    /// Anything but the revision changed.
    pub changed: bool,
    /// The input was older than the view and was ignored (R8).
    pub stale: bool,
}

impl View {
    /// As of which entry.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Every session that has not ended, by id.
    pub fn sessions(&self) -> impl Iterator<Item = &SessionInfo> {
        self.sessions.values()
    }

    /// How a session stands.
    pub fn session_state(&self, id: SessionId) -> Standing<'_> {
        match self.sessions.get(&id) {
            Some(info) => Standing::Alive(info),
            None if id.0 <= self.revision.0 || self.ended_early.contains_key(&id) => Standing::Ended,
            None => Standing::Newer,
        }
    }

    /// The newest session of a node that has not ended.
    pub fn session_of(&self, node: NodeId) -> Option<&SessionInfo> {
        self.by_node.get(&node).and_then(|id| self.sessions.get(id))
    }

    /// The nodes in ring order, for placement.
    pub fn ring(&self) -> &Ring {
        &self.ring
    }

    /// The cluster's row of a type.
    pub fn type_row(&self, ty: &GrainType) -> Option<&TypeRow> {
        self.types.get(ty)
    }

    /// Every type's name, sorted; for messages.
    pub fn type_names(&self) -> Vec<&str> {
        let mut names: Vec<_> = self.types.keys().map(GrainType::as_str).collect();
        names.sort_unstable();
        names
    }

    /// A shard's row; `Free` if there is none.
    pub fn shard(&self, ty: &GrainType, shard: ShardId) -> ShardState {
        let row = self.shards.get(ty).and_then(|rows| rows.get(shard.0 as usize));
        row.copied().unwrap_or(ShardState::Free)
    }

    /// A shard's holder whose session has not ended.
    pub fn shard_holder(&self, ty: &GrainType, shard: ShardId) -> Option<(&SessionInfo, Grant)> {
        let (session, grant) = self.shard(ty, shard).holder()?;
        match self.session_state(session) {
            Standing::Alive(info) => Some((info, grant)),
            Standing::Ended | Standing::Newer => None,
        }
    }

    /// Every shard that names `session` as its holder.
    pub fn shards_of(&self, session: SessionId) -> Vec<(GrainType, ShardId)> {
        let named = |state: &ShardState| state.holder().is_some_and(|(s, _)| s == session);
        self.shards
            .iter()
            .flat_map(|(ty, rows)| {
                rows.iter().zip(0..).filter(|(r, _)| named(r)).map(|(_, n)| (ty.clone(), ShardId(n)))
            })
            .collect()
    }

    /// Sessions that may be chosen for a type, see [`View::is_eligible`].
    pub fn eligible<'a>(&'a self, ty: &'a GrainType) -> impl Iterator<Item = &'a SessionInfo> {
        self.sessions.values().filter(move |s| self.is_eligible(s, ty))
    }

    /// Whether a session may be chosen for a type: alive (not leaving, not unrenewed) and declaring the
    /// type as the cluster's row does (R11).
    pub fn is_eligible(&self, session: &SessionInfo, ty: &GrainType) -> bool {
        let Some(row) = self.types.get(ty) else { return false };
        session.state == SessionState::Alive
            && session
                .node
                .types
                .iter()
                .any(|d| d.ty == row.ty && d.ownership == row.ownership && d.keys == row.keys)
    }

    /// Applies what the watch delivered. Older revisions change nothing (R8).
    pub fn apply(&mut self, watched: &Watched) -> Delta {
        let before = self.sessions.clone();
        let delta = self.apply_to_tables(watched);
        self.index(&before);
        delta
    }

    /// Brings what is derived from the sessions up to date, if they changed.
    fn index(&mut self, before: &Arc<BTreeMap<SessionId, SessionInfo>>) {
        if Arc::ptr_eq(before, &self.sessions) {
            return;
        }
        let by_node: HashMap<_, _> = self.sessions.values().map(|s| (s.node.id, s.id)).collect();
        if by_node != *self.by_node {
            let nodes: Vec<NodeId> = by_node.keys().copied().collect();
            self.ring = Arc::new(Ring::new(&nodes));
            self.by_node = Arc::new(by_node);
        }
    }

    fn apply_to_tables(&mut self, watched: &Watched) -> Delta {
        match watched {
            Watched::Event(event) => self.apply_event(event),
            Watched::Resync(snapshot) => self.resync(snapshot),
            Watched::Progress(revision) if *revision < self.revision => {
                Delta { stale: true, ..Delta::default() }
            }
            Watched::Progress(revision) => {
                self.advance(*revision);
                Delta::default()
            }
        }
    }

    /// Applies what a keepalive answer said of ended sessions, possibly ahead of the watch (R17).
    pub fn apply_ended(&mut self, sessions: &[SessionId], as_of: Revision) -> Delta {
        let mut delta = Delta::default();
        let before = self.sessions.clone();
        for &id in sessions {
            if as_of > self.revision {
                Arc::make_mut(&mut self.ended_early).insert(id, as_of);
            }
            self.end(id, &mut delta);
        }
        self.index(&before);
        delta
    }

    fn apply_event(&mut self, event: &WatchEvent) -> Delta {
        if event.revision <= self.revision && !off(Rule::R17) {
            return Delta { stale: true, ..Delta::default() };
        }
        let mut delta = Delta { changed: !event.changes.is_empty(), ..Delta::default() };
        for change in &event.changes {
            match change {
                Change::Session(info) => self.put_session(info),
                Change::Ended(id) => self.end(*id, &mut delta),
                Change::Type(row) => self.put_type(row, &mut delta),
                Change::Shard { ty, shard, state } => {
                    self.put_shard(ty, *shard, *state);
                    delta.shards.push((ty.clone(), *shard));
                }
            }
        }
        self.advance(event.revision);
        delta
    }

    /// Whoever is missing from a resync has ended (R17).
    fn resync(&mut self, snapshot: &ViewSnapshot) -> Delta {
        if snapshot.revision < self.revision && !off(Rule::R17) {
            return Delta { stale: true, ..Delta::default() };
        }
        let mut delta = Delta { changed: true, ..Delta::default() };
        let before = self.clone();
        self.sessions = Arc::default();
        snapshot.sessions.iter().for_each(|info| self.put_session(info));
        delta.ended = before.sessions.keys().filter(|id| !self.sessions.contains_key(id)).copied().collect();
        self.types = Arc::new(snapshot.types.iter().map(|row| (row.ty.clone(), row.clone())).collect());
        self.shards = Arc::default();
        for (ty, shard, state) in &snapshot.shards {
            self.put_shard(ty, *shard, *state);
            delta.shards.push((ty.clone(), *shard));
        }
        for (ty, rows) in before.shards.iter() {
            let gone = rows
                .iter()
                .zip(0..)
                .filter(|(row, n)| row.holder().is_some() && self.shard(ty, ShardId(*n)) == ShardState::Free);
            delta.shards.extend(gone.map(|(_, n)| (ty.clone(), ShardId(n))));
        }
        self.advance(snapshot.revision);
        delta
    }

    fn put_session(&mut self, info: &SessionInfo) {
        if info.state != SessionState::Dead && !self.ended_early.contains_key(&info.id) {
            Arc::make_mut(&mut self.sessions).insert(info.id, info.clone());
        }
    }

    /// A new generation begins with a free table (R11): rows of the old one would send keys, hashed onto
    /// another number of shards, to owners who never had them.
    fn put_type(&mut self, row: &TypeRow, delta: &mut Delta) {
        let before = Arc::make_mut(&mut self.types).insert(row.ty.clone(), row.clone());
        if before.is_some_and(|b| b.generation != row.generation)
            && let Some(rows) = Arc::make_mut(&mut self.shards).remove(&row.ty)
        {
            let held = rows.iter().zip(0..).filter(|(state, _)| state.holder().is_some());
            delta.shards.extend(held.map(|(_, n)| (row.ty.clone(), ShardId(n))));
        }
    }

    fn put_shard(&mut self, ty: &GrainType, shard: ShardId, state: ShardState) {
        if shard.0 >= millet_core::limits::SHARDS {
            return; // not a row that a store of ours makes
        }
        let rows = Arc::make_mut(&mut self.shards).entry(ty.clone()).or_default();
        let rows = Arc::make_mut(rows);
        let at = shard.0 as usize;
        if rows.len() <= at {
            rows.resize(at + 1, ShardState::Free);
        }
        rows[at] = state;
    }

    fn end(&mut self, id: SessionId, delta: &mut Delta) {
        if self.sessions.contains_key(&id) {
            Arc::make_mut(&mut self.sessions).remove(&id);
            delta.ended.push(id);
            delta.changed = true;
        }
    }

    fn advance(&mut self, revision: Revision) {
        self.revision = self.revision.max(revision);
        if self.ended_early.values().any(|as_of| *as_of <= self.revision) {
            let now = self.revision;
            Arc::make_mut(&mut self.ended_early).retain(|_, as_of| *as_of > now);
        }
    }
}
