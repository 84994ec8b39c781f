//! One run, from the first process to the verdict.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    cluster::{Cluster, Equipment, MEMBERS, Shared},
    host::{Need, clocks::Clocks},
    nemesis::{self, Kind, Record, Stage},
    probe::{PROBES, Prober},
    report::{Report, Skipped},
    traffic::{self, Traffic},
    watch::Watch,
};

/// What a run is told.
#[derive(clap::Args, Debug)]
pub struct Options {
    /// How long faults come; a short run goes on until every kind has had its turn.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Only faults of this kind.
    #[arg(long)]
    only: Option<String>,
    /// What the order and the details of faults and calls are drawn from; printed when it was drawn.
    #[arg(long)]
    seed: Option<u64>,
    /// The last line is JSON (it always is; nothing else is printed with this).
    #[arg(long)]
    json: bool,
    /// Keeps logs, data and history of a good run too.
    #[arg(long)]
    keep: bool,
    /// Does without namespaces, images and packet filters even as root.
    #[arg(long)]
    pub unprivileged: bool,
    /// Where runs keep their files.
    #[arg(long, default_value = "target/torture")]
    dir: PathBuf,
}

impl Options {
    /// What is logged unless MILLET_LOG says otherwise.
    pub fn log_filter(&self) -> &'static str {
        if self.json { "error" } else { "warn,millet_torture=info" }
    }
}

/// The default time to live of sessions: what the promises are made for.
const TTL: Duration = millet_core::limits::SESSION_TTL;
/// Every probe must have answered once within this before the first fault.
const WARM: Duration = Duration::from_secs(30);

/// Runs; returns the exit code.
pub async fn run(options: Options, room: Need<()>) -> Result<i32> {
    let seed = options.seed.unwrap_or_else(fresh_seed);
    let dir = folder(&options.dir, seed)?;
    let equipment = Equipment::look(&dir, &room);
    let (kinds, skipped) = choose(options.only.as_deref(), &equipment)?;
    let forbidden: Vec<_> = skipped.iter().filter(|s| s.is_forbidden()).map(|s| s.fault).collect();
    ensure!(
        forbidden.is_empty(),
        "MILLET_NO_SKIP=1 forbids to skip {}; install what they need: {}",
        forbidden.join(", "),
        skipped.iter().map(|s| s.needs.as_str()).collect::<Vec<_>>().join(", ")
    );
    let mut report = Report::new(seed, options.seconds, options.only.clone(), dir.clone(), skipped);
    let cluster: Shared = Arc::new(Cluster::new(&dir, equipment).await?);
    let outcome = tokio::select! {
        outcome = under_fire(&options, seed, &kinds, &cluster, &mut report) => outcome,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    cluster.stop().await;
    drop(cluster);
    if let Err(error) = outcome {
        report.violations.push(format!("{error:#}"));
    }
    let good = report.is_good();
    if good && !options.keep {
        std::fs::remove_dir_all(&dir).context("removing the files of a good run")?;
    }
    report.print(options.json, good && !options.keep);
    Ok(if good { 0 } else { 1 })
}

async fn under_fire(
    options: &Options,
    seed: u64,
    kinds: &[Kind],
    cluster: &Shared,
    report: &mut Report,
) -> Result<()> {
    for i in cluster.all() {
        // Half of the nodes have a wall clock that can jump.
        let clocks = if cluster.equipment.clocks.is_ok() && (i as u64 + seed).is_multiple_of(2) {
            Clocks::Jumping
        } else {
            Clocks::True
        };
        cluster.start(i, clocks)?;
    }
    cluster.bring_up(cluster.all()).await?;
    cluster.all().for_each(|i| cluster.node(i).is_made());
    let (recorder, file) = traffic::record(&report.dir, seed, TTL, kinds)?;
    let watch = Arc::new(Watch::start(cluster, &recorder, &report.dir));
    let prober = Arc::new(Prober::start(cluster.apis())?);
    until_all_answer(&prober, Instant::now(), WARM).await.context("before any fault")?;
    let traffic = Traffic::start(cluster, seed, recorder.clone(), file)?;
    let record = Arc::<Record>::default();
    let stage = Stage {
        cluster: cluster.clone(),
        prober: prober.clone(),
        record: record.clone(),
        recorder,
        watch: watch.clone(),
        ttl: TTL,
    };
    let start = Instant::now();
    let faults = nemesis::run(&stage, seed, kinds, start + Duration::from_secs(options.seconds)).await;
    report.faults_over(start.elapsed());
    if let Err(error) = faults {
        report.violations.push(format!("{error:#}"));
    }
    let settled = settle(&stage, &traffic).await;
    if let Err(error) = settled {
        report.violations.push(format!("after the last fault: {error:#}"));
    }
    let judged = traffic.judge().await;
    report.tell(&record, &watch, &prober);
    let (unread, verdict) = judged?;
    if unread > 0 {
        report.violations.push(format!("{unread} grains could not be read back"));
    }
    report.verdict = verdict;
    Ok(())
}

/// Ends every fault, and waits until the cluster is as it should be (I10).
async fn settle(stage: &Stage, traffic: &Traffic) -> Result<()> {
    let cluster = &stage.cluster;
    cluster.links.heal();
    cluster.bring_up(cluster.all()).await?;
    let healed = Instant::now();
    let bound = 2 * stage.ttl + Duration::from_secs(5);
    let (silent, probes) =
        tokio::join!(traffic.converge(bound), until_all_answer(&stage.prober, healed, bound));
    probes?;
    ensure!(silent == 0, "{silent} grains of the workload did not answer within {bound:?}");
    let leaders = MEMBERS.filter(|i| cluster.node(*i).heard().stats.leads).count();
    ensure!(leaders == 1, "{leaders} members lead the metadata");
    Ok(())
}

async fn until_all_answer(prober: &Prober, since: Instant, limit: Duration) -> Result<()> {
    let until = Instant::now() + limit;
    while prober.since(since) < PROBES as usize {
        if Instant::now() > until {
            let (count, error) = (prober.since(since), prober.error());
            bail!("only {count} of {PROBES} probes answered within {limit:?}; the last error: {error}");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// Which faults run, and which do not and why.
fn choose(only: Option<&str>, equipment: &Equipment) -> Result<(Vec<Kind>, Vec<Skipped>)> {
    if let Some(name) = only
        && Kind::named(name).is_none()
    {
        let names: Vec<_> = Kind::all().map(Kind::name).collect();
        bail!("no fault {name:?}; faults are {}", names.join(", "));
    }
    let wanted = Kind::all().filter(|k| only.is_none_or(|name| k.name() == name));
    let (mut kinds, mut skipped) = (Vec::new(), Vec::new());
    for kind in wanted {
        match kind.need(equipment) {
            Ok(()) => kinds.push(kind),
            Err(needs) => skipped.push(Skipped { fault: kind.name(), needs }),
        }
    }
    Ok((kinds, skipped))
}

fn folder(parent: &Path, seed: u64) -> Result<PathBuf> {
    let dir = parent.join(format!("{seed}-{}", std::process::id()));
    std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    dir.canonicalize().with_context(|| format!("finding {}", dir.display()))
}

fn fresh_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    // Short enough to type.
    RandomState::new().hash_one(std::process::id()) % 1_000_000
}
