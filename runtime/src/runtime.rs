//! The grains of one node: what the directory asks of them, and references from outside of any grain.

use std::{sync::Arc, time::Duration};

use millet_core::{
    BootTime, BoxFuture, Call, Caller, Envelope, ErrorKind, GrainId, GrainType, Grant, Key, Outcome,
    ServiceInfo, SessionId, ShardId,
};
use millet_directory::Residents;
use tokio::sync::oneshot;

use crate::{
    GrainRef, Hosted, RuntimeStats,
    activation::EndGuard,
    deps::{Deps, Hosts},
    dispatch::failed,
    road::Roads,
    stripe::stripe,
};

/// The grains of one node. Dropping it lets go of every activation, without saving.
pub struct Runtime {
    pub(crate) deps: Arc<Deps>,
    pub(crate) hosts: Hosts,
    /// By stripe.
    pub(crate) roads: Vec<Arc<Roads>>,
    pub(crate) services: Vec<ServiceInfo>,
}

impl Runtime {
    /// A reference to a grain, from outside of any grain. Default deadline, new request per call.
    pub fn get<S: Hosted>(&self, key: impl Into<Key>) -> S::Ref {
        let road = self.roads[stripe()].of::<S>().unwrap_or_else(|| self.deps.road::<S>());
        GrainRef::new(road, key.into(), None).into()
    }

    /// What this runtime has done so far.
    pub fn stats(&self) -> RuntimeStats {
        let quarantined = self.hosts.by_name.values().map(|h| h.quarantined() as u64).sum();
        self.deps.counters.read(self.activations(), quarantined)
    }

    /// Activations per grain type.
    pub fn activations_by_type(&self) -> Vec<(GrainType, u64)> {
        let mut all: Vec<_> = self.hosts.by_name.iter().map(|(ty, h)| (ty.clone(), h.len() as u64)).collect();
        all.sort();
        all
    }

    /// The services hosted here.
    pub fn services(&self) -> &[ServiceInfo] {
        &self.services
    }

    /// Whether grains of this service are hosted here.
    pub fn hosts<S: Hosted>(&self) -> bool {
        self.roads[0].has::<S>()
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        for host in self.hosts.by_name.values() {
            host.clear();
        }
    }
}

impl Caller for Runtime {
    /// Takes the directory's road; the envelope names no sender.
    fn call(&self, call: Call) -> BoxFuture<'_, Outcome> {
        let Call { target, method, args, request, deadline, context } = call;
        self.deps.owners.call(Envelope {
            target,
            method,
            args,
            request,
            deadline,
            chain: millet_core::Chain(None),
            sender: None,
            grant: None,
            one_way: false,
            context,
        })
    }
}

impl Residents for Runtime {
    fn session_ended(&self, session: SessionId) {
        for (ty, host) in &self.hosts.by_name {
            let (ended, dirty) = host.session_ended(session);
            if ended > 0 {
                tracing::warn!(%ty, %session, activations = ended, dirty, "session ended: activations dropped without saving");
            }
        }
    }

    fn close_shard<'a>(
        &'a self,
        ty: &'a GrainType,
        shard: ShardId,
        grant: Grant,
        until: BootTime,
    ) -> BoxFuture<'a, bool> {
        Box::pin(async move {
            let Some(host) = self.hosts.by_name.get(ty) else { return true };
            self.ended(until, |guard| host.close_shard(shard, grant, guard)).await == 0
        })
    }

    fn outranked(&self, grain: &GrainId, grant: Grant) {
        if let Some(host) = self.hosts.by_name.get(&grain.ty) {
            host.outranked(&grain.key, grant);
        }
    }

    fn drain<'a>(&'a self, until: BootTime) -> BoxFuture<'a, usize> {
        Box::pin(async move {
            self.ended(until, |guard| self.hosts.by_name.values().for_each(|h| h.drain(guard))).await
        })
    }

    fn activations(&self) -> u64 {
        self.hosts.by_name.values().map(|h| h.len() as u64).sum()
    }

    fn dispatch(&self, envelope: Envelope) -> BoxFuture<'static, Outcome> {
        match self.hosts.by_name.get(&envelope.target.ty) {
            Some(host) => host.clone().dispatch(envelope),
            None => {
                let mut known: Vec<_> = self.hosts.by_name.keys().map(GrainType::as_str).collect();
                known.sort_unstable();
                known.truncate(16);
                let kind =
                    ErrorKind::NoSuchGrain { ty: envelope.target.ty.to_string(), known: known.join(", ") };
                failed(kind, &envelope.target)
            }
        }
    }
}

impl Runtime {
    /// Hands a guard to every activation that is to end and waits until all are dropped. Returns how many
    /// are left at `until`.
    async fn ended(&self, until: BootTime, end: impl FnOnce(&EndGuard)) -> usize {
        let (tx, mut gone) = oneshot::channel();
        let guard: EndGuard = Arc::new(tx);
        let left = Arc::downgrade(&guard);
        end(&guard);
        drop(guard);
        loop {
            let now = self.deps.clock.boottime();
            let wait = until.since(now);
            if wait == Duration::ZERO {
                return left.strong_count();
            }
            // The sender is never used: an answer of any kind says that the last guard is gone.
            if tokio::time::timeout(wait, &mut gone).await.is_ok() {
                return 0;
            }
        }
    }
}
