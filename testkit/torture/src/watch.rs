//! What is watched while a run goes on: processes that end by themselves, their memory, and how late this
//! machine is with everything.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Write,
    path::{Path, PathBuf},
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
    /// The sum of all times in which this machine ran nothing, or its disk synced nothing, for longer
    /// than [`STALL`].
    pub stalled: Duration,
}

/// Shorter lateness is that of any busy machine.
const STALL: Duration = Duration::from_millis(100);
/// Between two syncs of the machine's disk.
const SYNC: Duration = Duration::from_millis(200);

/// Watches for as long as it lives.
pub struct Watch {
    seen: Arc<Mutex<Seen>>,
    _tasks: JoinSet<()>,
}

impl Watch {
    /// Starts to watch.
    pub fn start(cluster: &Shared, recorder: &Arc<Recorder>, dir: &Path) -> Self {
        let seen = Arc::<Mutex<Seen>>::default();
        let mut tasks = JoinSet::new();
        tasks.spawn(processes(cluster.clone(), seen.clone()));
        tasks.spawn(memory(cluster.clone(), recorder.clone(), seen.clone()));
        tasks.spawn(disk(dir.join("sync"), seen.clone()));
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
        seen.late(late);
    }
}

impl Seen {
    fn late(&mut self, by: Duration) {
        self.lateness = self.lateness.max(by);
        if by > STALL {
            self.stalled += by;
        }
    }
}

/// Syncs a byte over and over: the members' disks can be no faster.
async fn disk(path: PathBuf, seen: Arc<Mutex<Seen>>) {
    loop {
        let path = path.clone();
        let sync = move || {
            let start = Instant::now();
            let synced = File::create(path).and_then(|mut f| f.write_all(b"1").and_then(|()| f.sync_data()));
            synced.map(|()| start.elapsed())
        };
        if let Ok(Ok(took)) = tokio::task::spawn_blocking(sync).await {
            seen.lock().late(took);
        }
        tokio::time::sleep(SYNC).await;
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
