//! The change of members under way: noted in the log before its first step, so that whoever leads next goes
//! on with it (R34), and the ids of members, which are given out here and never twice. What a change does
//! to the groups is `member::carry`.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::{Machine, Reply, State};

/// Changes of members need this feature level: a build that does not know them stops (R24).
pub const MEMBERS_LEVEL: u32 = 2;
/// From this feature level on the log says from where a change can only be completed, and what came of it.
pub const OUTCOMES_LEVEL: u32 = 3;
/// Changes that have ended and are remembered, some 60 bytes each. Who left before them is let in nowhere
/// either, but is no more told so.
const ENDED: usize = 256;

/// A change of members, the same over all groups.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MemberChange {
    /// The log index at which it began.
    pub id: u64,
    /// Who comes: its new id and its address.
    pub add: Option<(u64, String)>,
    /// Who goes.
    pub remove: Option<u64>,
}

/// See [`Command::Members`](super::Command::Members).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum MemberStep {
    /// Begins a change, unless another one is under way. The same one again is answered with what it is.
    Begin {
        /// The highest member id that any group or founder has: a new one is above it.
        above: u64,
        /// The address of who comes.
        add: Option<String>,
        /// Who goes.
        remove: Option<u64>,
    },
    /// Gives a change up: from here on its new member goes, and nobody comes.
    Cancel {
        /// Which.
        id: u64,
    },
    /// All groups have it. Written below [`OUTCOMES_LEVEL`], where [`MemberStep::Ended`] says more.
    End {
        /// Which.
        id: u64,
    },
    /// From here on groups get their new voters, so that it can only be completed: given up, it might leave
    /// the groups with different voters.
    NoReturn {
        /// Which.
        id: u64,
        /// The address of who goes, so that it can be told.
        leaver: Option<String>,
    },
    /// All groups have it.
    Ended {
        /// What was carried out; of one that was given up, what undid it.
        change: MemberChange,
    },
    /// Which data directory comes: the first one named, and no other for this change. Noted before it is
    /// brought in, and again before every further step with it.
    Comes {
        /// The change.
        id: u64,
        /// The directory's own id.
        node: u64,
    },
}

/// A change that has ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EndedChange {
    /// What was carried out.
    pub change: MemberChange,
    /// It undid a change that was given up.
    pub given_up: bool,
}

/// What came with [`OUTCOMES_LEVEL`].
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Outcomes {
    /// The change under way can only be completed.
    no_return: bool,
    /// Where who goes is reached, once known.
    leaver: Option<String>,
    /// The last ones, newest last.
    ended: VecDeque<EndedChange>,
    /// The data directory that comes, once known.
    comes: Option<u64>,
}

/// What the machine knows of members.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Roster {
    /// The highest id given out.
    last_id: u64,
    change: Option<MemberChange>,
    /// The last change that ended, and whether it was given up.
    ended: Option<(u64, bool)>,
    cancelled: bool,
}

impl Roster {
    /// What a recovered cluster keeps: ids go on where they were.
    pub(super) fn recovered(&self, member: u64) -> Self {
        Self { last_id: self.last_id.max(member), ..Self::default() }
    }
}

impl Machine {
    /// The change of members under way.
    pub fn member_change(&self) -> Option<&MemberChange> {
        self.state.more.roster.change.as_ref()
    }

    /// The highest member id given out here; founders' are not counted.
    pub fn last_member_id(&self) -> u64 {
        self.state.more.roster.last_id
    }

    /// Whether the change under way can only be completed.
    pub fn member_change_is_final(&self) -> bool {
        self.state.outcomes.no_return
    }

    /// The address of who goes in the change under way, once it was noted.
    pub fn member_leaver(&self) -> Option<&str> {
        self.state.outcomes.leaver.as_deref()
    }

    /// The data directory that comes in the change under way, once it was noted.
    pub fn member_comes(&self) -> Option<u64> {
        self.state.outcomes.comes
    }

    /// The last changes that have ended, oldest first.
    pub fn ended_changes(&self) -> impl Iterator<Item = &EndedChange> {
        self.state.outcomes.ended.iter()
    }

    /// Whether a member has left for good, as far back as is remembered: its id never comes back.
    pub fn has_left(&self, member: u64) -> bool {
        self.ended_changes().any(|ended| ended.change.remove == Some(member))
    }

    /// Whether a change that began has ended, and whether it was given up.
    pub fn member_change_ended(&self, id: u64) -> Option<bool> {
        if let Some(ended) = self.ended_changes().find(|ended| ended.change.id == id) {
            return Some(ended.given_up);
        }
        let roster = &self.state.more.roster;
        match &roster.change {
            Some(change) if change.id == id => None,
            // A later one began, so it ended; what came of it is told by the groups.
            Some(_) | None => Some(roster.ended.is_some_and(|(ended, given_up)| ended == id && given_up)),
        }
    }
}

impl State {
    pub(super) fn members(&mut self, index: u64, step: MemberStep) -> Reply {
        let level = match &step {
            MemberStep::Begin { .. } | MemberStep::Cancel { .. } | MemberStep::End { .. } => MEMBERS_LEVEL,
            MemberStep::NoReturn { .. } | MemberStep::Ended { .. } | MemberStep::Comes { .. } => {
                OUTCOMES_LEVEL
            }
        };
        if self.head.feature < level {
            return Reply::Refused(format!("this step of a change of members needs feature level {level}"));
        }
        // Below their level they stay empty: other builds apply the same entries.
        let knows_outcomes = self.head.feature >= OUTCOMES_LEVEL;
        let (roster, outcomes) = (&mut self.more.roster, &mut self.outcomes);
        match step {
            MemberStep::Begin { above, add, remove } => {
                if let Some(have) = &roster.change {
                    let same = have.add.as_ref().map(|(_, addr)| addr) == add.as_ref()
                        && have.remove == remove
                        && !roster.cancelled;
                    return if same { Reply::Change(have.clone()) } else { busy(have) };
                }
                let next = roster.last_id.max(above).checked_add(1);
                let add = match (add, next) {
                    (None, _) => None,
                    (Some(addr), Some(id)) => {
                        roster.last_id = id;
                        Some((id, addr))
                    }
                    // An address book with such an id is wrong; a member that panics here does so for ever.
                    (Some(_), None) => return Reply::Refused("a member has the last id there is".into()),
                };
                let change = MemberChange { id: index, add, remove };
                roster.change = Some(change.clone());
                roster.cancelled = false;
                (outcomes.no_return, outcomes.leaver, outcomes.comes) = (false, None, None);
                Reply::Change(change)
            }
            MemberStep::Cancel { id } => match &mut roster.change {
                Some(change) if change.id == id => {
                    if !roster.cancelled && outcomes.no_return {
                        return Reply::Refused(format!(
                            "{change} can only be completed: its groups get their new voters"
                        ));
                    }
                    if !std::mem::replace(&mut roster.cancelled, true) {
                        let (member, addr) = change.add.take().unzip();
                        change.remove = member;
                        outcomes.leaver = addr.filter(|_| knows_outcomes);
                        outcomes.comes = None;
                    }
                    Reply::Change(change.clone())
                }
                Some(_) | None => not_under_way(id),
            },
            MemberStep::NoReturn { id, leaver } => match &roster.change {
                Some(change) if change.id == id => {
                    outcomes.no_return = true;
                    outcomes.leaver = outcomes.leaver.take().or(leaver);
                    Reply::Change(change.clone())
                }
                Some(_) | None => not_under_way(id),
            },
            MemberStep::Comes { id, node } => match &roster.change {
                Some(change) if change.id == id && change.add.is_some() => {
                    match *outcomes.comes.get_or_insert(node) {
                        noted if noted == node => Reply::Change(change.clone()),
                        _ => Reply::Refused(format!("{change} is meant for another data directory")),
                    }
                }
                Some(_) | None => not_under_way(id),
            },
            MemberStep::End { id } => {
                if roster.change.as_ref().is_some_and(|change| change.id == id) {
                    roster.change = None;
                    roster.ended = Some((id, std::mem::take(&mut roster.cancelled)));
                }
                Reply::Done
            }
            MemberStep::Ended { change } => {
                if roster.change.as_ref() != Some(&change) {
                    let known = outcomes.ended.iter().any(|ended| ended.change == change);
                    return if known { Reply::Done } else { not_under_way(change.id) };
                }
                let given_up = std::mem::take(&mut roster.cancelled);
                (roster.change, roster.ended) = (None, Some((change.id, given_up)));
                (outcomes.no_return, outcomes.leaver, outcomes.comes) = (false, None, None);
                outcomes.ended.push_back(EndedChange { change, given_up });
                if outcomes.ended.len() > ENDED {
                    outcomes.ended.pop_front();
                }
                Reply::Done
            }
        }
    }
}

fn not_under_way(id: u64) -> Reply {
    Reply::Refused(format!("change {id} of members is not under way"))
}

fn busy(have: &MemberChange) -> Reply {
    Reply::Refused(format!("{have} is under way; wait for its end, or cancel it"))
}

impl std::fmt::Display for MemberChange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.add, self.remove) {
            (Some((id, addr)), None) => write!(f, "change {}, member {id} at {addr} joins,", self.id),
            (Some((id, addr)), Some(old)) => {
                write!(f, "change {}, member {id} at {addr} replaces member {old},", self.id)
            }
            (None, Some(old)) => write!(f, "change {}, member {old} leaves,", self.id),
            (None, None) => write!(f, "change {}, given up,", self.id),
        }
    }
}
