//! A guild: members and a treasury. Sharded by its id. Transfers between guilds lose and double no gold,
//! whatever fails: the debit and the debt are saved together, the debt is paid off the turn (two guilds
//! may pay each other at once without waiting for each other), and the receiver counts what it has taken.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use millet::prelude::*;
use serde::{Deserialize, Serialize};

use crate::pb::{
    CreditRequest, FoundRequest, JoinRequest, Org, OrgGrain, OrgRef, OrgReply, SettleRequest,
    TransferRequest, TreasuryRequest,
};

/// Shards of the type.
const SHARDS: u32 = 32;
/// Members of one guild.
const MEMBERS: usize = 1000;
/// Debts a guild may have open: a receiver that does not answer makes the sender feel it.
const DEBTS: usize = 256;
/// Transfer ids remembered, so that a repeated request is carried out once.
const REMEMBERED: usize = 1024;

#[derive(Default, Serialize, Deserialize)]
struct State {
    founded: bool,
    gold: u64,
    members: BTreeSet<u64>,
    /// Gold that has left and may not have arrived, oldest first.
    debts: VecDeque<Debt>,
    /// How many transfers were ever made, by receiver.
    sent: BTreeMap<u64, u64>,
    /// The number of the last transfer taken, by sender.
    taken: BTreeMap<u64, u64>,
    done: VecDeque<u64>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Debt {
    to: u64,
    number: u64,
    gold: u64,
}

/// The grain.
pub struct Guild {
    state: Persistent<State>,
    paying: bool,
}

impl Grain for Guild {
    type Service = Org;

    fn options() -> GrainOptions {
        GrainOptions::sharded(SHARDS)
    }

    fn create(c: &mut Create<'_, Self>) -> Self {
        Self { state: c.state("guild"), paying: false }
    }

    millet::states!(state);
}

impl OrgGrain for Guild {
    async fn join(&mut self, ctx: &Ctx<Self>, request: JoinRequest) -> Result<OrgReply, Refusal> {
        if !self.state.members.contains(&request.player) {
            if self.state.members.len() >= MEMBERS {
                return Err(Refusal::failed_precondition(format!("the guild is full: {MEMBERS} members")));
            }
            self.state.members.insert(request.player);
        }
        Ok(self.show(ctx))
    }

    async fn found(&mut self, ctx: &Ctx<Self>, request: FoundRequest) -> Result<OrgReply, Refusal> {
        if !self.state.founded {
            self.state.founded = true;
            self.state.gold += request.gold;
        }
        Ok(self.show(ctx))
    }

    async fn transfer(&mut self, ctx: &Ctx<Self>, request: TransferRequest) -> Result<OrgReply, Refusal> {
        let TransferRequest { id, to, gold } = request;
        if self.state.done.contains(&id) {
            return Ok(self.show(ctx));
        }
        if *ctx.key() == Key::Int(to) {
            return Err(Refusal::invalid("a guild cannot pay itself"));
        }
        if self.state.debts.len() >= DEBTS {
            return Err(Refusal::new(8, format!("{DEBTS} transfers are still under way")));
        }
        if self.state.gold < gold {
            return Err(Refusal::failed_precondition(format!("the treasury holds {} gold", self.state.gold)));
        }
        let state = &mut *self.state;
        state.gold -= gold;
        let number = state.sent.entry(to).or_default();
        *number += 1;
        state.debts.push_back(Debt { to, number: *number, gold });
        state.done.push_back(id);
        if state.done.len() > REMEMBERED {
            state.done.pop_front();
        }
        // The debt must be in the store before anybody is paid.
        self.state.save(ctx).await.map_err(|e| Refusal::new(14, e.to_string()))?;
        self.pay(ctx);
        Ok(self.show(ctx))
    }

    async fn credit(&mut self, ctx: &Ctx<Self>, request: CreditRequest) -> Result<OrgReply, Refusal> {
        let CreditRequest { from, number, gold } = request;
        let taken = self.state.taken.get(&from).copied().unwrap_or(0);
        if number > taken + 1 {
            return Err(Refusal::failed_precondition(format!(
                "transfer {number} of guild {from} came before {}",
                taken + 1
            )));
        }
        if number == taken + 1 {
            self.state.taken.insert(from, number);
            self.state.gold += gold;
        }
        Ok(self.show(ctx))
    }

    async fn settle(&mut self, ctx: &Ctx<Self>, _: SettleRequest) -> Result<OrgReply, Refusal> {
        self.pay(ctx);
        Ok(self.show(ctx))
    }

    async fn treasury(&self, ctx: &Ctx<Self>, _: TreasuryRequest) -> Result<OrgReply, Refusal> {
        Ok(self.show(ctx))
    }
}

impl Guild {
    /// Pays the oldest debt, then the next, one at a time and off the turn.
    fn pay(&mut self, ctx: &Ctx<Self>) {
        let (Key::Int(from), Some(debt), false) =
            (ctx.key().clone(), self.state.debts.front().cloned(), self.paying)
        else {
            return;
        };
        self.paying = true;
        // Detached: nobody waits for it, so it has a deadline of its own and no place in the call chain.
        let receiver = OrgRef::from((*ctx.get::<Org>(debt.to)).clone().detached());
        let request = CreditRequest { from, number: debt.number, gold: debt.gold };
        ctx.spawn(async move { receiver.credit(request).await }, move |guild, ctx, paid| {
            guild.paying = false;
            // An unknown outcome stays a debt: the receiver takes each number once.
            if paid.is_ok() {
                guild.state.debts.pop_front();
                guild.pay(ctx);
            }
        });
    }

    fn show(&self, ctx: &Ctx<Self>) -> OrgReply {
        OrgReply {
            gold: self.state.gold,
            members: self.state.members.len() as u32,
            pending: self.state.debts.len() as u32,
            host_session: ctx.session().0,
        }
    }
}
