//! What is watched while a run goes on: processes that end by themselves, their memory, and how late this
//! machine is with everything.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use millet_workload::Recorder;
use parking_lot::Mutex;
use tokio::task::JoinSet;

use crate::cluster::{Ending, Shared, name};

/// Between two looks at processes; also what the lateness of this machine is measured by.
const LOOK: Duration = Duration::from_millis(20);
/// Between two samples of memory.
const SAMPLE: Duration = Duration::from_secs(1);

/// What was seen.
#[derive(Default)]
pub struct Seen {
    /// Processes that ended though no fault was to end them.
    pub unexpected: Vec<Ending>,
    /// Most resident bytes, by node.
    pub rss_bytes: BTreeMap<String, u64>,
    /// The longest that a timer of this process was late.
    pub lateness: Duration,
}

/// Watches for as long as it lives.
pub struct Watch {
    seen: Arc<Mutex<Seen>>,
    _tasks: JoinSet<()>,
}

impl Watch {
    /// Starts to watch.
    pub fn start(cluster: &Shared, recorder: &Arc<Recorder>) -> Self {
        let seen = Arc::<Mutex<Seen>>::default();
        let mut tasks = JoinSet::new();
        tasks.spawn(processes(cluster.clone(), seen.clone()));
        tasks.spawn(memory(cluster.clone(), recorder.clone(), seen.clone()));
        Self { seen, _tasks: tasks }
    }

    /// What was seen so far.
    pub fn seen(&self) -> parking_lot::MutexGuard<'_, Seen> {
        self.seen.lock()
    }
}

async fn processes(cluster: Shared, seen: Arc<Mutex<Seen>>) {
    loop {
        let start = Instant::now();
        tokio::time::sleep(LOOK).await;
        let late = start.elapsed().saturating_sub(LOOK);
        for ending in cluster.reap() {
            if ending.expected {
                continue;
            }
            tracing::error!(node = name(ending.node), status = %ending.status, "ended by itself");
            seen.lock().unexpected.push(ending);
        }
        let mut seen = seen.lock();
        seen.lateness = seen.lateness.max(late);
    }
}

async fn memory(cluster: Shared, recorder: Arc<Recorder>, seen: Arc<Mutex<Seen>>) {
    loop {
        for i in cluster.all() {
            if let Some(bytes) = cluster.node(i).rss_bytes() {
                recorder.observe(crate::traffic::rss(name(i), bytes));
                let mut seen = seen.lock();
                let most = seen.rss_bytes.entry(name(i)).or_default();
                *most = bytes.max(*most);
            }
        }
        tokio::time::sleep(SAMPLE).await;
    }
}
