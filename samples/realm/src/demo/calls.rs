//! The driver's calls: which node a bot enters through, and what an answer or a failure says.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use millet::client::Client;
use millet::{CallError, ErrorKind, Key, Ran};
use parking_lot::Mutex;

use super::{accounts::Failure, cluster::Heard};
use crate::{gm, pb, rank};

/// Every call's deadline: longer than a failover.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long a node may take to serve its first call.
const SERVING: Duration = Duration::from_secs(30);

/// An answer, where it came in, and the session of the node that served it (0: not told).
pub struct Answer<T> {
    pub value: T,
    pub host: u64,
    pub ingress: usize,
}

/// Connections to each node: a connection carries 1024 calls at a time, and while a node is away the calls
/// to its grains wait on the others' connections.
const CONNECTIONS: usize = 16;

/// Connections to every node.
#[derive(Clone)]
pub struct Calls {
    nodes: Arc<Vec<Vec<Client>>>,
    avoided: Arc<Mutex<Vec<bool>>>,
    heard: Arc<Mutex<Heard>>,
}

impl Calls {
    pub fn connect(apis: &[String], heard: Arc<Mutex<Heard>>) -> Result<Self> {
        let connections =
            |api: &String| (0..CONNECTIONS).map(|_| Client::connect([api])).collect::<Result<Vec<_>, _>>();
        let nodes: Vec<_> =
            apis.iter().map(connections).collect::<Result<_, _>>().context("the nodes' addresses")?;
        Ok(Self { avoided: Arc::new(Mutex::new(vec![false; nodes.len()])), nodes: Arc::new(nodes), heard })
    }

    /// Bots no longer enter through this node.
    pub fn avoid(&self, node: usize) {
        self.avoided.lock()[node] = true;
    }

    /// Bots may enter through this node again.
    pub fn welcome(&self, node: usize) {
        self.avoided.lock()[node] = false;
    }

    /// Waits until the node answers a write-through call.
    pub async fn until_serving(&self, node: usize, player: u64) -> Result<()> {
        let until = Instant::now() + SERVING;
        loop {
            let request = pb::LoginRequest { name: "first".into() };
            let result =
                self.nodes[node][0].call::<pb::player::Login>(Key::Int(player), request, DEADLINE).await;
            match result {
                Ok(_) => return Ok(()),
                Err(e) if Instant::now() > until => bail!("node {} serves nobody: {e}", node + 1),
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }

    pub async fn login(&self, player: u64, r: pb::LoginRequest) -> Result<Answer<()>, Failure> {
        self.call::<pb::player::Login, _>(player, Key::Int(player), || r.clone(), |p| (p.host_session, ()))
            .await
    }
    pub async fn deed(&self, player: u64, r: pb::DeedRequest) -> Result<Answer<()>, Failure> {
        self.call::<pb::player::Deed, _>(player, Key::Int(player), || r.clone(), |d| (d.host_session, ()))
            .await
    }
    pub async fn profile(&self, player: u64) -> Result<Answer<()>, Failure> {
        let r = pb::ProfileRequest {};
        self.call::<pb::player::Profile, _>(player, Key::Int(player), || r, |p| (p.host_session, ())).await
    }
    pub async fn ledger(&self, player: u64) -> Result<Answer<pb::LedgerReply>, Failure> {
        self.call::<pb::player::Ledger, _>(player, Key::Int(player), || pb::LedgerRequest {}, |l| (0, l))
            .await
    }
    pub async fn found(&self, guild: u64, r: pb::FoundRequest) -> Result<Answer<()>, Failure> {
        self.call::<pb::org::Found, _>(guild, Key::Int(guild), || r, |o| (o.host_session, ())).await
    }
    pub async fn join(&self, guild: u64, player: u64, r: pb::JoinRequest) -> Result<Answer<()>, Failure> {
        self.call::<pb::org::Join, _>(player, Key::Int(guild), || r, |o| (o.host_session, ())).await
    }
    pub async fn transfer(
        &self,
        guild: u64,
        player: u64,
        r: pb::TransferRequest,
    ) -> Result<Answer<()>, Failure> {
        self.call::<pb::org::Transfer, _>(player, Key::Int(guild), || r, |o| (o.host_session, ())).await
    }
    pub async fn settle(&self, guild: u64) -> Result<Answer<pb::OrgReply>, Failure> {
        self.call::<pb::org::Settle, _>(guild, Key::Int(guild), || pb::SettleRequest {}, |o| (0, o)).await
    }
    pub async fn treasury(&self, guild: u64) -> Result<Answer<pb::OrgReply>, Failure> {
        self.call::<pb::org::Treasury, _>(
            guild,
            Key::Int(guild),
            || pb::TreasuryRequest {},
            |o| (o.host_session, o),
        )
        .await
    }
    pub async fn top(&self, board: u64, player: u64) -> Result<Answer<()>, Failure> {
        let key = Key::Text(format!("board-{board}").into());
        self.call::<rank::rank::Top, _>(
            player,
            key,
            || rank::rank::TopArgs { n: 10 },
            |b| (b.host_session, ()),
        )
        .await
    }
    pub async fn announce(&self, text: &str) -> Result<Answer<()>, Failure> {
        let r = pb::AnnounceRequest { text: text.into() };
        self.call::<pb::gm::Announce, _>(0, Key::Text(gm::KEY.into()), || r.clone(), |_| (0, ())).await
    }
    pub async fn hear(&self, player: u64, since: u64) -> Result<Answer<u64>, Failure> {
        let r = pb::HearRequest { since };
        self.call::<pb::gm::Hear, _>(player, Key::Text(gm::KEY.into()), || r, |h| (h.host_session, h.last))
            .await
    }

    /// Calls through the bot's own node, or the next one that takes the call.
    async fn call<M, T>(
        &self,
        who: u64,
        key: Key,
        args: impl Fn() -> M::Args,
        take: impl Fn(M::Res) -> (u64, T),
    ) -> Result<Answer<T>, Failure>
    where
        M: millet::rt::Method,
        M::Error: std::fmt::Display,
    {
        let until = Instant::now() + DEADLINE;
        let mut last = None;
        for ingress in self.ways_in(who) {
            let left = until.saturating_duration_since(Instant::now());
            let error = match self.nodes[ingress][who as usize / self.nodes.len() % CONNECTIONS]
                .call::<M>(key.clone(), args(), left)
                .await
            {
                Ok(v) => {
                    let (host, value) = take(v);
                    return Ok(Answer { value, host, ingress });
                }
                Err(e) => e,
            };
            // The node took no call: a load balancer would go to the next one.
            let not_taken = matches!(&error, CallError::Platform(p) if p.grain().is_none() && matches!(p.kind(), ErrorKind::Unavailable { .. }));
            last = Some(failure(&error, ingress));
            if !not_taken {
                break;
            }
        }
        Err(last.unwrap_or_else(not_yet))
    }

    /// The bot's own node first, then the others; nodes that are down only if all are.
    fn ways_in(&self, who: u64) -> Vec<usize> {
        let count = self.nodes.len();
        let avoided = self.avoided.lock();
        let ready = &self.heard.lock().ready;
        let all: Vec<usize> = (0..count).map(|n| (who as usize + n) % count).collect();
        let up: Vec<usize> = all.iter().copied().filter(|n| !avoided[*n] && ready[*n]).collect();
        if up.is_empty() { all } else { up }
    }
}

fn failure<E: std::fmt::Display>(error: &CallError<E>, ingress: usize) -> Failure {
    let grain = match error {
        CallError::App(_) => None,
        CallError::Platform(p) => p.grain().map(ToString::to_string),
    };
    let refused = matches!(error, CallError::App(_));
    Failure { ran: error.ran(), grain, ingress, refused, text: error.to_string() }
}

/// Stands for "ask again".
pub fn not_yet() -> Failure {
    Failure { ran: Ran::No, grain: None, ingress: 0, refused: true, text: "not yet".into() }
}
