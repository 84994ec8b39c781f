//! A leaderboard: the best scores, top first. Eight shards; saved behind, so a crash may cost the last
//! second of scores (the next report brings a hero's score again).

use std::time::Duration;

use millet::prelude::*;
use serde::{Deserialize, Serialize};

/// Leaderboards of the realm.
pub const BOARDS: u64 = 16;
/// Shards of the type.
const SHARDS: u32 = 8;
/// Places a board keeps.
const PLACES: usize = 100;

/// One place on a board.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Whose.
    pub player: u64,
    /// How much.
    pub score: u64,
}

/// A board as it is read.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Board {
    /// The best, first place first.
    pub places: Vec<Place>,
    /// The session of the node that served it.
    pub host_session: u64,
}

/// The grain.
pub struct Rank {
    best: Persistent<Vec<Place>>,
}

impl Grain for Rank {
    type Service = RankService;

    fn options() -> GrainOptions {
        GrainOptions::sharded(SHARDS)
    }

    fn create(c: &mut Create<'_, Self>) -> Self {
        Self { best: c.state::<Vec<Place>>("best").write_behind(Duration::from_secs(1)) }
    }

    millet::states!(best);
}

#[millet::grain(name = "realm.Rank", key = text)]
impl Rank {
    /// A hero's new score.
    async fn report(&mut self, _ctx: &Ctx<Self>, player: u64, score: u64) {
        let best = &mut *self.best;
        best.retain(|p| p.player != player);
        let at = best.partition_point(|p| p.score >= score);
        best.insert(at, Place { player, score });
        best.truncate(PLACES);
    }

    /// The first `n` places, at most 100.
    async fn top(&self, ctx: &Ctx<Self>, n: u32) -> Board {
        Board { places: self.best.iter().take(n as usize).cloned().collect(), host_session: ctx.session().0 }
    }
}
