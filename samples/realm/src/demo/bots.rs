//! The load: open-loop, seeded, at a stated rate. A bot does not wait for its last call before it makes
//! the next, so a slow cluster shows as latency and not as less load.

use std::{
    sync::Arc,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::{
    accounts::{Accounts, Deed, Failure, Target},
    calls::Calls,
};
use crate::pb;

/// Members of a guild.
pub const GUILD: u64 = 20;
/// Leaderboards.
pub const BOARDS: u64 = 16;
/// Gold every guild starts with.
pub const TREASURY: u64 = 10_000;
/// How many calls the driver lets wait; more are not issued, and said so.
const IN_FLIGHT: usize = 100_000;

/// The bots of one run.
pub struct Bots {
    pub calls: Calls,
    pub accounts: Mutex<Accounts>,
    pub players: u64,
    pub in_flight: AtomicUsize,
    pub skipped: AtomicU64,
    start: Instant,
    next_deed: AtomicU64,
    heard: AtomicU64,
}

/// One thing a bot does.
#[derive(Clone, Copy, Debug)]
enum Act {
    Deed,
    Top,
    Transfer,
    Hear,
    Profile,
}

impl Bots {
    pub fn new(calls: Calls, players: u64) -> Arc<Self> {
        Arc::new(Self {
            calls,
            accounts: Mutex::new(Accounts::new()),
            players,
            in_flight: AtomicUsize::new(0),
            skipped: AtomicU64::new(0),
            start: Instant::now(),
            next_deed: AtomicU64::new(1),
            heard: AtomicU64::new(0),
        })
    }

    /// Time on the driver's clock.
    pub fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// How many guilds there are.
    pub fn guilds(&self) -> u64 {
        self.players.div_ceil(GUILD).max(2)
    }

    /// Everybody logs in and joins a guild; guilds are founded.
    pub async fn enter(self: &Arc<Self>) {
        let me = self.clone();
        spread(self.guilds(), 32, move |guild| {
            let me = me.clone();
            async move {
                let gold = TREASURY;
                me.record(Target::Org(guild), guild, me.calls.found(guild, pb::FoundRequest { gold })).await;
            }
        })
        .await;
        let me = self.clone();
        spread(self.players, 64, move |player| {
            let me = me.clone();
            async move {
                let name = format!("hero-{player}");
                me.record(Target::Player(player), player, me.calls.login(player, pb::LoginRequest { name }))
                    .await;
                let guild = player / GUILD;
                me.record(
                    Target::Org(guild),
                    player,
                    me.calls.join(guild, player, pb::JoinRequest { player }),
                )
                .await;
            }
        })
        .await;
        for board in 0..BOARDS {
            self.record(Target::Board(board), board, self.calls.top(board, board)).await;
        }
        self.record(Target::Gm, 0, self.calls.announce("the realm is open")).await;
    }

    /// Measures how many calls a second the cluster takes from `callers` that do wait.
    pub async fn capacity(self: &Arc<Self>, seed: u64, callers: usize, time: Duration) -> f64 {
        let done = Arc::new(AtomicU64::new(0));
        let until = Instant::now() + time;
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..callers {
            let (me, done, mut dice) = (self.clone(), done.clone(), Dice(seed ^ (n as u64) << 32));
            tasks.spawn(async move {
                while Instant::now() < until {
                    me.act(&mut dice).await;
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        while tasks.join_next().await.is_some() {}
        done.load(Ordering::Relaxed) as f64 / time.as_secs_f64()
    }

    /// Issues `rate` calls a second until `until` (driver's clock).
    pub async fn run(self: Arc<Self>, seed: u64, rate: f64, until: Duration) {
        let mut dice = Dice(seed);
        let begin = self.now();
        let mut issued = 0u64;
        let mut tick = tokio::time::interval(Duration::from_millis(2));
        while self.now() < until {
            tick.tick().await;
            let due = ((self.now() - begin).as_secs_f64() * rate) as u64;
            while issued < due {
                issued += 1;
                if self.in_flight.load(Ordering::Relaxed) >= IN_FLIGHT {
                    self.skipped.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                let (me, mut own) = (self.clone(), Dice(dice.next()));
                tokio::spawn(async move { me.act(&mut own).await });
            }
        }
    }

    /// One random act of one random player.
    async fn act(self: &Arc<Self>, dice: &mut Dice) {
        let player = dice.below(self.players);
        let act = match dice.below(100) {
            0..70 => Act::Deed,
            70..80 => Act::Top,
            80..88 => Act::Transfer,
            88..94 => Act::Hear,
            _ => Act::Profile,
        };
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        match act {
            Act::Deed => self.deed(player, dice).await,
            Act::Top => {
                let board = dice.below(BOARDS);
                self.record(Target::Board(board), player, self.calls.top(board, player)).await;
            }
            Act::Transfer => {
                let from = dice.below(self.guilds());
                let to = (from + 1 + dice.below(self.guilds() - 1)) % self.guilds();
                let transfer = pb::TransferRequest { id: dice.next(), to, gold: 1 + dice.below(50) };
                self.record(Target::Org(from), player, self.calls.transfer(from, player, transfer)).await;
            }
            Act::Hear => {
                let since = self.heard.load(Ordering::Relaxed);
                if let Some(last) = self.record(Target::Gm, player, self.calls.hear(player, since)).await {
                    self.heard.fetch_max(last, Ordering::Relaxed);
                }
            }
            Act::Profile => {
                self.record(Target::Player(player), player, self.calls.profile(player)).await;
            }
        }
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    async fn deed(&self, player: u64, dice: &mut Dice) {
        let deed = self.next_deed.fetch_add(1, Ordering::Relaxed);
        let item = ["", "", "", "herb", "sword"][dice.below(5) as usize].to_owned();
        self.accounts.lock().deed_sent(player, deed);
        let request = pb::DeedRequest { deed, gold: 1, item };
        let began = self.now();
        let result = self.calls.deed(player, request).await;
        let mut a = self.accounts.lock();
        let how = match &result {
            Ok(_) => Deed::Acknowledged,
            Err(f) if f.ran == millet::Ran::No => Deed::Refused,
            Err(_) => Deed::Unknown,
        };
        a.deed_ended(player, deed, how);
        self.tell(&mut a, Target::Player(player), began, result.map(|r| (r.ingress, r.host, ())));
    }

    /// Waits for one call and enters its outcome.
    pub async fn record<T>(
        &self,
        target: Target,
        _who: u64,
        call: impl Future<Output = Result<super::calls::Answer<T>, Failure>>,
    ) -> Option<T> {
        let began = self.now();
        let result = call.await;
        self.tell(&mut self.accounts.lock(), target, began, result.map(|r| (r.ingress, r.host, r.value)))
    }

    fn tell<T>(
        &self,
        a: &mut Accounts,
        target: Target,
        began: Duration,
        r: Result<(usize, u64, T), Failure>,
    ) -> Option<T> {
        let now = self.now();
        match r {
            Ok((ingress, host, value)) => {
                a.answered(target, host, ingress, now, now - began);
                Some(value)
            }
            Err(f) => {
                a.failed(target, &f);
                None
            }
        }
    }
}

/// Runs `f(0..count)` with at most `width` at a time.
pub async fn spread<F, R>(count: u64, width: usize, f: F)
where
    F: Fn(u64) -> R,
    R: Future<Output = ()> + Send + 'static,
{
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..count {
        if tasks.len() >= width {
            tasks.join_next().await;
        }
        tasks.spawn(f(n));
    }
    while tasks.join_next().await.is_some() {}
}

/// SplitMix64 (Steele, Lea, Flood 2014): the same seed gives the same load.
pub struct Dice(pub u64);

impl Dice {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }
}
