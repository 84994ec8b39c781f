//! The holder's book of shards (R8): what is assigned to this node's session, what of it is open, what
//! is being handed over, and what has been given up for ever (R1). Pure.
//!
//! Assigned → opening (one `open_shard` on the state store) → open; Revoking → closing → an ack that
//! names the grant given up, or "refused" after the revoke bound. The end of the session drops all.

use std::collections::BTreeMap;

use millet_core::{
    GrainType, Grant, SessionId, ShardId,
    control::{Rule, off},
    model::ShardState,
};

use crate::meta::ShardAck;

/// Which shard.
pub type ShardKey = (GrainType, ShardId);

/// How far a shard that is assigned here has come.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Stage {
    /// `open_shard` is under way: nothing runs yet.
    Opening,
    /// Grains may be activated.
    Open,
    /// Activations are ending; nothing new starts.
    Closing,
}

/// What the driver has to do, in this order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ShardEffect {
    /// Raise the shard's floor in the state store, then report to [`ShardBook::opened`].
    Open {
        /// Which.
        key: ShardKey,
        /// Under which grant.
        grant: Grant,
        /// Of which session.
        session: SessionId,
    },
    /// End every activation of the shard within the revoke bound, then report to [`ShardBook::closed`].
    Close {
        /// Which.
        key: ShardKey,
        /// The grant being given up.
        grant: Grant,
    },
    /// Send the ack until it is answered. Its grant is dead here from now on (R1).
    Ack(ShardAck),
}

/// The shards of the current session.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct ShardBook {
    session: Option<SessionId>,
    slots: BTreeMap<ShardKey, Slot>,
    /// Highest grant given up per shard; kept until the session ends (R1).
    given_up: BTreeMap<ShardKey, Grant>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Slot {
    stage: Stage,
    grant: Grant,
    /// Closing because the store took the grant away, not because it asked for it: nothing is acked.
    taken: bool,
}

impl ShardBook {
    /// A session begins, or (with `None`) has ended: it owns nothing, and has given nothing up.
    pub fn session(&mut self, session: Option<SessionId>) {
        *self = Self { session, ..Self::default() };
    }

    /// A session has ended. Whoever hears of it late may find the next one's book: that one stays.
    pub fn ended(&mut self, session: SessionId) {
        if self.session == Some(session) {
            self.session(None);
        }
    }

    /// How a shard stands here, and under which grant.
    pub fn stage(&self, key: &ShardKey) -> Option<(Stage, Grant)> {
        self.slots.get(key).map(|s| (s.stage, s.grant))
    }

    /// Every shard here, with its stage.
    pub fn all(&self) -> impl Iterator<Item = (&ShardKey, Stage, Grant)> {
        self.slots.iter().map(|(key, slot)| (key, slot.stage, slot.grant))
    }

    /// The shard's row, as the view has it now. The view never goes back in revision.
    pub fn row(&mut self, key: &ShardKey, row: ShardState) -> Vec<ShardEffect> {
        let Some(mine) = self.session else { return Vec::new() };
        match row {
            ShardState::Assigned { session, grant } if session == mine => self.assigned(key, grant, mine),
            ShardState::Revoking { session, grant, .. } if session == mine => self.revoking(key, grant, mine),
            ShardState::Free | ShardState::Assigned { .. } | ShardState::Revoking { .. } => self.lost(key),
        }
    }

    /// `open_shard` succeeded (`true`), or the store refused because someone newer has opened it.
    pub fn opened(&mut self, key: &ShardKey, grant: Grant, ok: bool) {
        if let Some(slot) = self.slots.get_mut(key).filter(|s| s.grant == grant && s.stage == Stage::Opening)
        {
            if ok {
                slot.stage = Stage::Open;
            } else {
                self.mark(key, grant);
            }
        }
    }

    /// Every activation of the shard has ended (`true`), or the revoke bound came first.
    pub fn closed(&mut self, key: &ShardKey, grant: Grant, ended: bool, row: ShardState) -> Vec<ShardEffect> {
        let Some(session) = self.session else { return Vec::new() };
        let Some(slot) = self.slots.get_mut(key).filter(|s| s.grant == grant && s.stage == Stage::Closing)
        else {
            return Vec::new();
        };
        match (ended, slot.taken) {
            (true, false) => {
                self.mark(key, grant);
                vec![ack(key, session, grant, true)]
            }
            (false, false) => {
                slot.stage = Stage::Open;
                vec![ack(key, session, grant, false)]
            }
            // Taken away: it is dead, ended or not; what is assigned by now may begin after it ended.
            (true, true) => {
                self.mark(key, grant);
                self.row(key, row)
            }
            (false, true) => vec![ShardEffect::Close { key: key.clone(), grant }],
        }
    }

    /// Closes a shard of its own accord, for a leave with nobody to hand it to.
    pub fn close_now(&mut self, key: &ShardKey) -> Vec<ShardEffect> {
        match self.slots.get_mut(key) {
            Some(slot) if slot.stage == Stage::Open => {
                slot.stage = Stage::Closing;
                vec![ShardEffect::Close { key: key.clone(), grant: slot.grant }]
            }
            Some(slot) if slot.stage == Stage::Opening => {
                let grant = slot.grant;
                self.mark(key, grant);
                self.session.map(|s| ack(key, s, grant, true)).into_iter().collect()
            }
            Some(_) | None => Vec::new(),
        }
    }

    fn assigned(&mut self, key: &ShardKey, grant: Grant, session: SessionId) -> Vec<ShardEffect> {
        if self.has_given_up(key, grant) {
            return Vec::new(); // R1
        }
        match self.slots.get_mut(key) {
            Some(slot) if grant <= slot.grant => Vec::new(),
            // A higher grant: the one here was taken away unseen. What runs under it ends first.
            Some(slot) if slot.stage == Stage::Open => {
                (slot.stage, slot.taken) = (Stage::Closing, true);
                vec![ShardEffect::Close { key: key.clone(), grant: slot.grant }]
            }
            Some(slot) if slot.stage == Stage::Closing => {
                slot.taken = true;
                Vec::new()
            }
            Some(_) | None => {
                self.slots.insert(key.clone(), Slot { stage: Stage::Opening, grant, taken: false });
                vec![ShardEffect::Open { key: key.clone(), grant, session }]
            }
        }
    }

    fn revoking(&mut self, key: &ShardKey, grant: Grant, session: SessionId) -> Vec<ShardEffect> {
        if self.has_given_up(key, grant) {
            return Vec::new(); // its ack is on the way
        }
        match self.slots.get_mut(key) {
            Some(slot) if grant < slot.grant => Vec::new(),
            Some(slot) if slot.stage == Stage::Closing => {
                slot.taken |= slot.grant < grant;
                Vec::new()
            }
            Some(slot) if slot.stage == Stage::Open => {
                slot.stage = Stage::Closing;
                slot.taken = slot.grant < grant;
                vec![ShardEffect::Close { key: key.clone(), grant: slot.grant }]
            }
            // Nothing runs under it: given up at once.
            Some(_) | None => {
                self.mark(key, grant);
                vec![ack(key, session, grant, true)]
            }
        }
    }

    /// The row names somebody else, or nobody.
    fn lost(&mut self, key: &ShardKey) -> Vec<ShardEffect> {
        match self.slots.get_mut(key) {
            None => Vec::new(),
            Some(slot) => match slot.stage {
                Stage::Opening => {
                    let grant = slot.grant;
                    self.mark(key, grant);
                    Vec::new()
                }
                Stage::Open => {
                    (slot.stage, slot.taken) = (Stage::Closing, true);
                    vec![ShardEffect::Close { key: key.clone(), grant: slot.grant }]
                }
                Stage::Closing => {
                    slot.taken = true;
                    Vec::new()
                }
            },
        }
    }

    fn has_given_up(&self, key: &ShardKey, grant: Grant) -> bool {
        self.given_up.get(key).is_some_and(|mark| grant <= *mark) && !off(Rule::R1)
    }

    fn mark(&mut self, key: &ShardKey, grant: Grant) {
        self.slots.remove(key);
        let mark = self.given_up.entry(key.clone()).or_insert(grant);
        *mark = (*mark).max(grant);
    }
}

fn ack(key: &ShardKey, session: SessionId, grant: Grant, given_up: bool) -> ShardEffect {
    ShardEffect::Ack(ShardAck { ty: key.0.clone(), shard: key.1, session, grant, given_up })
}
