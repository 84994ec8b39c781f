//! A hero: profile, inventory, and the ledger of deeds. Leased: lives on the node it was first called
//! from, moves when that node goes. Every deed is saved before it is answered.

use std::collections::BTreeMap;

use millet::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{
    pb::{
        DeedReply, DeedRequest, LedgerReply, LedgerRequest, LoginRequest, Player, PlayerGrain, Profile,
        ProfileRequest,
    },
    rank::{BOARDS, RankService, rank},
};

/// A hero's level rises every so many deeds, and the leaderboard hears of it.
const DEEDS_PER_LEVEL: usize = 10;
/// Names are for people.
const NAME_BYTES: usize = 64;

#[derive(Default, Serialize, Deserialize)]
struct State {
    name: String,
    gold: u64,
    inventory: BTreeMap<String, u32>,
    ledger: Vec<u64>,
}

/// The grain.
pub struct Hero {
    state: Persistent<State>,
}

impl Grain for Hero {
    type Service = Player;

    fn create(c: &mut Create<'_, Self>) -> Self {
        Self { state: c.state("hero") }
    }

    millet::states!(state);
}

impl PlayerGrain for Hero {
    async fn login(&mut self, ctx: &Ctx<Self>, request: LoginRequest) -> Result<Profile, Refusal> {
        if request.name.is_empty() || request.name.len() > NAME_BYTES {
            return Err(Refusal::invalid(format!("a hero's name has 1 to {NAME_BYTES} bytes")));
        }
        if self.state.name != request.name {
            self.state.name = request.name;
        }
        Ok(self.show(ctx))
    }

    async fn deed(&mut self, ctx: &Ctx<Self>, request: DeedRequest) -> Result<DeedReply, Refusal> {
        let state = &mut *self.state;
        state.ledger.push(request.deed);
        state.gold += u64::from(request.gold);
        if !request.item.is_empty() {
            *state.inventory.entry(request.item).or_default() += 1;
        }
        let (gold, deeds) = (state.gold, state.ledger.len());
        if deeds.is_multiple_of(DEEDS_PER_LEVEL)
            && let Key::Int(player) = *ctx.key()
        {
            // A tell: the board may miss one, the hero does not wait for it.
            let board = ctx.get::<RankService>(
                Key::text(&format!("board-{}", player % BOARDS))
                    .map_err(|e| Refusal::invalid(e.to_string()))?,
            );
            let _ = board.tell::<rank::Report>(rank::ReportArgs { player, score: gold });
        }
        Ok(DeedReply { gold, level: level(deeds), host_session: ctx.session().0 })
    }

    async fn profile(&self, ctx: &Ctx<Self>, _: ProfileRequest) -> Result<Profile, Refusal> {
        Ok(self.show(ctx))
    }

    async fn ledger(&self, _: &Ctx<Self>, _: LedgerRequest) -> Result<LedgerReply, Refusal> {
        Ok(LedgerReply { deeds: self.state.ledger.clone(), gold: self.state.gold })
    }
}

impl Hero {
    fn show(&self, ctx: &Ctx<Self>) -> Profile {
        let State { name, gold, inventory, ledger } = &*self.state;
        Profile {
            name: name.clone(),
            gold: *gold,
            level: level(ledger.len()),
            inventory: inventory.clone().into_iter().collect(),
            host_session: ctx.session().0,
        }
    }
}

fn level(deeds: usize) -> u32 {
    u32::try_from(1 + deeds / DEEDS_PER_LEVEL).unwrap_or(u32::MAX)
}
