//! A sharded counter whose number of shards is set when its process starts, for the sweeps over nodes and
//! shards; and the wait until its shards have owners.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use millet::prelude::*;
use millet_core::{GrainType, SessionId, ShardId, model::ShardState};

use crate::drive::Target;

/// What a process has that does not say otherwise.
pub const SHARDS: u32 = 256;

/// A process measures one number of shards, and a type says its options before there is a value of it.
static CHOSEN: OnceLock<u32> = OnceLock::new();

/// Gives the type so many shards, in this process and once.
pub fn choose(shards: u32) -> Result<()> {
    ensure!(*CHOSEN.get_or_init(|| shards) == shards, "the number of shards is fixed for this process");
    Ok(())
}

fn shards() -> u32 {
    *CHOSEN.get_or_init(|| SHARDS)
}

/// Counts in memory, on whichever node its shard is.
pub struct Spread {
    sum: u64,
}

impl Grain for Spread {
    type Service = SpreadService;

    fn options() -> GrainOptions {
        GrainOptions::sharded(shards())
    }

    fn create(_: &mut Create<'_, Self>) -> Self {
        Self { sum: 0 }
    }
}

#[millet::grain(name = "bench.Spread", key = int)]
impl Spread {
    /// Adds and answers the sum.
    async fn add(&mut self, _ctx: &Ctx<Self>, by: u64) -> u64 {
        self.sum += by;
        self.sum
    }
}

/// Spread counters by key.
#[derive(Clone)]
pub struct Spreads(pub Arc<Node>);

impl Target for Spreads {
    async fn ask(&self, key: u64, by: u64) -> Result<u64> {
        Ok(self.0.get::<SpreadService>(Key::Int(key)).add(by).await?)
    }
}

/// Longer than any hand-over of that many shards.
const LIMIT: Duration = Duration::from_secs(90);

/// Waits until this node has heard that every shard has an owner, none is on its way, and so many sessions
/// own at least half of an even share each.
pub async fn settled(node: &Node, owners: usize) -> Result<()> {
    let until = Instant::now() + LIMIT;
    loop {
        let per_owner = owned(node)?;
        let (all, share) = (shards() as usize, shards() as usize / owners);
        if per_owner.values().sum::<usize>() == all
            && per_owner.len() == owners
            && per_owner.values().all(|count| 2 * count >= share)
        {
            return Ok(());
        }
        ensure!(Instant::now() < until, "after {LIMIT:?} the shards are with {per_owner:?}");
        // tidy: sleep: between two looks, bounded
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Shards that stay where they are, by owner.
fn owned(node: &Node) -> Result<BTreeMap<SessionId, usize>> {
    let (view, ty) = (node.directory().view(), GrainType::new("bench.Spread")?);
    let mut counts = BTreeMap::new();
    for shard in (0..shards()).map(ShardId) {
        if let ShardState::Assigned { session, .. } = view.shard(&ty, shard) {
            *counts.entry(session).or_default() += 1;
        }
    }
    Ok(counts)
}
