//! What counter, singleton and sleeper share: a ledger of op ids that shows who wrote what. It does not
//! look whether an op is in it already: an op that runs twice must be seen.

use std::sync::Arc;

use millet::prelude::*;
use millet_oracle::history::{Entry, OpId, Served};
use serde::{Deserialize, Serialize};

use crate::host::{Host, served};

/// What an append answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Appended {
    /// Its place, counted from 1.
    pub position: u64,
    /// The version it is saved as.
    pub version: u64,
    /// By whom.
    pub by: Served,
}

/// The whole ledger.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Pages {
    /// In the order they were written.
    pub entries: Vec<Entry>,
    /// By whom it is read.
    pub by: Served,
}

/// A ledger inside a grain; `entries` is for `millet::states!`.
pub(super) struct Ledger {
    pub(super) entries: Persistent<Vec<Entry>>,
    host: Arc<Host>,
    life: u64,
}

impl Ledger {
    pub(super) fn create<G: Grain>(c: &mut Create<'_, G>) -> Self {
        let host = c.resource::<Host>();
        Self { entries: c.state("ledger"), life: host.new_life(), host }
    }

    /// Saved at the end of the turn, before the answer leaves.
    pub(super) fn append<G: Grain>(&mut self, ctx: &Ctx<G>, op: OpId) -> Appended {
        let by = self.by(ctx);
        let version = self.entries.version().0 + 1;
        self.entries.push(Entry { op, version, epoch: by.epoch, life: by.life });
        Appended { position: self.entries.len() as u64, version, by }
    }

    /// Waits where a run wants turns to take their time: the entry is in memory and not saved yet.
    pub(super) async fn linger(&self) {
        self.host.linger().await;
    }

    pub(super) fn read<G: Grain>(&self, ctx: &Ctx<G>) -> Pages {
        Pages { entries: self.entries.clone(), by: self.by(ctx) }
    }

    pub(super) fn by<G: Grain>(&self, ctx: &Ctx<G>) -> Served {
        served(ctx, self.life)
    }
}
