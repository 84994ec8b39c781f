//! The keeper's transitions, as a table: what docs show and the tests compare with.

use std::fmt::Write as _;

/// Where the keeper stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Phase {
    /// Asking for a session.
    Opening,
    /// Has one that was never renewed: no authority (R7).
    Opened,
    /// Renewed, before its local deadline.
    Serving,
    /// Past its local deadline; still sending (R4).
    Frozen,
    /// Has given a session up because of a lagging watch (R17); waits until it has expired.
    Resting,
    /// Sends nothing any more.
    Stopped,
}

/// What moves it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Happening {
    /// `OpenSession` was answered.
    OpenAnswered,
    /// A keepalive was renewed, and the credit is not yet used up.
    Renewed,
    /// The local deadline passed.
    Deadline,
    /// The store says Dead.
    Dead,
    /// The watch was behind for a whole TTL.
    LeftBehind,
    /// The session given up has expired.
    Rested,
    /// Told to stop.
    Stop,
}

/// Every legal transition: (from, what happened, to).
pub const TABLE: &[(Phase, Happening, Phase)] = &[
    (Phase::Opening, Happening::OpenAnswered, Phase::Opened),
    (Phase::Opened, Happening::Renewed, Phase::Serving),
    (Phase::Serving, Happening::Renewed, Phase::Serving),
    (Phase::Serving, Happening::Deadline, Phase::Frozen),
    (Phase::Frozen, Happening::Renewed, Phase::Serving),
    (Phase::Opened, Happening::Dead, Phase::Opening),
    (Phase::Serving, Happening::Dead, Phase::Opening),
    (Phase::Frozen, Happening::Dead, Phase::Opening),
    (Phase::Opened, Happening::LeftBehind, Phase::Resting),
    (Phase::Serving, Happening::LeftBehind, Phase::Resting),
    (Phase::Frozen, Happening::LeftBehind, Phase::Resting),
    (Phase::Resting, Happening::Rested, Phase::Opening),
    (Phase::Opening, Happening::Stop, Phase::Stopped),
    (Phase::Opened, Happening::Stop, Phase::Stopped),
    (Phase::Serving, Happening::Stop, Phase::Stopped),
    (Phase::Frozen, Happening::Stop, Phase::Stopped),
    (Phase::Resting, Happening::Stop, Phase::Stopped),
];

impl Phase {
    /// The next phase, if the table has one.
    pub fn try_on(self, happening: Happening) -> Option<Self> {
        TABLE.iter().find(|(from, what, _)| *from == self && *what == happening).map(|(_, _, to)| *to)
    }

    /// As [`Phase::try_on`], for the keeper, which asks only for transitions of the table.
    pub(crate) fn on(self, happening: Happening) -> Self {
        let next = self.try_on(happening);
        debug_assert!(next.is_some(), "{happening:?} in {self:?} is not in the table");
        next.unwrap_or(self)
    }
}

/// The table as text, one transition a line.
pub fn render() -> String {
    TABLE.iter().fold(String::new(), |mut text, (from, what, to)| {
        let _ = writeln!(text, "{what:?} ({from:?} -> {to:?})");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only Dead and LeftBehind take a session away: no deadline, no failure does (R4).
    #[test]
    fn r4_the_table_drops_a_session_only_when_it_is_dead_or_left_behind() {
        assert_eq!(render(), SNAPSHOT);
        let drops: Vec<_> = TABLE
            .iter()
            .filter(|(from, _, to)| {
                matches!(from, Phase::Serving | Phase::Frozen)
                    && matches!(to, Phase::Opening | Phase::Resting)
            })
            .map(|(_, what, _)| *what)
            .collect();
        assert!(drops.iter().all(|what| matches!(what, Happening::Dead | Happening::LeftBehind)));
        assert_eq!(Phase::Opening.try_on(Happening::Renewed), None);
    }

    const SNAPSHOT: &str = "OpenAnswered (Opening -> Opened)
Renewed (Opened -> Serving)
Renewed (Serving -> Serving)
Deadline (Serving -> Frozen)
Renewed (Frozen -> Serving)
Dead (Opened -> Opening)
Dead (Serving -> Opening)
Dead (Frozen -> Opening)
LeftBehind (Opened -> Resting)
LeftBehind (Serving -> Resting)
LeftBehind (Frozen -> Resting)
Rested (Resting -> Opening)
Stop (Opening -> Stopped)
Stop (Opened -> Stopped)
Stop (Serving -> Stopped)
Stop (Frozen -> Stopped)
Stop (Resting -> Stopped)
";
}
