//! `realm demo`: starts the nodes, drives the bots, takes a node away, brings it back, and at the end
//! reads everything back to see whether an acknowledged deed was lost or any was doubled.

mod accounts;
mod bots;
mod calls;
mod cluster;
mod readback;
mod report;

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result};

use accounts::Target;
use bots::Bots;
use cluster::Cluster;
use report::{Report, Table};

/// Which node is taken away.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Victim {
    /// The one with the most activations.
    Busiest,
    /// The metadata leader.
    Leader,
    /// A node that does not lead.
    Follower,
}

/// The demo's settings.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Node processes, each with a metadata member.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=9))]
    nodes: u64,
    /// Players, each with a bot.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(2..=1_000_000))]
    players: u64,
    /// Seconds of load.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// Seconds of load before a node is taken away.
    #[arg(long, default_value_t = 8)]
    kill_after: u64,
    /// Which node is taken away.
    #[arg(long, value_enum, default_value_t = Victim::Busiest)]
    victim: Victim,
    /// SIGTERM instead of `kill -9`: the node leaves in good order.
    #[arg(long)]
    graceful: bool,
    /// Start each node under a launcher, as `millet run` does: a crash is seen at once.
    #[arg(long)]
    launcher: bool,
    /// Take no node away.
    #[arg(long)]
    no_kill: bool,
    /// The load's seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Keep the nodes' folders and logs.
    #[arg(long)]
    keep: bool,
    /// Calls a second; without it, 60 % of what a short measurement at the start finds.
    #[arg(long)]
    rate: Option<f64>,
    /// Print a JSON object as the last line.
    #[arg(long)]
    json: bool,
}

/// Part of the measured capacity that bots use by default.
const LOAD: f64 = 0.6;
/// How long the capacity is measured, and with how many waiting callers.
const MEASURE: (Duration, usize) = (Duration::from_secs(2), 64);
/// How long after its loss a node is started again, at least.
const RESTART_AFTER: Duration = Duration::from_secs(6);
/// How long the last calls may take to end: their deadline is 10 s.
const SETTLE: Duration = Duration::from_secs(12);

/// Runs the demo. The process's exit code: 0 if nothing was lost, doubled or a survivor's fault.
pub async fn run(o: Options) -> Result<i32> {
    let dir = tempfile::Builder::new().prefix("realm-").tempdir().context("making a temporary folder")?;
    let mut cluster = Cluster::start(dir.path(), o.nodes as usize, o.launcher)?;
    let result = play(&o, &mut cluster).await;
    cluster.stop().await;
    if o.keep {
        println!("kept: {}", dir.keep().display());
    }
    let report = result?;
    report.print();
    if o.json {
        println!("{}", serde_json::to_string(&report)?);
    }
    Ok(i32::from(report.lost + report.doubled + report.survivor_errors != 0))
}

async fn play(o: &Options, cluster: &mut Cluster) -> Result<Report> {
    let calls = calls::Calls::connect(cluster.apis(), cluster.heard.clone())?;
    let bots = Bots::new(calls, o.players);
    for i in 0..o.nodes as usize {
        cluster.until_ready(i).await?;
        bots.calls.until_serving(i, o.players + i as u64).await?;
    }
    let ready_ms = cluster.started.elapsed().as_millis() as u64;
    println!("{} nodes ready in {ready_ms} ms; {} players log in", o.nodes, o.players);
    bots.enter().await;
    let rate = match o.rate {
        Some(rate) => rate,
        None => {
            let most = bots.capacity(o.seed, MEASURE.1, MEASURE.0).await;
            println!(
                "measured {most:.0} calls/s with {} waiting callers; bots make {:.0} calls/s",
                MEASURE.1,
                most * LOAD
            );
            most * LOAD
        }
    };
    let mut table = Table::start(&bots, cluster.heard.clone());
    let begin = bots.now();
    let deeds_before = bots.accounts.lock().total.deeds;
    let end = begin + Duration::from_secs(o.seconds);
    let load = tokio::spawn(bots.clone().run(o.seed, rate, end));
    let mut loss = None;
    if !o.no_kill && o.kill_after < o.seconds {
        table.until(begin + Duration::from_secs(o.kill_after)).await;
        loss = Some(lose_a_node(o, cluster, &bots, &mut table).await?);
    }
    table.until(end).await;
    load.await.context("the load ended early")?;
    let deeds_per_s = (bots.accounts.lock().total.deeds - deeds_before) as f64 / o.seconds as f64;
    let settled = bots.now() + SETTLE;
    while bots.in_flight.load(std::sync::atomic::Ordering::Relaxed) > 0 && bots.now() < settled {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let read = readback::read_back(&bots).await;
    let expiry = loss.as_ref().and_then(|l| l.expiry_ms(&cluster.heard.lock().ended));
    Ok(Report::new(
        o.nodes,
        o.players,
        ready_ms,
        deeds_per_s,
        &bots,
        &read,
        loss.as_ref().is_some_and(|l| l.led),
        expiry,
    ))
}

/// A node's loss, as the report needs it.
struct Loss {
    led: bool,
    sessions: std::collections::HashSet<u64>,
    boot_ns: u64,
}

impl Loss {
    /// From the kill to the first survivor that applied the end of its session.
    fn expiry_ms(&self, ended: &[(u64, u64)]) -> Option<u64> {
        let mine = ended.iter().filter(|(s, at)| self.sessions.contains(s) && *at >= self.boot_ns);
        mine.map(|(_, at)| (at - self.boot_ns) / 1_000_000).min()
    }
}

async fn lose_a_node(
    o: &Options,
    cluster: &mut Cluster,
    bots: &Arc<Bots>,
    table: &mut Table,
) -> Result<Loss> {
    let (victim, led, sessions) = choose(o.victim, cluster)?;
    let loss = Loss { led, sessions: sessions.clone(), boot_ns: crate::boot_ns() };
    bots.accounts.lock().node_lost(victim, &sessions, bots.now());
    if o.graceful {
        table.say(format!("SIGTERM to node {}{}", victim + 1, if led { " (leader)" } else { "" }));
        cluster.terminate(victim)?;
    } else {
        bots.calls.avoid(victim);
        cluster.kill(victim).await?;
        table.say(format!("kill -9 of node {}{}", victim + 1, if led { " (leader)" } else { "" }));
        probe(bots);
    }
    let back = bots.now() + RESTART_AFTER;
    if o.graceful {
        let gone = cluster.until_gone(victim);
        tokio::pin!(gone);
        loop {
            tokio::select! {
                r = &mut gone => { r?; break }
                () = table.line() => {}
            }
        }
    }
    table.until(back).await;
    table.say(format!("node {} starts again", victim + 1));
    cluster.spawn(victim)?;
    let ready = cluster.heard.clone();
    let calls = bots.calls.clone();
    tokio::spawn(async move {
        while !ready.lock().ready[victim] {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        calls.welcome(victim);
    });
    Ok(loss)
}

fn choose(how: Victim, cluster: &Cluster) -> Result<(usize, bool, std::collections::HashSet<u64>)> {
    let h = cluster.heard.lock();
    let leader = h
        .leader
        .context("no node has named the metadata leader yet; give the demo more time before --kill-after")?;
    let busiest = |skip: Option<usize>| {
        (0..h.activations.len()).filter(|i| Some(*i) != skip).max_by_key(|i| h.activations[*i])
    };
    let victim = match how {
        Victim::Leader => leader,
        Victim::Busiest => busiest(None).context("there are nodes")?,
        Victim::Follower => busiest(Some(leader)).context("there is a second node")?,
    };
    Ok((victim, victim == leader, h.sessions[victim].clone()))
}

/// One cheap call to each grain the victim owned, so that each one's failover is measured.
fn probe(bots: &Arc<Bots>) {
    for target in bots.accounts.lock().owned_by_victim() {
        let me = bots.clone();
        tokio::spawn(async move {
            match target {
                Target::Player(p) => drop(me.record(target, p, me.calls.profile(p)).await),
                Target::Org(g) => drop(me.record(target, g, me.calls.treasury(g)).await),
                Target::Board(b) => drop(me.record(target, b, me.calls.top(b, b)).await),
                Target::Gm => drop(me.record(target, 0, me.calls.hear(0, u64::MAX)).await),
            }
        });
    }
}
