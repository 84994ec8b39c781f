//! A node alone in the world: it owns everything under one session that never ends. What is measured
//! on it is the runtime, without directory, network and metadata store.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use millet_core::{
    BootTime, BoxFuture, CallError, Envelope, ErrorKind, GrainId, Grant, Outcome, SessionId, SessionLease,
    ShardId,
};
use millet_directory::{Claim, Owners};
use millet_runtime::{Grain, Runtime, RuntimeBuilder, RuntimeDeps};
use millet_testkit::{SeededEntropy, TestClock, TokioSpawner};

/// Grants every claim at once.
struct Everything {
    session: Arc<SessionLease>,
}

impl Everything {
    fn claim(&self) -> Claim {
        let grant = Grant { generation: 1, index: 1 };
        Claim { session: self.session.clone(), grant, shard: Some(ShardId(0)), previous: None }
    }
}

impl Owners for Everything {
    fn claim<'a>(&'a self, _grain: &'a GrainId) -> BoxFuture<'a, Result<Claim, ErrorKind>> {
        Box::pin(async { Ok(self.claim()) })
    }

    fn claim_now(&self, _grain: &GrainId) -> Option<Claim> {
        Some(self.claim())
    }

    fn give_up(&self, _grain: &GrainId, _claim: &Claim) {}

    fn until_valid(&self, _session: &Arc<SessionLease>, _until: BootTime) -> BoxFuture<'static, bool> {
        Box::pin(async { true })
    }

    fn call(&self, envelope: Envelope) -> BoxFuture<'static, Outcome> {
        let what = format!("{} is not here, and there is no other node", envelope.target);
        Box::pin(async { Err(CallError::Platform(ErrorKind::Unavailable { what }.into())) })
    }

    fn prefers_here(&self, _grain: &GrainId) -> bool {
        true
    }
}

/// A runtime that hosts `G` alone. Its clock stands still, so that nothing is collected meanwhile.
/// Call it inside a tokio runtime.
pub fn runtime<G: Grain>() -> Result<Arc<Runtime>> {
    let session = Arc::new(SessionLease::opened(SessionId(1), Duration::from_secs(1 << 30)));
    session.renewed(BootTime(0));
    runtime_of::<G>(Arc::new(Everything { session }))
}

/// The same, with these owners.
pub fn runtime_of<G: Grain>(owners: Arc<dyn Owners>) -> Result<Arc<Runtime>> {
    let deps = RuntimeDeps {
        clock: Arc::new(TestClock::new()),
        spawner: Arc::new(TokioSpawner::current()),
        entropy: Arc::new(SeededEntropy::new(1)),
    };
    Ok(RuntimeBuilder::new(deps).grain::<G>().build(owners)?)
}
