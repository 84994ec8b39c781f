//! What a seed decides: how large the cluster is, how fast it fails over, what its machines, its network
//! and its load are like, and which faults it may have.

use std::time::Duration;

use millet::config::Config;
use millet_core::{control::Point, world::Entropy as _};
use millet_oracle::history::Workload;
use millet_testkit::SeededEntropy;
use millet_workload::Settings;

use crate::{aim::Aim, nemesis::Kind};

/// Everything about a run that is not an event.
#[derive(Clone, Debug)]
pub struct Params {
    /// The seed.
    pub seed: u64,
    /// Metadata members.
    pub metas: usize,
    /// Nodes that host grains; the members may be among them.
    pub workers: usize,
    /// Whether members host grains too.
    pub together: bool,
    /// Whether elections and Ticks are twice as quick as by default.
    pub quick: bool,
    /// The session's time to live.
    pub ttl_ms: u64,
    /// The shortest and longest time a message takes.
    pub latency_ms: (u64, u64),
    /// Entries between two snapshots.
    pub snapshot_every: u64,
    /// Grains of each kind in use at a time.
    pub keys: u64,
    /// Mean pause of a client.
    pub pause_ms: u64,
    /// What a client gives a call.
    pub deadline_ms: u64,
    /// Whether clocks run at rates of their own.
    pub skewed: bool,
    /// The kinds of faults it may have; none in a quiet run.
    pub kinds: Vec<Kind>,
    /// Mean time between two faults.
    pub gap_ms: u64,
    /// How long faults go on.
    pub faults: Duration,
    /// Faults under way at a time.
    pub at_once: usize,
    /// Where machines stop.
    pub points: Vec<Point>,
    /// The shortest and longest time that they stop.
    pub stall_ms: (u64, u64),
    /// Clients of each workload.
    pub clients: Vec<(Workload, u32)>,
    /// Whether callers stay attached to nodes.
    pub split: bool,
    /// Issuers of ids.
    pub issuers: u64,
    /// How long a register's reading and a counter's append take.
    pub linger_ms: u64,
    /// How long an answer is under way at most, where that can be said.
    pub late_ms: Option<u64>,
    /// What it is aimed at.
    pub aim: Option<Aim>,
}

/// The port for other nodes, on every machine.
const PEER: u16 = 7400;
/// The port for outside callers.
const API: u16 = 7401;
/// Faults begin when the cluster has had time to form.
pub const CALM: Duration = Duration::from_secs(5);

impl Params {
    /// What `seed` decides. With `only`, faults of no other kind; with `aim`, what that decides.
    pub fn of(seed: u64, only: Option<Kind>, aim: Option<Aim>) -> Self {
        let mut params = Self::drawn(seed, only);
        if let Some(aim) = aim {
            aim.apply(&mut params);
        }
        params
    }

    fn drawn(seed: u64, only: Option<Kind>) -> Self {
        let dice = SeededEntropy::new(seed ^ 0x6d69_6c6c_6574);
        let metas = match dice.below(20) {
            0..=3 => 1,
            4..=18 => 3,
            _ => 5,
        };
        let together = dice.below(3) == 0;
        let (shortest, quick) = (dice.below(3), dice.below(3) == 0);
        let quiet = only.is_none() && dice.below(5) == 0;
        // Swarm testing: a run has some kinds only, so that none hides what another would show.
        let kinds = Kind::ALL.into_iter().filter(|_| dice.below(2) == 0).collect();
        // From the shortest that the start-up check lets through with such elections.
        let ttl_ms = if quick { 2_000 } else { 3_500 } + 250 * dice.below(9);
        Self {
            seed,
            metas,
            workers: 1 + usize::try_from(dice.below(4)).unwrap_or(0),
            together,
            quick,
            ttl_ms,
            // Longer than the lease, mostly.
            stall_ms: (ttl_ms * 3 / 4, ttl_ms * 2),
            latency_ms: (shortest, shortest + 1 + dice.below(if quick { 6 } else { 12 })),
            snapshot_every: 200 + 100 * dice.below(10),
            keys: 2 + dice.below(3),
            pause_ms: 150 + 50 * dice.below(8),
            deadline_ms: [1_000, 2_000, 4_000, 8_000][usize::try_from(dice.below(4)).unwrap_or(0)],
            skewed: dice.below(3) > 0,
            kinds: match (quiet, only) {
                (true, _) => Vec::new(),
                (_, Some(kind)) => vec![kind],
                (_, None) => kinds,
            },
            gap_ms: 500 + dice.below(3_000),
            faults: Duration::from_secs(40 + dice.below(40)),
            at_once: 2,
            points: Point::ALL.to_vec(),
            clients: vec![
                (Workload::Counter, 3),
                (Workload::Account, 1),
                (Workload::Register, 3),
                (Workload::Singleton, 1),
                (Workload::Idle, 1),
                (Workload::Snowflake, 1),
            ],
            split: false,
            issuers: 4,
            linger_ms: 0,
            late_ms: None,
            aim: None,
        }
    }

    /// A seed for one purpose, apart from all others.
    pub fn seed_of(&self, purpose: u64) -> u64 {
        SeededEntropy::new(self.seed ^ purpose.wrapping_mul(0xD6E8_FEB8_6659_FD93)).next_u64()
    }

    /// A source of random numbers for one purpose.
    pub fn dice(&self, purpose: u64) -> SeededEntropy {
        SeededEntropy::new(self.seed_of(purpose))
    }

    /// A clock's rate in parts per million: within the 10 % of G1(b).
    pub fn rate(&self, dice: &SeededEntropy) -> u64 {
        if self.skewed { 900_000 + dice.below(200_001) } else { 1_000_000 }
    }

    /// Within which every grain answers once faults are over (I10).
    pub fn bound(&self) -> Duration {
        Duration::from_millis(2 * self.ttl_ms + 5_000)
    }

    /// When a client begins: one after the other.
    pub fn ramp(&self, client: u32) -> Duration {
        Duration::from_millis(500 + 37 * u64::from(client))
    }

    /// The names of all nodes' machines, and whether each is a member and a worker.
    pub fn nodes(&self) -> Vec<(String, bool, bool)> {
        let metas = (1..=self.metas).map(|n| (format!("m{n}"), true, self.together));
        let more = if self.together { self.workers.saturating_sub(self.metas) } else { self.workers };
        metas.chain((1..=more).map(|n| (format!("w{n}"), false, true))).collect()
    }

    /// The settings of one node.
    pub fn config(&self, name: &str, member: bool, worker: bool) -> Config {
        let mut config = Config::default();
        let cluster = &mut config.cluster;
        cluster.session_ttl_ms = self.ttl_ms;
        if self.quick {
            (cluster.tick_ms, cluster.heartbeat_ms, cluster.quorum_probe_ms) = (50, 50, 700);
            (cluster.election_min_ms, cluster.election_max_ms) = (150, 300);
        }
        let node = &mut config.node;
        node.name = name.to_owned();
        let roles = [member.then_some("meta"), worker.then_some("worker")];
        node.roles = roles.into_iter().flatten().map(str::to_owned).collect();
        node.data_dir = "/data".into();
        node.state_engine = "redb".into();
        node.peer_listen = format!("0.0.0.0:{PEER}");
        node.peer_advertise = format!("{name}:{PEER}");
        let api = |listen: String| if worker { listen } else { String::new() };
        node.api_listen = api(format!("0.0.0.0:{API}"));
        node.api_advertise = api(format!("{name}:{API}"));
        node.admin_listen = String::new();
        node.members = (1..=self.metas).map(|n| format!("m{n}:{PEER}")).collect();
        node.snapshot_every = self.snapshot_every;
        node.log_segment_bytes = 256 * 1024;
        config
    }

    /// Where callers from outside connect.
    pub fn apis(&self) -> Vec<String> {
        let workers = self.nodes().into_iter().filter(|(_, _, worker)| *worker);
        workers.map(|(name, ..)| format!("{name}:{API}")).collect()
    }

    /// What the callers do.
    pub fn load(&self) -> Settings {
        Settings {
            seed: self.seed_of(2),
            clients: self.clients.clone(),
            keys: self.keys,
            pause: Duration::from_millis(self.pause_ms),
            deadline: Duration::from_millis(self.deadline_ms),
            ops_per_key: 200,
            ids_at_once: 8,
            issuers: self.issuers,
            split: self.split,
        }
    }
}
