//! The workload on the cluster: the colleagues' grains and clients, through the proxies, and the history
//! that they write.

use std::{
    fs::File,
    io::{BufReader, BufWriter},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use millet::{
    adapters::meta::{Clients, ClusterStore},
    client::Client,
    world::{Dial, OsClock, Tasks},
};
use millet_oracle::{
    Header, Verdict, check_history,
    history::{Invariant, Limits, Observed, Workload},
};
use millet_raft_meta::client::ClientOptions;
use millet_workload::{Recorder, Settings, StoreRegisters, client, converge, read_back, store_client};
use tokio::{sync::watch, task::JoinSet};

use crate::{cluster::Cluster, nemesis::Kind, node::routes::Routed};

/// A call that has no answer for so long is unknown to its client, who goes on.
const DEADLINE: Duration = Duration::from_secs(6);
/// What one process may have resident: far above what this load needs, far below what a leak would take.
const RSS_BYTES: u64 = 512 * 1024 * 1024;
/// Reading everything back, per pass.
const READ_BACK: Duration = Duration::from_secs(60);

/// What must have been checked, or the run shows nothing.
const REQUIRED: [Invariant; 9] = [
    Invariant::NoLostWrite,
    Invariant::ExactlyOnce,
    Invariant::MonotoneEpochs,
    Invariant::Linearizable,
    Invariant::Ids,
    Invariant::Convergence,
    Invariant::Memory,
    Invariant::Conservation,
    Invariant::AtMostOne,
];

/// Clients at work.
pub struct Traffic {
    ways: Arc<[Client]>,
    stores: Arc<StoreRegisters>,
    recorder: Arc<Recorder>,
    stop: watch::Sender<bool>,
    clients: JoinSet<()>,
    file: PathBuf,
}

/// Begins the history of a run.
pub fn record(dir: &Path, seed: u64, ttl: Duration, kinds: &[Kind]) -> Result<(Arc<Recorder>, PathBuf)> {
    let file = dir.join("history.jsonl");
    let ttl_us = u64::try_from(ttl.as_micros()).context("a short time to live")?;
    let mut header = Header::new("torture", seed, ttl_us);
    header.limits = Limits {
        rss_bytes: Some(RSS_BYTES),
        effects: kinds.iter().map(|k| (k.name().to_owned(), 1)).collect(),
        requires: REQUIRED.to_vec(),
        ..Limits::default()
    };
    let to = BufWriter::new(File::create(&file).context("creating the history")?);
    Ok((Recorder::new(Arc::new(OsClock), to, &header)?, file))
}

impl Traffic {
    /// Starts the clients.
    pub fn start(cluster: &Cluster, seed: u64, recorder: Arc<Recorder>, file: PathBuf) -> Result<Self> {
        let mut settings = Settings { seed, deadline: DEADLINE, ..Settings::default() };
        settings.clients.push((Workload::Store, 2));
        let settings = Arc::new(settings);
        let ways: Arc<[Client]> =
            cluster.apis().iter().map(|a| Client::connect([a])).collect::<Result<_, _>>()?;
        let stores = StoreRegisters::new(Arc::new(store(cluster)));
        let (stop, stopped) = watch::channel(false);
        let mut clients = JoinSet::new();
        for role in settings.roles() {
            let (settings, recorder, stop) = (settings.clone(), recorder.clone(), stopped.clone());
            if role.workload == Workload::Store {
                clients.spawn(store_client(role, stores.clone(), settings, recorder, stop));
            } else {
                clients.spawn(client(role, ways.clone(), settings, recorder, stop));
            }
        }
        Ok(Self { ways, stores, recorder, stop, clients, file })
    }

    /// After the last fault: every grain must answer within the bound. Returns how many did not.
    pub async fn converge(&self, bound: Duration) -> usize {
        converge(self.ways.clone(), Some(self.stores.clone()), self.recorder.clone(), bound).await
    }

    /// Ends the clients, reads everything back, and asks the oracle. Returns what was unreadable, and the
    /// verdict.
    pub async fn judge(mut self) -> Result<(usize, Verdict)> {
        self.stop.send_replace(true);
        while let Some(ended) = self.clients.join_next().await {
            ended.context("a client of the workload")?;
        }
        let unread = read_back(self.ways, Some(self.stores), self.recorder.clone(), READ_BACK).await;
        self.recorder.finish().context("writing the history")?;
        let file = self.file;
        let read = move || -> Result<Verdict> { Ok(check_history(BufReader::new(File::open(&file)?))?) };
        Ok((unread, tokio::task::spawn_blocking(read).await??))
    }
}

/// Memory of a process, for the history.
pub fn rss(process: String, bytes: u64) -> Observed {
    Observed::Rss { process, bytes }
}

/// The cluster's state store as a client of ours reaches it: through the proxies, too.
fn store(cluster: &Cluster) -> ClusterStore {
    let clients = Arc::new(Clients::default());
    let known = cluster.all().map(|i| cluster.node(i).heard().cluster).find(|c| !c.is_empty());
    clients.join(&ClientOptions {
        cluster: known.unwrap_or_default(),
        members: cluster.members().keys().cloned().collect(),
        dial: Dial::new(Arc::new(Routed::new(cluster.members().clone()))).or_failing(),
        spawner: Arc::new(Tasks::new(tokio::runtime::Handle::current())),
    });
    ClusterStore(clients)
}
