//! Aimed runs: what shows the harm of one missing rule soonest. `cargo xtask sim --controls` runs each of its
//! controls aimed, and the tests run the same seeds with all rules on.
//!
//! An aim decides the faults and the load; sizes of time, latency and chance still come from the seed.

use std::time::Duration;

use millet_core::control::Point;
use millet_oracle::history::Workload;

use crate::{nemesis::Kind, params::Params};

/// What a run is aimed at, by the name of the rule whose absence it shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Aim {
    /// A node stops between its right to write and the write, and others open the grain and read it
    /// meanwhile. Shows `Fence` and `R2`.
    Store,
    /// A node is cut off from everybody but its callers. Shows `Lease`.
    Lease,
    /// Turns outlive the session they began under. Shows `Exit` and `R12`.
    Exit,
    /// Callers give up in the middle of their turn. Shows `OwnTurn`.
    OwnTurn,
    /// Many ids from all nodes. Shows `SnowflakeSession`.
    Ids,
    /// A member lags, sessions end, watches begin anew. Shows `R17`.
    Watch,
    /// Workers crash one at a time, and every grain is asked all the time by clients that know all nodes:
    /// what is measured is the cluster, not when somebody asked next.
    Failover,
}

impl Aim {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Store, Self::Lease, Self::Exit, Self::OwnTurn, Self::Ids, Self::Watch, Self::Failover];

    /// As the command line names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Lease => "lease",
            Self::Exit => "exit",
            Self::OwnTurn => "own_turn",
            Self::Ids => "ids",
            Self::Watch => "watch",
            Self::Failover => "failover",
        }
    }

    /// The aim of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|aim| aim.name() == name)
    }

    /// Aims a run.
    pub fn apply(self, params: &mut Params) {
        // Members apart from workers, so that what stops a worker stops no metadata.
        (params.metas, params.workers, params.together) = (3, 3, false);
        // The shortest lease that goes with quick elections, or a little more.
        (params.quick, params.ttl_ms) = (true, 2_000 + params.ttl_ms % 500);
        params.at_once = 1;
        params.faults = Duration::from_secs(30);
        params.gap_ms = 600;
        params.deadline_ms = 8_000;
        params.split = true;
        params.stall_ms = (params.ttl_ms + 700, params.ttl_ms + 2_000);
        params.aim = Some(self);
        match self {
            Self::Store => {
                params.kinds = vec![Kind::PointStall];
                params.points = vec![Point::BeforeSave];
                (params.keys, params.pause_ms) = (2, 100);
                params.clients = vec![(Workload::Counter, 10), (Workload::Register, 2)];
            }
            Self::Lease => {
                params.kinds = vec![Kind::Partition];
                (params.keys, params.pause_ms, params.deadline_ms) = (3, 100, 2_000);
                params.clients = vec![(Workload::Counter, 8), (Workload::Register, 4)];
            }
            Self::Exit => {
                params.kinds = vec![Kind::Stall];
                (params.keys, params.pause_ms, params.deadline_ms) = (4, 100, 20_000);
                params.linger_ms = 3 * params.ttl_ms;
                params.late_ms = Some(400);
                params.clients = vec![(Workload::Register, 10), (Workload::Counter, 4)];
            }
            Self::OwnTurn => {
                params.kinds = vec![Kind::SlowDisk];
                (params.keys, params.pause_ms, params.deadline_ms) = (2, 100, 150);
                params.linger_ms = 80;
                params.split = false;
                params.clients = vec![(Workload::Counter, 4), (Workload::Register, 2)];
            }
            Self::Ids => {
                params.kinds = vec![Kind::Stall];
                (params.keys, params.pause_ms) = (2, 80);
                params.clients =
                    vec![(Workload::Snowflake, 8), (Workload::Counter, 1), (Workload::Register, 1)];
                params.issuers = 6;
                params.skewed = false;
            }
            Self::Watch => {
                params.kinds = vec![Kind::Partition, Kind::Stall, Kind::Reset, Kind::Reset, Kind::Reset];
                (params.at_once, params.gap_ms) = (3, 200);
                params.split = false;
            }
            Self::Failover => {
                params.kinds = vec![Kind::CrashAlone];
                params.faults = Duration::from_secs(60);
                (params.keys, params.pause_ms) = (2, 60);
                params.clients = vec![(Workload::Counter, 6), (Workload::Register, 4)];
                params.split = false;
            }
        }
    }

    /// Whether a partition hits a member, which only other members lose, rather than a worker.
    pub fn cuts_members(self) -> bool {
        self == Self::Watch
    }
}
