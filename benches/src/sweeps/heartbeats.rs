//! The metadata leader against nodes: what keepalives, Ticks and watches cost. A simulation: the product's
//! own pure parts in simulated time, on one thread.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use millet_core::{
    BootTime, Revision, SessionId, ShardId, limits,
    model::{Keepalive, KeepaliveAnswer, Ownership, ShardState, TypeDecl, Verdict, Watched},
};
use millet_directory::SessionTiming;
use millet_proto::wire::{KeepaliveRequest, KeepaliveResponse, WatchResponse};
use millet_raft_meta::{
    leader::{LeaderClock, Offered, Planner, Renewals, Turn},
    machine::{Command, Op, Reply},
};
use prost::Message;

use crate::{
    meta::{self, Replica},
    row::{Figures, Size},
    sweep::{SMALL, Sweep},
};

/// The sweep.
pub const SWEEP: Sweep = Sweep {
    name: "heartbeats",
    work: "simulated: the metadata leader's own keepalive set, clock, planner and state machine, and nodes that each \
           send a keepalive every 500 ms of simulated time and watch; a Tick every 100 ms; one thread, no Raft, no \
           network, no codec of gRPC. A second of simulated time costs: `leader_cpu_ms` for keepalives and Ticks; \
           `log_entries`, `log_bytes` (commands, without what the log adds); `keepalive_bytes` both ways; \
           `watch_cpu_ms`, `watch_messages` and `watch_bytes` for the streams of all nodes, every entry looked at by \
           every watcher. \
           Then a node joins and leaves again in a cluster with a type of 1,024 shards, until all shards have \
           their owners: `join_bytes` and `leave_bytes` that each other node hears on its watch, `join_ms` and \
           `leave_ms` CPU of the leader with the planning and all streams",
    axis: "nodes",
    points: &[10, 30, 100, 300, 1_000],
    memory: SMALL,
    run,
};

const TYPE: &str = "bench.Spread";
const SHARDS: u32 = 1_024;
/// A hand-over that takes more rounds than this never ends.
const ROUNDS: u32 = 10_000;

fn run(nodes: u64, size: Size) -> Result<Figures> {
    let mut cluster = Cluster::new()?;
    for node in 0..nodes {
        cluster.join(node)?;
    }
    cluster.tick_until_alive()?;
    cluster.settle()?;
    // So many that the whole takes about a second of CPU at any number of nodes.
    let seconds = size.of((2_000_000 / nodes).clamp(2_000, 50_000), 5);
    cluster.spent = Spent::default();
    let (entries, bytes) = (cluster.replica.log_entries, cluster.replica.log_bytes);
    for _ in 0..seconds * cluster.ticks_per_second() {
        cluster.tick()?;
    }
    let (spent, per_s) = (cluster.spent, |total: f64| total / seconds as f64);
    let mut figures = vec![
        ("leader_cpu_ms", per_s(spent.leader.as_secs_f64() * 1000.0)),
        ("log_entries", per_s((cluster.replica.log_entries - entries) as f64)),
        ("log_bytes", per_s((cluster.replica.log_bytes - bytes) as f64)),
        ("keepalive_bytes", per_s(spent.keepalive_bytes as f64)),
        ("watch_cpu_ms", per_s(spent.watch.as_secs_f64() * 1000.0)),
        ("watch_messages", per_s(spent.watch_messages as f64)),
        ("watch_bytes", per_s((spent.event_bytes + spent.progress_bytes) as f64)),
    ];
    let [join_ms, join_bytes] = cluster.change(|cluster| {
        cluster.join(nodes)?;
        cluster.tick_until_alive()
    })?;
    let [leave_ms, leave_bytes] = cluster.change(Cluster::leave)?;
    figures.extend([
        ("join_ms", join_ms),
        ("join_bytes", join_bytes),
        ("leave_ms", leave_ms),
        ("leave_bytes", leave_bytes),
    ]);
    Ok(figures)
}

/// A node as the leader sees it.
struct Member {
    session: SessionId,
    /// Its last keepalive, and the last whose answer it has.
    number: u64,
    heard: u64,
    /// How far its watch is.
    at: Revision,
}

/// What the simulated time has cost.
#[derive(Clone, Copy, Default)]
struct Spent {
    leader: Duration,
    watch: Duration,
    keepalive_bytes: u64,
    /// On all watches together.
    watch_messages: u64,
    event_bytes: u64,
    progress_bytes: u64,
}

struct Cluster {
    replica: Replica,
    timing: SessionTiming,
    clock: LeaderClock,
    renewals: Renewals<usize>,
    planner: Planner,
    types: Vec<TypeDecl>,
    now: BootTime,
    ticks: u64,
    nodes: Vec<Member>,
    spent: Spent,
}

impl Cluster {
    fn new() -> Result<Self> {
        let timing = SessionTiming::default();
        let mut clock = LeaderClock::new(timing.tick);
        clock.start(0, BootTime(0));
        Ok(Self {
            replica: Replica::new()?,
            timing,
            clock,
            renewals: Renewals::new(),
            planner: Planner::new(),
            types: vec![meta::declares(TYPE, Ownership::Sharded { shards: SHARDS })?],
            now: BootTime(0),
            ticks: 0,
            nodes: Vec::new(),
            spent: Spent::default(),
        })
    }

    fn ticks_per_second(&self) -> u64 {
        (1.0 / self.timing.tick.as_secs_f64()).round() as u64
    }

    /// Every node sends a keepalive once in so many Ticks.
    fn ticks_per_keepalive(&self) -> u64 {
        (self.timing.keepalive.as_secs_f64() / self.timing.tick.as_secs_f64()).round() as u64
    }

    fn join(&mut self, node: u64) -> Result<()> {
        let session = self.replica.open(node, &self.types)?;
        let at = self.replica.machine.revision();
        self.nodes.push(Member { session, number: 0, heard: 0, at });
        self.watch()
    }

    fn leave(&mut self) -> Result<()> {
        let gone = self.nodes.pop().context("a node that can leave")?;
        self.replica.apply(&Command::Batch(vec![Op::Close { session: gone.session }]))?;
        self.watch()
    }

    /// Until every node has sent a keepalive and heard the answer.
    fn tick_until_alive(&mut self) -> Result<()> {
        for _ in 0..=self.ticks_per_keepalive() {
            self.tick()?;
        }
        ensure!(self.nodes.iter().all(|node| node.heard > 0), "a node has no answer to its keepalive");
        Ok(())
    }

    /// The keepalives of one interval, evenly spread over the nodes, their Tick, the answers, the watches.
    fn tick(&mut self) -> Result<()> {
        self.now = self.now.after(self.timing.tick);
        self.ticks += 1;
        let start = Instant::now();
        let stride = self.ticks_per_keepalive();
        let first = usize::try_from(self.ticks % stride)?;
        for n in (first..self.nodes.len()).step_by(usize::try_from(stride)?) {
            self.offer(n)?;
        }
        ensure!(self.clock.turn(self.now) == Turn::Propose, "no time for a Tick at {:?}", self.now);
        let now = self.now;
        let Ok(proposal) = self.renewals.close().stamp(&mut self.clock, || now, 0) else {
            bail!("the clock refused a stamp at {now:?}")
        };
        let Reply::Ticked(ticked) = self.replica.apply(proposal.command())? else {
            bail!("a Tick was not answered as one")
        };
        self.clock.applied(ticked.time_ms, now);
        for (n, answer) in proposal.applied(&self.replica.machine, &ticked) {
            self.hear(n, answer)?;
        }
        self.spent.leader += start.elapsed();
        self.watch()
    }

    fn offer(&mut self, n: usize) -> Result<()> {
        let node = &mut self.nodes[n];
        node.number += 1;
        let keepalive = Keepalive {
            session: node.session,
            number: node.number,
            heard: node.heard,
            revision: node.at,
            activations: 100_000,
            reserve_ms: 0,
        };
        let offered = self.renewals.offer(&self.replica.machine, &keepalive, n);
        let request = KeepaliveRequest { cluster: meta::CLUSTER.into(), ..keepalive.into() };
        self.spent.keepalive_bytes += request.encoded_len() as u64;
        match offered {
            Offered::Queued { dropped: None } => Ok(()),
            other => bail!("a keepalive was not taken in: {other:?}"),
        }
    }

    fn hear(&mut self, n: usize, answer: KeepaliveAnswer) -> Result<()> {
        ensure!(answer.verdict == Verdict::Renewed, "node {n} was not renewed: {answer:?}");
        self.nodes[n].heard = answer.number;
        self.spent.keepalive_bytes += KeepaliveResponse::from(answer).encoded_len() as u64;
        Ok(())
    }

    /// Every watcher looks at what the last entry changed, and hears of it or how far the store is: as the
    /// member's stream does, up to the bytes of its message.
    fn watch(&mut self) -> Result<()> {
        let (start, machine) = (Instant::now(), &self.replica.machine);
        for node in &mut self.nodes {
            let events = machine.events_since(node.at).context("a watch has fallen behind")?;
            node.at = machine.revision();
            self.spent.watch_messages += events.len().max(1) as u64;
            if events.is_empty() {
                let message = WatchResponse::from(Watched::Progress(node.at));
                self.spent.progress_bytes += message.encode_to_vec().len() as u64;
            }
            for event in events {
                let message = WatchResponse::from(Watched::Event((*event).clone()));
                self.spent.event_bytes += message.encode_to_vec().len() as u64;
            }
        }
        self.spent.watch += start.elapsed();
        Ok(())
    }

    /// The planner decides, owners give up what they are asked for, until nothing is left to do.
    fn settle(&mut self) -> Result<()> {
        let ty = meta::type_id(TYPE)?;
        for _ in 0..ROUNDS {
            let start = Instant::now();
            let decisions = self.planner.plan(&self.replica.machine, self.now);
            let entry = self.replica.machine.type_entry(ty).context("its type is declared")?;
            let asked: Vec<Op> = entry.shards().iter().zip(0..).filter_map(|(s, n)| ack(ty, n, s)).collect();
            let done = decisions.is_empty() && asked.is_empty();
            if !decisions.is_empty() {
                self.replica.apply(&Command::ShardDecisions(decisions))?;
            }
            self.spent.leader += start.elapsed();
            if done {
                return Ok(());
            }
            self.watch()?;
            for ops in asked.chunks(limits::BATCH_OPS) {
                let start = Instant::now();
                self.replica.apply(&Command::Batch(ops.to_vec()))?;
                self.spent.leader += start.elapsed();
                self.watch()?;
            }
        }
        bail!("shards have not settled after {ROUNDS} plans")
    }

    /// A change of nodes and what follows from it: CPU milliseconds, and event bytes for each watcher.
    fn change(&mut self, change: impl FnOnce(&mut Self) -> Result<()>) -> Result<[f64; 2]> {
        let before = self.nodes.len();
        self.spent = Spent::default();
        change(self)?;
        self.settle()?;
        let watchers = before.min(self.nodes.len()) as f64;
        let cpu = self.spent.leader + self.spent.watch;
        Ok([cpu.as_secs_f64() * 1000.0, self.spent.event_bytes as f64 / watchers])
    }
}

/// What the owner of a shard that it is asked to give up answers at once.
fn ack(ty: u64, shard: u32, state: &ShardState) -> Option<Op> {
    match *state {
        ShardState::Revoking { session, grant, .. } => {
            Some(Op::AckShard { ty, shard: ShardId(shard), session, grant, given_up: true })
        }
        ShardState::Assigned { .. } | ShardState::Free => None,
    }
}
