//! An account: sharded. A transfer is debit and debt in one save; the debt is paid off the turn, under a
//! number that the receiver takes once. Whatever fails, money is neither lost nor made.

use std::collections::{BTreeMap, VecDeque};

use millet::prelude::*;
use millet_oracle::history::{OpId, Received, Served};
use serde::{Deserialize, Serialize};

use crate::host::{Host, served};

/// What every account begins with.
pub const OPENING: u64 = 1_000;
/// Debts an account may have open; the next transfer is refused.
pub const DEBTS: usize = 64;
/// Shards of the type.
const SHARDS: u32 = 8;

/// One transfer that has left.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Left {
    /// Under this op id.
    pub op: OpId,
    /// To this account.
    pub to: u64,
    /// So much.
    pub amount: u64,
}

/// What a transfer answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Transferred {
    /// Why not.
    pub refused: Option<String>,
    /// By whom.
    pub by: Served,
}

/// The whole account.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Statement {
    /// What it has.
    pub balance: u64,
    /// Every transfer that left.
    pub sent: Vec<Left>,
    /// What has arrived, by sender.
    pub received: BTreeMap<u64, Received>,
    /// Debts not yet paid.
    pub pending: u64,
    /// By whom.
    pub by: Served,
}

#[derive(Serialize, Deserialize)]
struct State {
    balance: u64,
    sent: Vec<Left>,
    /// Positions in `sent` that are not known to have arrived, oldest first.
    debts: VecDeque<usize>,
    received: BTreeMap<u64, Received>,
}

impl Default for State {
    fn default() -> Self {
        Self { balance: OPENING, sent: Vec::new(), debts: VecDeque::new(), received: BTreeMap::new() }
    }
}

/// The grain.
pub struct Account {
    state: Persistent<State>,
    paying: bool,
    life: u64,
}

impl Grain for Account {
    type Service = AccountService;

    fn options() -> GrainOptions {
        GrainOptions::sharded(SHARDS)
    }

    fn create(c: &mut Create<'_, Self>) -> Self {
        Self { state: c.state("account"), paying: false, life: c.resource::<Host>().new_life() }
    }

    millet::states!(state);
}

#[millet::grain(name = "proof.Account", key = int)]
impl Account {
    /// Pays; the same op id is carried out once, so that it may be asked for again.
    #[idempotent]
    async fn transfer(&mut self, ctx: &Ctx<Self>, op: OpId, to: u64, amount: u64) -> Transferred {
        let refused = self.debit(ctx, op, to, amount).await.err();
        Transferred { refused, by: served(ctx, self.life) }
    }

    /// Takes the sender's `number`-th transfer, once.
    #[idempotent]
    async fn credit(&mut self, _: &Ctx<Self>, from: u64, number: u64, amount: u64) -> bool {
        let taken = self.state.received.get(&from).map_or(0, |r| r.count);
        if number == taken + 1 {
            let state = &mut *self.state;
            let received = state.received.entry(from).or_default();
            received.count += 1;
            received.amount += amount;
            state.balance += amount;
        }
        // False: one before it has not come.
        number <= taken + 1
    }

    /// Goes on paying what is owed, and shows the account.
    async fn settle(&mut self, ctx: &Ctx<Self>) -> Statement {
        self.pay(ctx);
        Statement {
            balance: self.state.balance,
            sent: self.state.sent.clone(),
            received: self.state.received.clone(),
            pending: self.state.debts.len() as u64,
            by: served(ctx, self.life),
        }
    }
}

impl Account {
    async fn debit(&mut self, ctx: &Ctx<Self>, op: OpId, to: u64, amount: u64) -> Result<(), String> {
        if self.state.sent.iter().any(|left| left.op == op) {
            return Ok(());
        }
        if *ctx.key() == Key::Int(to) {
            return Err("an account cannot pay itself".into());
        }
        if self.state.debts.len() >= DEBTS {
            return Err(format!("{DEBTS} transfers are still under way"));
        }
        if self.state.balance < amount {
            return Err(format!("it holds {}", self.state.balance));
        }
        let state = &mut *self.state;
        state.balance -= amount;
        state.debts.push_back(state.sent.len());
        state.sent.push(Left { op, to, amount });
        // The debt must be in the store before anybody is paid. If the save fails, the turn's answer is
        // `Unknown` whatever it says.
        self.state.save(ctx).await.map_err(|e| e.to_string())?;
        self.pay(ctx);
        Ok(())
    }

    /// Pays the oldest debt, then the next, one at a time and off the turn.
    fn pay(&mut self, ctx: &Ctx<Self>) {
        let (Key::Int(from), Some(debt), false) =
            (ctx.key().clone(), self.state.debts.front().copied(), self.paying)
        else {
            return;
        };
        let Left { to, amount, .. } = self.state.sent[debt];
        // To this receiver it is the so-many-th.
        let number = 1 + self.state.sent[..debt].iter().filter(|left| left.to == to).count() as u64;
        // Detached: nobody waits for it, so it has a deadline of its own and no place in the call chain.
        let receiver = AccountRef::from((*ctx.get::<AccountService>(to)).clone().detached());
        let work = async move { receiver.credit(from, number, amount).await };
        self.paying = ctx.spawn(work, move |account, ctx, paid| {
            account.paying = false;
            // An unknown outcome stays a debt: the receiver takes each number once.
            if paid == Ok(true) {
                account.state.debts.pop_front();
                account.pay(ctx);
            }
        });
    }
}
