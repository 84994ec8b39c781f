//! Applies entries: the frame around every command, and the commands about the cluster, sessions and
//! time. Leases are in `batch`, shard decisions in `decide`.

use std::{collections::BTreeSet, sync::Arc};

use millet_core::{
    Grant, Revision, SessionId, ShardId,
    control::{Rule, off},
    limits,
    model::{Change, Ownership, SessionState, WatchEvent},
};

use super::{
    Command, FEATURE_LEVEL, Init, LeaseKey, Machine, Open, Opened, Owned, Reply, State, Tick, TickAnswer,
    Ticked, Transition, TypeEntry, recent::Recent, shard,
};

/// What one entry does beside changing rows.
pub(super) struct Entry {
    pub(super) index: u64,
    /// The index as grants name it.
    grant_index: u64,
    changes: Vec<Change>,
    transitions: Vec<Transition>,
    /// What was granted in this entry: nothing is granted twice (R24).
    granted: BTreeSet<LeaseKey>,
    granted_shards: BTreeSet<(u64, ShardId)>,
}

impl Entry {
    pub(super) fn change(&mut self, change: Change) {
        self.changes.push(change);
    }

    pub(super) fn record(
        &mut self,
        owned: Owned,
        from: Option<(SessionId, Grant)>,
        to: Option<(SessionId, Grant)>,
    ) {
        self.transitions.push(Transition { revision: Revision(self.index), owned, from, to });
    }

    /// Whether the grain has been granted in this entry.
    pub(super) fn has_granted(&self, key: LeaseKey) -> bool {
        self.granted.contains(&key) && !off(Rule::R24)
    }

    /// The one grant that this entry may give a grain.
    pub(super) fn grant(&mut self, key: LeaseKey, generation: u32) -> Grant {
        assert!(
            self.granted.insert(key) || off(Rule::R24),
            "a second grant of one grain in entry {}",
            self.index
        );
        Grant { generation, index: self.grant_index }
    }

    /// The one grant that this entry may give a shard; `None` if it has been given.
    pub(super) fn grant_shard(&mut self, ty: u64, shard: ShardId, generation: u32) -> Option<Grant> {
        self.granted_shards.insert((ty, shard)).then_some(Grant { generation, index: self.grant_index })
    }
}

impl Machine {
    /// Applies the entry at `index`. Entries come in order; those without a command go to
    /// [`Machine::advance`]. Returns the reply for the proposer, and the event for watchers if the view
    /// changed.
    pub fn apply(&mut self, index: u64, command: Command) -> (Reply, Option<Arc<WatchEvent>>) {
        self.advance(index);
        let mut entry = Entry {
            index,
            // Off: grants are counted from the snapshot that this process began with.
            grant_index: if off(Rule::EpochKept) { index - self.recent.began().0 } else { index },
            changes: Vec::new(),
            transitions: Vec::new(),
            granted: BTreeSet::new(),
            granted_shards: BTreeSet::new(),
        };
        let reply = self.state.apply(&mut entry, command);
        entry.transitions.into_iter().for_each(|t| self.recent.push_history(t));
        if entry.changes.is_empty() {
            return (reply, None);
        }
        let event = Arc::new(WatchEvent { revision: Revision(index), changes: entry.changes });
        self.recent.push_event(event.clone());
        (reply, Some(event))
    }

    /// Notes an entry that carries no command.
    pub fn advance(&mut self, index: u64) {
        assert!(index > self.state.head.applied, "entry {index} after {}", self.state.head.applied);
        self.state.head.applied = index;
    }

    /// Why this build may not apply a command that others may: then the member must stop (R24).
    pub fn cannot_apply(&self, command: &Command) -> Option<String> {
        match command {
            Command::FeatureLevel(level) if *level > FEATURE_LEVEL => Some(format!(
                "feature level {level} is in force, this build knows up to {FEATURE_LEVEL}; upgrade this member"
            )),
            Command::FeatureLevel(_)
            | Command::Init(_)
            | Command::OpenSession(_)
            | Command::Tick(_)
            | Command::Batch(_)
            | Command::ShardDecisions(_)
            | Command::Sweep { .. }
            | Command::TypeSet { .. }
            | Command::Members(_) => None,
        }
    }

    pub(super) fn from_state(state: State) -> Self {
        let recent = Recent::since(Revision(state.head.applied));
        Self { state, recent }
    }
}

impl State {
    fn apply(&mut self, entry: &mut Entry, command: Command) -> Reply {
        if self.head.init.is_none() && !matches!(command, Command::Init(_)) {
            return Reply::Refused("the cluster is not initialised; run init once".into());
        }
        match command {
            Command::Init(init) => self.init(init),
            Command::OpenSession(open) => self.open_session(entry, open),
            Command::Tick(tick) => Reply::Ticked(self.tick(entry, &tick)),
            Command::Batch(ops) => Reply::Batch(ops.into_iter().map(|op| self.op(entry, op)).collect()),
            Command::ShardDecisions(decisions) => {
                Reply::Decided(decisions.iter().map(|d| self.decide(entry, d)).collect())
            }
            Command::Sweep { rows } => self.sweep(rows),
            Command::FeatureLevel(level) => {
                self.head.feature = self.head.feature.max(level);
                Reply::Done
            }
            Command::TypeSet { ty, ownership } => self.type_set(entry, ty.id(), ownership),
            Command::Members(step) => self.members(entry.index, step),
        }
    }

    fn init(&mut self, init: Init) -> Reply {
        match &self.head.init {
            Some(same) if *same == init => Reply::Done,
            Some(other) => Reply::Refused(format!("already initialised as cluster {:?}", other.cluster)),
            None => {
                self.head.generation = init.generation;
                self.head.init = Some(init);
                Reply::Done
            }
        }
    }

    /// Opens a session, or finds the one that the same incarnation and attempt opened before (R7).
    fn open_session(&mut self, entry: &mut Entry, mut open: Open) -> Reply {
        let id = SessionId(entry.index);
        if let Some(known) = self.head.sessions.attempt(open.incarnation) {
            if open.attempt < known.attempt {
                let why =
                    format!("attempt {} is over, attempt {} has been made", open.attempt, known.attempt);
                return Reply::Refused(why);
            }
            if open.attempt == known.attempt {
                let lease = |s: &super::Session| self.head.workers.lease_of(s.worker?, s.id);
                let worker = self.head.sessions.get(known.session).and_then(lease);
                return Reply::Opened(Opened { session: known.session, ttl_ms: known.ttl_ms, worker });
            }
            self.end_session(entry, known.session);
        }
        if self.head.sessions.len() >= limits::SESSIONS {
            return Reply::Refused(format!("{} sessions are open, the limit; close some", limits::SESSIONS));
        }
        self.declare_types(entry, &open);
        open.node.types.retain(|d| self.head.types.get(&d.ty.id()).is_some_and(|row| row.row().ty == d.ty));
        let worker = self.head.workers.lease(id);
        let now_ms = self.head.time_ms;
        let session = self.head.sessions.open(id, open, now_ms, worker.map(|w| w.worker));
        entry.change(Change::Session(session.info()));
        Reply::Opened(Opened { session: id, ttl_ms: session.ttl_ms, worker })
    }

    /// The first session that declares a type makes its row (R11).
    fn declare_types(&mut self, entry: &mut Entry, open: &Open) {
        let shards = |ownership| match ownership {
            Ownership::Leased => 0,
            Ownership::Sharded { shards } => shards as usize,
        };
        // Counted once: a session may declare as many types as fit into a message.
        let mut total: usize = self.head.types.values().map(|t| shards(t.row().ownership)).sum();
        for decl in &open.node.types {
            let fits = self.head.types.len() < limits::TYPES
                && shard::is_valid(decl.ownership)
                && total + shards(decl.ownership) <= limits::TOTAL_SHARDS;
            if fits && !self.head.types.contains_key(&decl.ty.id()) {
                let row = TypeEntry::new(decl, self.head.generation);
                total += shards(decl.ownership);
                entry.change(Change::Type(row.row().clone()));
                self.head.types.insert(decl.ty.id(), row);
            }
        }
    }

    /// Time goes forward, then sessions are renewed, then the others expire (R6).
    fn tick(&mut self, entry: &mut Entry, tick: &Tick) -> Ticked {
        self.head.time_ms = self.head.time_ms.max(tick.time_ms);
        let time_ms = self.head.time_ms;
        let answers = tick.renewed.iter().map(|r| {
            let mut answer =
                TickAnswer { session: r.session, number: r.number, alive: false, reserved_ms: 0 };
            let Some(session) = self.head.sessions.get_mut(r.session) else { return answer };
            if session.state == SessionState::Opened {
                session.state = SessionState::Alive;
                session.since_ms = time_ms;
                entry.change(Change::Session(session.info()));
            }
            session.deadline_ms = session.deadline_ms.max(time_ms.saturating_add(session.ttl_ms));
            session.load = r.load;
            answer.alive = true;
            if let Some(worker) = session.worker {
                answer.reserved_ms = self.head.workers.reserve(worker, r.session, r.reserve_ms, tick.wall_ms);
            }
            answer
        });
        let answers = answers.collect();
        for id in self.head.sessions.expired(time_ms) {
            if let Some(session) = self.end_session(entry, id) {
                self.head.sessions.note_expiry(&session, time_ms);
            }
        }
        Ticked { revision: Revision(entry.index), time_ms, answers }
    }

    /// Ends a session and with it everything that names it: rows are not touched.
    pub(super) fn end_session(&mut self, entry: &mut Entry, id: SessionId) -> Option<super::Session> {
        let session = self.head.sessions.end(id)?;
        self.head.types.values_mut().for_each(|ty| ty.session_ended(id));
        if let Some(worker) = session.worker {
            self.head.workers.free(worker, id);
        }
        entry.change(Change::Ended(id));
        Some(session)
    }

    /// Deletes rows whose session is dead now; the rows of living ones are not touched.
    fn sweep(&mut self, rows: u32) -> Reply {
        let sessions = &self.head.sessions;
        let (dead, next) =
            self.leases.scan(self.head.sweep_after, rows as usize, |session| !sessions.is_living(session));
        dead.iter().for_each(|key| self.leases.remove(*key));
        self.head.sweep_after = next;
        Reply::Swept { deleted: u32::try_from(dead.len()).unwrap_or(u32::MAX) }
    }

    fn type_set(&mut self, entry: &mut Entry, ty: u64, ownership: Ownership) -> Reply {
        let Some(row) = self.head.types.get_mut(&ty) else {
            return Reply::Refused("no such grain type; a node that declares it has to join first".into());
        };
        if !shard::is_valid(ownership) {
            return Reply::Refused(format!("a type has 1 to {} shards", limits::SHARDS));
        }
        if row.row().ownership != ownership {
            let Some(generation) = self.head.generation.checked_add(1) else {
                return Reply::Refused("its generation is the last one there is".into());
            };
            self.head.generation = generation;
            let sessions = &self.head.sessions;
            row.change(ownership, self.head.generation, |session| sessions.is_living(session));
            entry.change(Change::Type(row.row().clone()));
        }
        Reply::Done
    }
}
