//! What a member remembers of the recent past, outside the replicated state: watch events, ended
//! sessions, ownership history. A snapshot does not carry it; whoever asks for more is told so.

use std::{collections::VecDeque, sync::Arc};

use millet_core::{
    Grant, Revision, SessionId, ShardId, limits,
    model::{Change, WatchEvent},
};

use super::LeaseKey;

/// What changed hands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Owned {
    /// A grain's lease.
    Grain(LeaseKey),
    /// A shard of a type (by `GrainType::id`).
    Shard(u64, ShardId),
}

/// One change of ownership.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transition {
    /// The entry.
    pub revision: Revision,
    /// What.
    pub owned: Owned,
    /// Who held it before, dead or alive.
    pub from: Option<(SessionId, Grant)>,
    /// Who holds it now.
    pub to: Option<(SessionId, Grant)>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Recent {
    /// Where this process took the state over.
    began: Revision,
    /// Nothing at or below this is known.
    events_floor: Revision,
    events: VecDeque<Arc<WatchEvent>>,
    changes: usize,
    ended_floor: Revision,
    ended: VecDeque<(Revision, SessionId)>,
    history_floor: Revision,
    history: VecDeque<Transition>,
}

impl Recent {
    /// The snapshot that this process took the state from.
    pub(super) fn began(&self) -> Revision {
        self.began
    }

    /// Nothing is known of the time up to `floor`.
    pub(super) fn since(floor: Revision) -> Self {
        Self {
            began: floor,
            events_floor: floor,
            ended_floor: floor,
            history_floor: floor,
            ..Self::default()
        }
    }

    pub(super) fn push_event(&mut self, event: Arc<WatchEvent>) {
        for change in &event.changes {
            if let Change::Ended(session) = change {
                self.ended.push_back((event.revision, *session));
            }
        }
        while self.ended.len() > limits::WATCH_EVENTS {
            self.ended_floor = self.ended.pop_front().map_or(self.ended_floor, |(revision, _)| revision);
        }
        self.changes += event.changes.len();
        self.events.push_back(event);
        while self.changes > limits::WATCH_EVENTS {
            let Some(old) = self.events.pop_front() else { break };
            self.changes -= old.changes.len();
            self.events_floor = old.revision;
        }
    }

    pub(super) fn push_history(&mut self, transition: Transition) {
        self.history.push_back(transition);
        if self.history.len() > limits::HISTORY {
            self.history_floor = self.history.pop_front().map_or(self.history_floor, |t| t.revision);
        }
    }

    pub(super) fn events_since(&self, from: Revision) -> Option<Vec<Arc<WatchEvent>>> {
        (from >= self.events_floor).then(|| {
            let at = self.events.partition_point(|e| e.revision <= from);
            self.events.range(at..).cloned().collect()
        })
    }

    pub(super) fn ended_between(&self, from: Revision, upto: Revision) -> Option<Vec<SessionId>> {
        (from >= self.ended_floor).then(|| {
            let at = self.ended.partition_point(|(revision, _)| *revision <= from);
            let known = self.ended.range(at..).take_while(|(revision, _)| *revision <= upto);
            known.map(|(_, session)| *session).collect()
        })
    }

    pub(super) fn history(&self, owned: Owned) -> (Revision, Vec<Transition>) {
        (self.history_floor, self.history.iter().filter(|t| t.owned == owned).copied().collect())
    }
}
