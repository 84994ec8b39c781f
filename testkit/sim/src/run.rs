//! The loop over simulated time: faults, then convergence, then the load ends, then everything is read
//! back, then the oracle judges.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, anyhow, bail};
use mad_turmoil::{rand::set_rng, time::SimClocksGuard};
use millet_oracle::{Header, Invariant, Limits, Verdict, check_history};
use millet_workload::{Buffer, Recorder};
use serde::Serialize;

use crate::{
    aim::Aim,
    cluster::{Cluster, Done, Stage},
    nemesis::{Kind, Nemesis},
    params::Params,
    trace,
    world::{self, SimClock},
};

/// One step of every machine: the finest time a message can take.
const STEP: Duration = Duration::from_millis(1);
/// What every stage after the faults may take: the longest is a call's deadline and what follows it.
const STAGE: Duration = Duration::from_secs(60);

/// What a run was.
#[derive(Serialize, Debug)]
pub struct Outcome {
    /// The oracle's judgement.
    pub verdict: Verdict,
    /// What the oracle does not see: panics, processes that ended themselves, a run that did not end.
    pub broken: Vec<String>,
    /// The trace's hash, and its events.
    pub trace: String,
    /// See `trace`.
    pub events: u64,
    /// What the seed decided.
    pub params: String,
}

/// What a run is asked to be.
pub struct Asked {
    pub seed: u64,
    /// Faults of this kind only.
    pub only: Option<Kind>,
    /// Whether it is aimed.
    pub aim: Option<Aim>,
    /// Where the history goes, if anywhere.
    pub history: Option<std::path::PathBuf>,
}

/// Runs one seed.
pub fn seed(asked: &Asked) -> Result<Outcome> {
    let params = Arc::new(Params::of(asked.seed, asked.only, asked.aim));
    // Everything that asks the system for random numbers or the time gets simulated ones from here on.
    set_rng(rand::SeedableRng::seed_from_u64(asked.seed));
    let clocks = SimClocksGuard::init();
    world::watch_points();
    let history = Buffer::default();
    let axis = Arc::new(SimClock::of(usize::MAX));
    let recorder = Recorder::new(axis, history.clone(), &header(&params))?;
    let (shortest, longest) = params.latency_ms;
    let mut sim = turmoil::Builder::new()
        .rng_seed(asked.seed)
        .epoch(std::time::UNIX_EPOCH + Duration::from_secs(1_793_500_000))
        .simulation_duration(Duration::MAX)
        .tick_duration(STEP)
        .min_message_latency(Duration::from_millis(shortest))
        .max_message_latency(Duration::from_millis(longest))
        .tcp_capacity(4096)
        .enable_random_order()
        .build();
    let mut cluster = Cluster::start(&params, &recorder, &mut sim);
    let mut nemesis = Nemesis::new(params.clone(), recorder.clone());
    let mut broken = Vec::new();
    let gone = drive(&params, &mut sim, &mut cluster, &mut nemesis, &mut broken);
    cluster.close(&recorder);
    recorder.finish().context("the history")?;
    drop(clocks);
    if let Err(e) = gone {
        broken.push(format!("{e:#}"));
    }
    broken.append(&mut nemesis.surprises);
    let (hash, events) = trace::hash();
    let bytes = history.bytes();
    if let Some(path) = &asked.history {
        std::fs::write(path, &bytes).with_context(|| path.display().to_string())?;
    }
    let verdict = check_history(&bytes[..]).context("the history")?;
    // Hosts that are torn down in some order would only cost time.
    std::mem::forget((sim, cluster));
    Ok(Outcome { verdict, broken, trace: format!("{hash:016x}"), events, params: format!("{params:?}") })
}

fn header(params: &Params) -> Header {
    let limits = Limits {
        // What every run has.
        requires: vec![Invariant::NoLostWrite, Invariant::Convergence, Invariant::Linearizable],
        late_us: params.late_ms.map(|ms| ms * 1_000),
        ..Limits::default()
    };
    let off = std::env::var("MILLET_RULE_OFF").unwrap_or_default();
    let rules_off = off.split(',').filter(|r| !r.is_empty()).map(str::to_owned).collect();
    Header { limits, rules_off, ..Header::new("sim", params.seed, params.ttl_ms * 1_000) }
}

/// Goes through all stages.
fn drive(
    params: &Params,
    sim: &mut turmoil::Sim<'_>,
    cluster: &mut Cluster,
    nemesis: &mut Nemesis,
    broken: &mut Vec<String>,
) -> Result<()> {
    let clients = params.load().roles().len();
    let mut stage = Stage::Faults;
    let mut since = Duration::ZERO;
    while stage != Stage::Over {
        let now = sim.elapsed();
        world::set_now(now);
        match stage {
            Stage::Faults => nemesis.look(now, cluster, sim),
            _ => nemesis.bury(now, cluster, sim),
        }
        for host in &cluster.nodes {
            broken.extend(
                host.machine.take_panics().into_iter().map(|p| format!("{}: {p}", host.machine.name)),
            );
        }
        cluster.observe(nemesis.recorder(), broken);
        let done = *cluster.done.lock();
        let over = match stage {
            Stage::Settle => cluster.settled(nemesis.recorder()),
            stage => is_over(stage, now, params, done, clients),
        };
        if over {
            stage = next(stage);
            since = now;
            if stage == Stage::Converge {
                nemesis.heal(cluster, sim);
            }
            cluster.enter(stage);
        }
        if stage != Stage::Faults && now > since + STAGE {
            bail!("{stage:?} did not end within {STAGE:?} of simulated time: {done:?}");
        }
        sim.step().map_err(|e| anyhow!("at {now:?}: {e}"))?;
    }
    Ok(())
}

fn is_over(stage: Stage, now: Duration, params: &Params, done: Done, clients: usize) -> bool {
    match stage {
        Stage::Faults => now >= params.faults,
        Stage::Converge => done.converged.is_some(),
        Stage::Stop => done.stopped >= clients,
        Stage::ReadBack => done.read.is_some(),
        Stage::Settle | Stage::Over => false,
    }
}

fn next(stage: Stage) -> Stage {
    match stage {
        Stage::Faults => Stage::Converge,
        Stage::Converge => Stage::Stop,
        Stage::Stop => Stage::ReadBack,
        Stage::ReadBack => Stage::Settle,
        Stage::Settle | Stage::Over => Stage::Over,
    }
}
