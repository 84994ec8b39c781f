//! The life of an activation as a table: every legal transition is a row, everything else is an error.
//!
//! Pure. `activation` holds a phase under its lock and moves it through [`Phase::step`].

/// Where an activation stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Phase {
    /// In the catalog, nothing started.
    New,
    /// Obtaining the right to run the grain.
    Claiming,
    /// Making the grain, loading its state, running `activate`.
    Loading,
    /// Nothing to do; no task, no channel, no buffer.
    Idle,
    /// A run owns the grain.
    Running,
    /// Ending: no turn starts; calls wait for the next activation, or are sent elsewhere.
    Draining,
    /// Ended: whoever meets it removes it from the catalog and looks again.
    Gone,
}

/// What happens to an activation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Event {
    /// The first message has arrived.
    Called,
    /// The claim is granted.
    Claimed,
    /// The claim was refused.
    Refused,
    /// `activate` succeeded.
    Activated,
    /// State or `activate` failed, or the claim was lost while loading.
    Failed,
    /// A message for an idle activation.
    Woken,
    /// Both lanes are empty.
    Emptied,
    /// It is to end.
    Ending,
    /// It has ended.
    Ended,
}

/// A transition that is not in the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("an activation in phase {from:?} cannot take {event:?}")]
pub struct Illegal {
    /// The phase it was in.
    pub from: Phase,
    /// What was asked of it.
    pub event: Event,
}

/// Every legal transition: event, from, to.
pub const TABLE: &[(Event, Phase, Phase)] = &[
    (Event::Called, Phase::New, Phase::Claiming),
    (Event::Claimed, Phase::Claiming, Phase::Loading),
    (Event::Refused, Phase::Claiming, Phase::Gone),
    (Event::Activated, Phase::Loading, Phase::Running),
    (Event::Failed, Phase::Loading, Phase::Gone),
    (Event::Woken, Phase::Idle, Phase::Running),
    (Event::Emptied, Phase::Running, Phase::Idle),
    (Event::Ending, Phase::Running, Phase::Draining),
    (Event::Ending, Phase::Idle, Phase::Draining),
    (Event::Ended, Phase::Draining, Phase::Gone),
    (Event::Ended, Phase::New, Phase::Gone),
];

impl Phase {
    /// The phase after `event`.
    pub fn step(self, event: Event) -> Result<Self, Illegal> {
        TABLE
            .iter()
            .find(|(e, from, _)| *e == event && *from == self)
            .map(|(_, _, to)| *to)
            .ok_or(Illegal { from: self, event })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table is the design: a change of it must be seen.
    #[test]
    fn the_table_is_what_the_documentation_shows() {
        let shown: Vec<String> = TABLE.iter().map(|(e, f, t)| format!("{e:?} ({f:?} -> {t:?})")).collect();
        assert_eq!(
            shown.join("\n"),
            "Called (New -> Claiming)\nClaimed (Claiming -> Loading)\nRefused (Claiming -> Gone)\n\
             Activated (Loading -> Running)\nFailed (Loading -> Gone)\nWoken (Idle -> Running)\n\
             Emptied (Running -> Idle)\nEnding (Running -> Draining)\nEnding (Idle -> Draining)\n\
             Ended (Draining -> Gone)\nEnded (New -> Gone)"
        );
    }

    /// What is not in the table is an error value that names both sides.
    #[test]
    fn an_illegal_transition_is_an_error_value() {
        let e = Phase::Gone.step(Event::Woken).expect_err("gone is final");
        assert_eq!(e.to_string(), "an activation in phase Gone cannot take Woken");
        assert!(TABLE.iter().all(|(_, from, _)| *from != Phase::Gone));
    }
}
