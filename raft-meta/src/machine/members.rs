//! The change of members under way: noted in the log before its first step, so that whoever leads next goes
//! on with it (R34), and the ids of members, which are given out here and never twice. What a change does
//! to the groups is `member::change`.

use serde::{Deserialize, Serialize};

use super::{Machine, Reply, State};

/// Changes of members need this feature level: a build that does not know them stops (R24).
pub const MEMBERS_LEVEL: u32 = 2;

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
    /// All groups have it.
    End {
        /// Which.
        id: u64,
    },
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

    /// Whether a change that began has ended, and whether it was given up.
    pub fn member_change_ended(&self, id: u64) -> Option<bool> {
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
        if self.head.feature < MEMBERS_LEVEL {
            return Reply::Refused(format!("changes of members need feature level {MEMBERS_LEVEL}"));
        }
        let roster = &mut self.more.roster;
        match step {
            MemberStep::Begin { above, add, remove } => {
                if let Some(have) = &roster.change {
                    let same = have.add.as_ref().map(|(_, addr)| addr) == add.as_ref()
                        && have.remove == remove
                        && !roster.cancelled;
                    return if same { Reply::Change(have.clone()) } else { busy(have) };
                }
                let add = add.map(|addr| {
                    roster.last_id = roster.last_id.max(above) + 1;
                    (roster.last_id, addr)
                });
                let change = MemberChange { id: index, add, remove };
                roster.change = Some(change.clone());
                roster.cancelled = false;
                Reply::Change(change)
            }
            MemberStep::Cancel { id } => match &mut roster.change {
                Some(change) if change.id == id => {
                    if !std::mem::replace(&mut roster.cancelled, true) {
                        change.remove = change.add.take().map(|(member, _)| member);
                    }
                    Reply::Change(change.clone())
                }
                Some(_) | None => Reply::Refused(format!("change {id} of members is not under way")),
            },
            MemberStep::End { id } => {
                if roster.change.as_ref().is_some_and(|change| change.id == id) {
                    roster.change = None;
                    roster.ended = Some((id, std::mem::take(&mut roster.cancelled)));
                }
                Reply::Done
            }
        }
    }
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
