//! The kinds of faults.

/// What can go wrong.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// One node is cut off from all others; what was sent arrives when the cut is healed.
    Partition,
    /// Nothing gets from one node to another, and its connections break when that ends.
    OneWay,
    /// What two nodes send each other waits for a moment.
    Hold,
    /// All connections between two nodes break.
    Reset,
    /// A node's process ends and starts again; its disk keeps what was synced, or part of the rest.
    Crash,
    /// A node's process ends while nothing else is wrong, for longer than a failover takes.
    CrashAlone,
    /// As `Crash`, for the member that leads the metadata.
    LeaderCrash,
    /// Every node's process ends at once.
    AllCrash,
    /// A node stands still for longer than its lease.
    Stall,
    /// As `Stall`, just where a right was checked and its deed is still to come.
    PointStall,
    /// A member's disk is slow.
    SlowDisk,
    /// A member's disk fails to sync: the member must stop.
    FailingDisk,
    /// A machine's clocks change their rate, within the bound.
    ClockRate,
    /// A machine's wall clock jumps.
    WallJump,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::Partition,
        Self::OneWay,
        Self::Hold,
        Self::Reset,
        Self::Crash,
        Self::CrashAlone,
        Self::LeaderCrash,
        Self::AllCrash,
        Self::Stall,
        Self::PointStall,
        Self::SlowDisk,
        Self::FailingDisk,
        Self::ClockRate,
        Self::WallJump,
    ];

    /// As histories name it. The time to the next answer is measured after those that begin with `crash`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Partition => "partition",
            Self::OneWay => "one_way_cut",
            Self::Hold => "hold",
            Self::Reset => "reset",
            Self::Crash => "node_crash",
            Self::CrashAlone => "crash_alone",
            Self::LeaderCrash => "leader_crash",
            Self::AllCrash => "all_crash",
            Self::Stall => "stall",
            Self::PointStall => "point_stall",
            Self::SlowDisk => "slow_disk",
            Self::FailingDisk => "failing_disk",
            Self::ClockRate => "clock_rate",
            Self::WallJump => "wall_jump",
        }
    }

    /// The kind of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|k| k.name() == name)
    }
}
