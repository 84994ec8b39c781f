//! Leased grains for the rows that need the metadata store: one with a saved state, one without.

use anyhow::Result;
use millet::prelude::*;

use crate::drive::Target;

/// Counts, and saves every sum before it is answered.
pub struct Saved {
    sum: Persistent<u64>,
}

impl Grain for Saved {
    type Service = SavedService;

    fn create(c: &mut Create<'_, Self>) -> Self {
        Self { sum: c.state("sum") }
    }

    millet::states!(sum);
}

#[millet::grain(name = "bench.Saved", key = int)]
impl Saved {
    /// Adds and answers the sum.
    async fn add(&mut self, _ctx: &Ctx<Self>, by: u64) -> u64 {
        // Adding nothing is no change.
        if by > 0 {
            *self.sum += by;
        }
        *self.sum
    }
}

/// Counts in memory, under a lease of its own.
pub struct Leased {
    sum: u64,
}

impl Grain for Leased {
    type Service = LeasedService;

    fn create(_: &mut Create<'_, Self>) -> Self {
        Self { sum: 0 }
    }
}

#[millet::grain(name = "bench.Leased", key = int)]
impl Leased {
    /// Adds and answers the sum.
    async fn add(&mut self, _ctx: &Ctx<Self>, by: u64) -> u64 {
        self.sum += by;
        self.sum
    }
}

/// Saved counters by key.
#[derive(Clone)]
pub struct SavedCounters(pub std::sync::Arc<Node>);

impl Target for SavedCounters {
    async fn ask(&self, key: u64, by: u64) -> Result<u64> {
        Ok(self.0.get::<SavedService>(Key::Int(key)).add(by).await?)
    }
}

/// Leased counters by key.
#[derive(Clone)]
pub struct LeasedCounters(pub std::sync::Arc<Node>);

impl Target for LeasedCounters {
    async fn ask(&self, key: u64, by: u64) -> Result<u64> {
        Ok(self.0.get::<LeasedService>(Key::Int(key)).add(by).await?)
    }
}
