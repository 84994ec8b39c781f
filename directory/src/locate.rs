//! Where a call goes: the shard table for sharded types; the remembered route, else placement, for
//! leased ones. Asks nobody; what it does not know costs one `Moved` hop.

use millet_core::{
    ErrorKind, GrainId, Grant, SessionId, ShardId, hash,
    model::{Ownership, SessionInfo, TypeRow},
};

use crate::{
    directory::{Directory, TypeConfig},
    owners::Placement,
    peer::PeerId,
    placement,
    shards::Stage,
    view::{Standing, View},
};

/// Where to try a call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Target {
    /// On this node.
    Here {
        /// Under which grant the grain is believed to be held, if that is known.
        grant: Option<Grant>,
    },
    /// On another.
    Peer {
        /// Which.
        peer: PeerId,
        /// As above.
        grant: Option<Grant>,
    },
    /// Nowhere yet: wait for the view to change.
    Wait(String),
    /// This node's session is not valid: it does not guess (G7).
    NoSession,
    /// Nowhere.
    Refuse(ErrorKind),
}

impl Directory {
    /// Where to try `grain` first; `avoid` is not chosen by placement.
    pub(crate) fn locate(&self, grain: &GrainId, avoid: Option<SessionId>) -> Target {
        let Some(mine) = self.valid_session() else { return Target::NoSession };
        let view = self.view();
        let row = match self.known_type(&view, grain) {
            Ok(row) => row,
            Err(target) => return target,
        };
        match row.ownership {
            Ownership::Sharded { shards } => {
                let shard = hash::shard_of(hash::grain_hash(grain), shards.max(1));
                self.locate_shard(&view, mine.id(), grain, shard)
            }
            Ownership::Leased => self.locate_leased(&view, mine.id(), grain, avoid),
        }
    }

    fn known_type<'v>(&self, view: &'v View, grain: &GrainId) -> Result<&'v TypeRow, Target> {
        let Some(row) = view.type_row(&grain.ty) else {
            if self.types.contains_key(&grain.ty) || view.revision().0 == 0 {
                return Err(Target::Wait(format!("the cluster does not know the type {} yet", grain.ty)));
            }
            let known = view.type_names().into_iter().take(16).collect::<Vec<_>>().join(", ");
            return Err(Target::Refuse(ErrorKind::NoSuchGrain { ty: grain.ty.to_string(), known }));
        };
        if row.keys != grain.key.kind() {
            let why = format!("{} has keys of kind {:?}, {:?} is not one", grain.ty, row.keys, grain.key);
            return Err(Target::Refuse(ErrorKind::BadKey { why }));
        }
        Ok(row)
    }

    fn locate_shard(&self, view: &View, mine: SessionId, grain: &GrainId, shard: ShardId) -> Target {
        let Some((holder, grant)) = view.shard_holder(&grain.ty, shard) else {
            return Target::Wait(format!("shard {shard} of {} has no owner", grain.ty));
        };
        if holder.id != mine {
            return Target::Peer { peer: peer_id(holder), grant: Some(grant) };
        }
        match self.shards.read().stage(&(grain.ty.clone(), shard)) {
            Some((Stage::Open, grant)) => Target::Here { grant: Some(grant) },
            Some((Stage::Opening, _)) => {
                Target::Wait(format!("shard {shard} of {} is opening here", grain.ty))
            }
            Some((Stage::Closing, _)) | None => {
                Target::Wait(format!("shard {shard} of {} is being handed over", grain.ty))
            }
        }
    }

    fn locate_leased(
        &self,
        view: &View,
        mine: SessionId,
        grain: &GrainId,
        avoid: Option<SessionId>,
    ) -> Target {
        if let Some(route) = self.routes.find(grain) {
            match view.session_state(route.session) {
                Standing::Alive(s) if s.id == mine => return Target::Here { grant: Some(route.grant) },
                Standing::Alive(s) => return Target::Peer { peer: peer_id(s), grant: Some(route.grant) },
                Standing::Newer => {
                    return Target::Wait(format!(
                        "waiting for news of {}, which holds {grain}",
                        route.session
                    ));
                }
                Standing::Ended => self.routes.forget(grain, route.grant),
            }
        }
        let local = self.types.get(&grain.ty);
        if local.is_some_and(|t| t.placement == Placement::PreferLocal && self.may_host(view, t)) {
            return Target::Here { grant: None };
        }
        let avoid = if self.is_leaving() { Some(mine) } else { avoid };
        match placement::choose(view, grain, avoid) {
            Some(s) if s.id == mine => Target::Here { grant: None },
            Some(s) => Target::Peer { peer: peer_id(s), grant: None },
            None => Target::Wait(format!("no node that may be chosen hosts {}", grain.ty)),
        }
    }

    /// Whether new activations may be placed here: not while leaving, not in the last third of the
    /// session's validity (R4), and only if the declared mode is the cluster's (R11).
    pub(crate) fn may_host(&self, view: &View, ty: &TypeConfig) -> bool {
        let now = self.deps.clock.boottime();
        let fresh = self.session().is_some_and(|s| s.is_fresh_at(now));
        let same = view
            .type_row(&ty.decl.ty)
            .is_some_and(|row| row.ownership == ty.decl.ownership && row.keys == ty.decl.keys);
        fresh && same && !self.is_leaving()
    }
}

pub(crate) fn peer_id(session: &SessionInfo) -> PeerId {
    PeerId { node: session.node.id, session: session.id, addr: session.node.peer_addr.clone() }
}
