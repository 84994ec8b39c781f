//! One node of the model: the product's view, shard book and session lease, and what the directory and
//! the runtime do around them.

use std::{
    collections::BTreeSet,
    hash::{Hash, Hasher},
    time::Duration,
};

use millet_core::{
    BootTime, Grant, Revision, SessionId,
    memory_store::Tables,
    model::{ViewSnapshot, WatchEvent, Watched},
};
use millet_directory::{
    View,
    meta::ShardAck,
    shards::{ShardBook, ShardEffect, ShardKey, Stage},
    view::{Delta, Standing as Known},
};

use super::{Action, Message, SHARD, Shards, ack};
use crate::{
    holder::{Holder, Standing},
    meta::{Meta, TTL_MS, sharded},
};

/// A turn under way: the grant and the session it was claimed under.
pub type Work = (Grant, SessionId);

/// A node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    n: usize,
    attempts: u32,
    holder: Option<Holder>,
    /// Past the local deadline.
    pub frozen: bool,
    /// The product's.
    pub view: View,
    book: ShardBook,
    /// `open_shard` under way.
    opening: Option<(Grant, SessionId)>,
    /// Activations are being ended.
    closing: Option<Grant>,
    /// A turn of the shard.
    pub work: Option<Work>,
    /// The last ack.
    pub acked: Option<ShardAck>,
    /// Sessions that it was told have ended.
    knew: BTreeSet<SessionId>,
    /// Whether it has ever served, and given the shard up.
    pub has_served: bool,
    /// See `has_served`.
    pub has_given_up: bool,
}

/// What two nodes differ by, but for what follows from it.
impl Hash for Node {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.holder, self.frozen, &self.book, self.opening, self.closing, self.work).hash(state);
        let acked = self.acked.as_ref().map(|a| (a.session, a.grant, a.given_up));
        (acked, &self.knew, self.has_served, self.has_given_up, self.attempts).hash(state);
        (self.view.revision(), self.view.shard(sharded(), SHARD)).hash(state);
        self.view.sessions().for_each(|s| s.id.hash(state));
    }
}

fn key() -> ShardKey {
    (sharded().clone(), SHARD)
}

impl Node {
    /// A process without a session.
    pub fn new(n: usize) -> Self {
        Self {
            n,
            attempts: 0,
            holder: None,
            frozen: false,
            view: View::default(),
            book: ShardBook::default(),
            opening: None,
            closing: None,
            work: None,
            acked: None,
            knew: BTreeSet::new(),
            has_served: false,
            has_given_up: false,
        }
    }

    /// Opens a session and hears of its first renewal.
    pub fn join(&mut self, meta: &mut Meta) {
        self.attempts += 1;
        let session = meta.join(self.n, self.n as u128, self.attempts);
        let holder = Holder::opened(session, Duration::from_millis(TTL_MS));
        holder.lease().renewed(BootTime(0));
        (self.holder, self.frozen) = (Some(holder), false);
        self.book.session(Some(session));
    }

    /// As `Directory::on_keeper_event` for `Ready`.
    pub fn ready(&mut self, net: &mut Vec<Message>) {
        let Some(session) = self.session() else { return };
        if !self.view.shards_of(session).is_empty() {
            self.feed(net);
        }
    }

    /// The session in use.
    pub fn session(&self) -> Option<SessionId> {
        self.holder.as_ref().map(|h| h.lease().id())
    }

    fn now(&self, holder: &Holder) -> BootTime {
        if self.frozen { holder.lease().valid_until() } else { BootTime(0) }
    }

    /// Whether its session is valid now.
    pub fn is_valid(&self) -> bool {
        self.holder.as_ref().is_some_and(|h| h.standing(self.now(h)) == Standing::Valid)
    }

    /// Whether a turn may start, or one that runs may still be heard.
    pub fn serves(&self) -> bool {
        let open = matches!(self.book.stage(&key()), Some((Stage::Open, _)));
        let heard = self.work.is_some_and(|(_, session)| self.session() == Some(session));
        self.is_valid() && (open || heard)
    }

    /// Whether every session that its watch or a keepalive answer told it has ended is so in its view (G1c).
    pub fn remembers_the_dead(&self) -> bool {
        self.knew.iter().all(|s| self.view.session_state(*s) == Known::Ended)
    }

    pub(super) fn actions(&self, n: usize, to: &mut Vec<Action>, bounds: &Shards, spent: (u8, u8)) {
        if self.opening.is_some() {
            to.push(Action::Opened(n));
        }
        if let Some(grant) = self.closing {
            if self.work.is_none_or(|(under, _)| under > grant) {
                to.push(Action::Closed { node: n, ended: true });
            } else {
                to.push(Action::Closed { node: n, ended: false });
            }
        }
        match (self.work, self.book.stage(&key())) {
            (None, Some((Stage::Open, _))) if bounds.work && self.is_valid() => to.push(Action::StartWork(n)),
            (None, _) => {}
            (Some(_), _) => to.push(Action::EndWork(n)),
        }
        let (freezes, joins) = spent;
        match &self.holder {
            Some(_) if self.frozen => to.extend([Action::Thaw(n), Action::HearDead(n)]),
            Some(_) if freezes < bounds.freezes => to.push(Action::Freeze(n)),
            Some(_) => {}
            None if joins < bounds.joins => to.push(Action::Join(n)),
            None => {}
        }
    }

    /// One event of the watch.
    pub fn event(&mut self, event: &WatchEvent, net: &mut Vec<Message>) {
        let delta = self.view.apply(&Watched::Event(event.clone()));
        self.announce(&delta, net);
    }

    /// A watch that begins anew.
    pub fn resync(&mut self, view: &ViewSnapshot, net: &mut Vec<Message>) {
        let delta = self.view.apply(&Watched::Resync(view.clone()));
        self.announce(&delta, net);
    }

    /// What a keepalive answer says.
    pub fn ended_elsewhere(&mut self, ended: &[SessionId], as_of: Revision, net: &mut Vec<Message>) {
        let delta = self.view.apply_ended(ended, as_of);
        self.announce(&delta, net);
    }

    /// As `Directory::announce`.
    fn announce(&mut self, delta: &Delta, net: &mut Vec<Message>) {
        self.knew.extend(&delta.ended);
        if self.session().is_some_and(|mine| delta.ended.contains(&mine)) {
            self.end_session();
        }
        if !delta.shards.is_empty() {
            self.feed(net);
        }
    }

    /// As `Directory::feed_shards`.
    fn feed(&mut self, net: &mut Vec<Message>) {
        let row = self.view.shard(sharded(), SHARD);
        let effects = self.book.row(&key(), row);
        self.perform(effects, net);
    }

    fn perform(&mut self, effects: Vec<ShardEffect>, net: &mut Vec<Message>) {
        for effect in effects {
            match effect {
                ShardEffect::Open { grant, session, .. } => self.opening = Some((grant, session)),
                ShardEffect::Close { grant, .. } => self.closing = Some(grant),
                ShardEffect::Ack(said) => {
                    self.has_given_up |= said.given_up;
                    net.push(ack(&said));
                    self.acked = Some(said);
                }
            }
        }
    }

    /// As `Directory::open_shard`: only for as long as it is wanted.
    pub fn open(&mut self, store: &mut Tables) {
        let Some((grant, session)) = self.opening.take() else { return };
        if self.book.stage(&key()) == Some((Stage::Opening, grant)) {
            let ok = store.open_shard(sharded(), SHARD, grant, session).is_ok();
            self.book.opened(&key(), grant, ok);
            self.has_served |= ok;
        }
    }

    /// As `Directory::close_shard`, after the runtime's answer.
    pub fn closed(&mut self, ended: bool, net: &mut Vec<Message>) {
        let Some(grant) = self.closing.take() else { return };
        let row = self.view.shard(sharded(), SHARD);
        let effects = self.book.closed(&key(), grant, ended, row);
        self.perform(effects, net);
    }

    /// A turn: the claim is the book's grant under the session in use. There is never a second beside it.
    pub fn start_work(&mut self) {
        if let (Some((Stage::Open, grant)), Some(session)) = (self.book.stage(&key()), self.session()) {
            self.work = Some((grant, session));
        }
    }

    /// As `Directory::end_session`: the lease object first. A turn that runs goes on, unheard.
    pub fn end_session(&mut self) {
        let Some(holder) = self.holder.take() else { return };
        holder.lease().end();
        self.frozen = false;
        self.book.ended(holder.lease().id());
        (self.acked, self.opening, self.closing) = (None, None, None);
    }
}
