//! A ledger in a leased grain: lives where it is called first, moves when its node goes.

use millet::prelude::*;
use millet_oracle::history::{OpId, Served};

use super::ledger::{Appended, Ledger, Pages};

/// The grain.
pub struct Counter {
    ledger: Ledger,
}

impl Grain for Counter {
    type Service = CounterService;

    fn create(c: &mut Create<'_, Self>) -> Self {
        Self { ledger: Ledger::create(c) }
    }

    fn persist(&mut self, p: &mut Persist<'_>) {
        p.visit(&mut self.ledger.entries);
    }
}

#[millet::grain(name = "proof.Counter", key = int)]
impl Counter {
    /// Appends an op id; saved before it is answered.
    async fn append(&mut self, ctx: &Ctx<Self>, op: OpId) -> Appended {
        let appended = self.ledger.append(ctx, op);
        self.ledger.linger().await;
        appended
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
