//! What is sent to a grain: asks and tells of active ones, the first ask of one that is not, and an ask that
//! goes to another node.

use std::sync::Arc;

use anyhow::{Result, ensure};
use bytes::Bytes;
use millet_core::{BootTime, BoxFuture, Envelope, ErrorKind, GrainId, Outcome, SessionLease};
use millet_directory::{Claim, Owners};
use millet_runtime::Runtime;

use super::{Count, on_one_thread};
use crate::{
    counter::{self, Add, Counter},
    solo,
};

/// An ask that is answered on the caller's stack.
pub const LOCAL: Count = Count {
    name: "ask",
    work: "one ask of an active grain of this node: reference by integer key, look-up, mailbox, checks, turn, \
           reply; 64 keys in turn, no caller else",
    run: local,
};

/// One-way messages to one grain.
pub const TELL: Count = Count {
    name: "tell",
    work: "one one-way message to an active grain of this node, its turn included; after every 500 the sender \
           waits with an ask until they are taken",
    run: tell,
};

/// Births.
pub const ACTIVATE: Count = Count {
    name: "activate",
    work: "one activation with its first ask: claim, entry in the catalog (whose tables grow meanwhile), birth, \
           turn, reply; sharded type, no store; a new key each",
    run: activate,
};

/// The road of the directory.
pub const AWAY: Count = Count {
    name: "ask-away",
    work: "one ask of a grain that is not here, up to the directory, and back from it: reference, look-up in \
           vain, envelope, arguments and answer to bytes and back; the directory answers at once",
    run: away,
};

/// Grains that are asked in turn.
const KEYS: u64 = 64;
/// Fewer than a mailbox holds.
const TELLS: u64 = 500;

fn local(ops: u64) -> Result<()> {
    on_one_thread(async move {
        let grains = solo::runtime::<counter::Count>()?;
        for key in 0..KEYS {
            first(&grains, key).await?;
        }
        for n in 0..ops {
            let sum = grains.get::<Counter>(n % KEYS).call::<Add>(1).await?;
            ensure!(sum == 2 + n / KEYS, "counter {} answered {sum} to ask {n}", n % KEYS);
        }
        Ok(())
    })
}

fn tell(ops: u64) -> Result<()> {
    on_one_thread(async move {
        let grains = solo::runtime::<counter::Count>()?;
        first(&grains, 1).await?;
        let grain = grains.get::<Counter>(1);
        for n in 1..=ops {
            grain.tell::<Add>(1)?;
            if n % TELLS == 0 || n == ops {
                let sum = grain.call::<Add>(0).await?;
                ensure!(sum == 1 + n, "the counter has {sum} after {n} tells");
            }
        }
        Ok(())
    })
}

fn activate(ops: u64) -> Result<()> {
    on_one_thread(async move {
        let grains = solo::runtime::<counter::Count>()?;
        for key in 0..ops {
            first(&grains, key).await?;
        }
        // Not dropped: the end of grains is no part of the figure.
        std::mem::forget(grains);
        Ok(())
    })
}

fn away(ops: u64) -> Result<()> {
    on_one_thread(async move {
        let grains = solo::runtime_of::<counter::Count>(Arc::new(Elsewhere))?;
        for n in 0..ops {
            let sum = grains.get::<Counter>(n).call::<Add>(n).await?;
            ensure!(sum == n, "{sum} came back for {n}");
        }
        Ok(())
    })
}

async fn first(grains: &Runtime, key: u64) -> Result<()> {
    let sum = grains.get::<Counter>(key).call::<Add>(1).await?;
    ensure!(sum == 1, "counter {key} answered {sum} to its first ask of 1");
    Ok(())
}

/// Nothing is here; whoever is elsewhere answers with the arguments.
struct Elsewhere;

impl Owners for Elsewhere {
    fn claim<'a>(&'a self, grain: &'a GrainId) -> BoxFuture<'a, Result<Claim, ErrorKind>> {
        let what = format!("{grain} is elsewhere");
        Box::pin(async { Err(ErrorKind::Unavailable { what }) })
    }

    fn claim_now(&self, _grain: &GrainId) -> Option<Claim> {
        None
    }

    fn give_up(&self, _grain: &GrainId, _claim: &Claim) {}

    fn until_valid(&self, _session: &Arc<SessionLease>, _until: BootTime) -> BoxFuture<'static, bool> {
        Box::pin(async { true })
    }

    fn call(&self, envelope: Envelope) -> BoxFuture<'static, Outcome> {
        let args: Bytes = envelope.args;
        Box::pin(async { Ok(args) })
    }

    fn prefers_here(&self, _grain: &GrainId) -> bool {
        false
    }
}
