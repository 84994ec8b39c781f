//! How long a crash is felt: a few grains of our own, each asked over and over, and who answered. A grain
//! that lived on a crashed node counts from the crash to its first answer from elsewhere (G3).
//!
//! The grains do no more than say where they are; what becomes of data is the workload's.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use millet::{client::Client, prelude::*};
use parking_lot::Mutex;
use tokio::task::JoinSet;

/// Grains that are asked.
pub const PROBES: u64 = 48;
/// Between two questions to one grain: the error of what is measured.
const EVERY: Duration = Duration::from_millis(100);
/// After a refusal or a lost answer.
const AGAIN: Duration = Duration::from_millis(20);
/// A question waits inside the cluster for an owner; then it is asked again, through another worker.
const DEADLINE: Duration = Duration::from_millis(1_500);

/// The grain.
pub struct Probe {
    seen: Persistent<u64>,
}

impl Grain for Probe {
    type Service = ProbeService;

    fn options() -> GrainOptions {
        GrainOptions::default().placed(Placement::Hash)
    }

    fn create(c: &mut Create<'_, Self>) -> Self {
        // With a state, so that what is measured has the store's part in it.
        Self { seen: c.state("seen") }
    }

    millet::states!(seen);
}

#[millet::grain(name = "torture.Probe", key = int)]
impl Probe {
    /// Which session hosts it.
    async fn whereabouts(&self, ctx: &Ctx<Self>) -> u64 {
        std::hint::black_box(*self.seen);
        ctx.session().0
    }
}

/// Who answered last for each grain, and when.
#[derive(Clone, Copy, Debug)]
struct Answer {
    session: u64,
    at: Instant,
}

#[derive(Default)]
struct Seen {
    answers: BTreeMap<u64, Answer>,
    /// Grains whose node has crashed, which have not answered since: their node's session, and when.
    missing: BTreeMap<u64, (u64, Instant)>,
    /// What the last question without an answer was told.
    error: String,
    /// What was measured, for the crash under way.
    found: Vec<Duration>,
}

/// Asks the grains for as long as it lives.
pub struct Prober {
    seen: Arc<Mutex<Seen>>,
    answered: Arc<AtomicU64>,
    _tasks: JoinSet<()>,
}

impl Prober {
    /// Starts to ask, through these workers.
    pub fn start(apis: &[String]) -> anyhow::Result<Self> {
        let seen = Arc::<Mutex<Seen>>::default();
        let answered = Arc::<AtomicU64>::default();
        let clients: Vec<_> = apis.iter().map(|a| Client::connect([a])).collect::<Result<_, _>>()?;
        let mut tasks = JoinSet::new();
        for grain in 0..PROBES {
            tasks.spawn(ask(grain, clients.clone(), seen.clone(), answered.clone()));
        }
        Ok(Self { seen, answered, _tasks: tasks })
    }

    /// Answers so far.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Says that the node with these sessions has crashed now; returns how many grains lived there.
    pub fn crashed(&self, session: u64) -> usize {
        let now = Instant::now();
        let mut seen = self.seen.lock();
        let lost: Vec<u64> =
            seen.answers.iter().filter(|(_, a)| a.session == session).map(|(g, _)| *g).collect();
        seen.missing.extend(lost.iter().map(|g| (*g, (session, now))));
        lost.len()
    }

    /// What the last question without an answer was told.
    pub fn error(&self) -> String {
        self.seen.lock().error.clone()
    }

    /// Grains of crashed nodes that have not answered yet.
    pub fn missing(&self) -> usize {
        self.seen.lock().missing.len()
    }

    /// What has been measured since the last call.
    pub fn take(&self) -> Vec<Duration> {
        std::mem::take(&mut self.seen.lock().found)
    }

    /// Grains that have answered after this moment.
    pub fn since(&self, moment: Instant) -> usize {
        self.seen.lock().answers.values().filter(|a| a.at > moment).count()
    }

    /// Grains that this session hosts, as they last said.
    pub fn hosted(&self, session: u64) -> usize {
        self.seen.lock().answers.values().filter(|a| a.session == session).count()
    }
}

async fn ask(grain: u64, clients: Vec<Client>, seen: Arc<Mutex<Seen>>, answered: Arc<AtomicU64>) {
    for turn in grain.. {
        let client = &clients[usize::try_from(turn).unwrap_or(0) % clients.len()];
        let answer = client.call::<probe::Whereabouts>(grain, probe::WhereaboutsArgs {}, DEADLINE).await;
        let now = Instant::now();
        let session = match answer {
            Ok(session) => session,
            Err(error) => {
                seen.lock().error = error.to_string();
                tokio::time::sleep(AGAIN).await;
                continue;
            }
        };
        answered.fetch_add(1, Ordering::Relaxed);
        {
            let mut seen = seen.lock();
            seen.answers.insert(grain, Answer { session, at: now });
            // An answer that had left the node before it crashed says nothing.
            if let Some((lost, since)) = seen.missing.get(&grain).copied()
                && lost != session
            {
                seen.missing.remove(&grain);
                seen.found.push(now - since);
            }
        }
        tokio::time::sleep(EVERY).await;
    }
}
