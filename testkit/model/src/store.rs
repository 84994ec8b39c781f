//! The state store's own promise (G1a, G2; R2, R3), over the product's store tables: activations follow
//! one another with rising tokens, and any of their saves may arrive at any later time, twice or never.
//!
//! Who owns the grain is abstracted to the order of grants, which `grain` and `shard` show.

use bytes::Bytes;
use millet_core::{
    Epoch, Grant, SessionId, ShardId,
    memory_store::Tables,
    store::{Stored, Token, Version, Write},
};
use stateright::{Model, Property};

use crate::meta::grain;

const SLOT: &str = "s";
const SESSION: SessionId = SessionId(1);

/// Bounds of one run.
#[derive(Clone, Copy, Debug)]
pub struct Stores {
    /// Whether grains belong to a shard: then its owner opens the shard, and loads where no outcome is
    /// unknown; a leased activation has a grant of its own, and opens.
    pub sharded: bool,
    /// Writes, in all.
    pub writes: u8,
    /// Activations, in all.
    pub births: u32,
    /// Changes of the shard's owner.
    pub moves: u64,
    /// Saves in flight.
    pub in_flight: usize,
}

/// One save on its way.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Save {
    epoch: Epoch,
    version: u64,
    /// 0: a clear.
    content: u8,
}

/// The activation that lives.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Live {
    epoch: Epoch,
    version: u64,
    content: u8,
    saving: Option<Save>,
}

/// Everything at one moment.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct State {
    store: Tables,
    live: Option<Live>,
    /// The owner's grant, or the latest activation's; and activations made by its process.
    grant: Grant,
    numbers: u32,
    /// A write whose outcome its process does not know (R3): the next activation opens.
    unsettled: bool,
    net: Vec<Save>,
    births: u32,
    writes: u8,
    /// The highest token under which anything was opened.
    opened: Epoch,
    /// Version and content as stored, and the version last acknowledged to an activation.
    stored: (u64, u8),
    acknowledged: u64,
    stale: bool,
    lost: bool,
}

/// One thing that happens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Action {
    /// The grain is activated, by the next process (`anew`) or by the same one.
    Birth {
        anew: bool,
    },
    Write {
        clear: bool,
    },
    /// The store applies a save; `keep`: it comes once more.
    Arrive {
        save: Save,
        keep: bool,
    },
    /// The answer to the save under way reaches the activation.
    Answer,
    /// Nobody knows: the activation ends.
    Unknown,
    /// It ends with nothing under way.
    End,
    /// The shard gets another owner, whether its last one has noticed or not.
    ShardMoves,
}

/// G1(a).
pub const STALE_WRITE: &str = "g1a: no write below the token of a later open";
/// G1(a).
pub const BEHIND: &str = "g1a: no write lands behind a live activation";
/// G2.
pub const LOST_WRITE: &str = "g2: an acknowledged write is found by the next activation";

impl Model for Stores {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut first = State {
            store: Tables::default(),
            live: None,
            grant: Grant { generation: 1, index: 1 },
            numbers: 0,
            unsettled: false,
            net: Vec::new(),
            births: 0,
            writes: 0,
            opened: Epoch::default(),
            stored: (0, 0),
            acknowledged: 0,
            stale: false,
            lost: false,
        };
        if self.sharded {
            first.open_shard();
        }
        vec![first]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        match &state.live {
            None if state.births < self.births => {
                actions.push(Action::Birth { anew: false });
                if !self.sharded {
                    actions.push(Action::Birth { anew: true });
                }
            }
            None => {}
            Some(Live { saving: Some(save), .. }) => {
                actions.push(Action::Unknown);
                if state.stored == (save.version + 1, save.content) {
                    actions.push(Action::Answer);
                }
            }
            Some(Live { saving: None, .. }) => {
                actions.push(Action::End);
                if state.writes < self.writes {
                    actions.push(Action::Write { clear: false });
                    actions.push(Action::Write { clear: true });
                }
            }
        }
        if self.sharded && state.grant.index <= self.moves {
            actions.push(Action::ShardMoves);
        }
        for save in &state.net {
            actions.push(Action::Arrive { save: *save, keep: false });
            actions.push(Action::Arrive { save: *save, keep: true });
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        match action {
            Action::Birth { anew } => next.birth(self.sharded, anew),
            Action::Write { clear } => next.write(clear),
            Action::Arrive { save, keep } => next.arrive(self.sharded, save, keep),
            Action::Answer => next.answer(),
            Action::Unknown => (next.live, next.unsettled) = (None, true),
            Action::End => next.live = None,
            Action::ShardMoves => {
                (next.grant.index, next.numbers) = (next.grant.index + 1, 0);
                (next.live, next.unsettled) = (None, false);
                next.open_shard();
            }
        }
        next.net.sort_unstable();
        (next != *state).then_some(next)
    }

    fn within_boundary(&self, state: &State) -> bool {
        state.net.len() <= self.in_flight
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(STALE_WRITE, |_, s: &State| !s.stale),
            Property::always(LOST_WRITE, |_, s: &State| !s.lost),
            Property::always(BEHIND, |_, s: &State| {
                s.live.is_none_or(|a| a.saving.is_some() || a.version == s.stored.0)
            }),
            Property::sometimes("a write is taken over", |_, s: &State| {
                s.births > 1 && s.live.is_some_and(|a| a.content > 0)
            }),
            Property::sometimes("a save whose outcome nobody knew was made", |_, s: &State| {
                s.live.is_some_and(|a| a.version > s.acknowledged && a.saving.is_none())
            }),
            Property::sometimes("a clear is followed by a write", |_, s: &State| {
                s.stored.0 >= 2 && s.writes > 2
            }),
        ]
    }
}

impl State {
    fn open_shard(&mut self) {
        let opened = self.store.open_shard(&grain().ty, ShardId(0), self.grant, SESSION);
        opened.expect("grants rise");
        self.opened = self.opened.max(Epoch { grant: self.grant, activation: 0 });
    }

    fn birth(&mut self, sharded: bool, anew: bool) {
        self.births += 1;
        if !sharded {
            self.grant.index += 1;
        }
        if anew {
            self.numbers = 0;
        }
        self.numbers += 1;
        let epoch = Epoch::of(self.grant, self.numbers);
        let token = Token { epoch, session: SESSION };
        // As `runtime::saving::load`: a shard's floor guards every key whose writes have an outcome.
        let opens = !sharded || self.unsettled;
        let answer = if opens {
            self.store.open(grain(), SLOT, token)
        } else {
            self.store.load(grain(), SLOT, ShardId(0), token)
        };
        let Ok(Stored { version, value }) = answer else { return };
        if opens {
            (self.opened, self.unsettled) = (self.opened.max(epoch), false);
        }
        let content = value.and_then(|v| v.first().copied()).unwrap_or_default();
        self.lost |= version.0 < self.acknowledged;
        self.live = Some(Live { epoch, version: version.0, content, saving: None });
    }

    fn write(&mut self, clear: bool) {
        self.writes += 1;
        let Some(live) = &mut self.live else { return };
        let save =
            Save { epoch: live.epoch, version: live.version, content: if clear { 0 } else { self.writes } };
        live.saving = Some(save);
        self.net.push(save);
    }

    fn arrive(&mut self, sharded: bool, save: Save, keep: bool) {
        if !keep {
            self.net.retain(|s| *s != save);
        }
        let token = Token { epoch: save.epoch, session: SESSION };
        let shard = sharded.then_some(ShardId(0));
        let write = Write { grain: grain(), slot: SLOT, shard, token, version: Version(save.version) };
        let value = (save.content > 0).then(|| Bytes::copy_from_slice(&[save.content]));
        if let Ok(version) = self.store.write(write, value) {
            let again = self.stored == (version.0, save.content);
            self.stale |= save.epoch < self.opened && !again;
            self.stored = (version.0, save.content);
        }
    }

    fn answer(&mut self) {
        let Some(live) = &mut self.live else { return };
        let Some(save) = live.saving.take() else { return };
        (live.version, live.content) = (save.version + 1, save.content);
        self.acknowledged = live.version;
    }
}
