//! A register in a leased grain: the search for an order of its operations is the sharpest look at what
//! callers see. Saved before it is answered.

use millet::prelude::*;
use millet_oracle::history::Served;
use serde::{Deserialize, Serialize};

use crate::host::{Host, served};

/// An answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Held {
    /// What the register held before the operation.
    pub value: u64,
    /// By whom.
    pub by: Served,
}

/// The grain.
pub struct Register {
    value: Persistent<u64>,
    host: std::sync::Arc<Host>,
    life: u64,
}

impl Grain for Register {
    type Service = RegisterService;

    fn create(c: &mut Create<'_, Self>) -> Self {
        let host = c.resource::<Host>();
        Self { value: c.state("value"), life: host.new_life(), host }
    }

    millet::states!(value);
}

#[millet::grain(name = "proof.Register", key = int)]
impl Register {
    /// What it holds.
    async fn read(&self, ctx: &Ctx<Self>) -> Held {
        let held = Held { value: *self.value, by: served(ctx, self.life) };
        self.host.linger().await;
        held
    }

    /// Puts a value in.
    async fn write(&mut self, ctx: &Ctx<Self>, value: u64) -> Held {
        let before = std::mem::replace(&mut *self.value, value);
        Held { value: before, by: served(ctx, self.life) }
    }

    /// Puts `to` in if it holds `from`.
    async fn cas(&mut self, ctx: &Ctx<Self>, from: u64, to: u64) -> Held {
        let before = *self.value;
        if before == from {
            *self.value = to;
        }
        Held { value: before, by: served(ctx, self.life) }
    }
}
