//! A ledger in a grain that is collected after a moment without calls, and comes back.

use millet::prelude::*;
use millet_oracle::history::{OpId, Served};

use std::time::Duration;

/// Without a call for this long it is collected.
pub const IDLE: Duration = Duration::from_millis(400);

use super::ledger::{Appended, Ledger, Pages};

/// The grain.
pub struct Sleeper {
    ledger: Ledger,
}

impl Grain for Sleeper {
    type Service = SleeperService;

    fn options() -> GrainOptions {
        GrainOptions::default().idle_after(IDLE)
    }

    fn create(c: &mut Create<'_, Self>) -> Self {
        Self { ledger: Ledger::create(c) }
    }

    fn persist(&mut self, p: &mut Persist<'_>) {
        p.visit(&mut self.ledger.entries);
    }
}

#[millet::grain(name = "proof.Sleeper", key = int)]
impl Sleeper {
    /// Appends an op id; saved before it is answered.
    async fn append(&mut self, ctx: &Ctx<Self>, op: OpId) -> Appended {
        self.ledger.append(ctx, op)
    }

    /// The whole ledger.
    async fn read(&self, ctx: &Ctx<Self>) -> Pages {
        self.ledger.read(ctx)
    }

    /// Ends this activation as soon as nothing waits for it.
    async fn step_down(&mut self, ctx: &Ctx<Self>) -> Served {
        ctx.deactivate_when_idle();
        self.ledger.by(ctx)
    }
}
