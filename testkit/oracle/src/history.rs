//! The one history format that simulation and torture write and the checkers read: JSON lines, first a
//! header, last an end line. Times are microseconds on one axis per driver; an operation is an `invoke`
//! line and at most one of `ok`, `fail`, `unknown`; what has none when the history ends may have run.
//!
//! Reading is `reader`'s, writing `writer`'s; what the lines mean together is `run`'s.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

/// The version of the format, in every header.
pub const FORMAT: u32 = 1;

/// Microseconds since the driver began.
pub type Micros = u64;

/// Numbers the operations of one history; never used twice.
pub type OpId = u64;

/// One line.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "snake_case")]
pub enum Line {
    /// The first one.
    Header(Header),
    /// A client is about to send an operation.
    Invoke {
        /// When.
        at: Micros,
        /// Which client; it has one operation under way at a time.
        client: u32,
        /// Numbers the operation.
        op: OpId,
        /// Part of which workload.
        workload: Workload,
        /// To which grain (or key of the store), `Type/key`.
        grain: String,
        /// What is asked.
        call: Call,
    },
    /// It was answered.
    Ok {
        /// When the answer was there.
        at: Micros,
        /// Which operation.
        op: OpId,
        /// Which activation answered; `None` where no grain is involved.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        served: Option<Served>,
        /// The answer.
        value: Value,
    },
    /// It surely did not run, and will not (`Ran::No`).
    Fail {
        /// When.
        at: Micros,
        /// Which operation.
        op: OpId,
        /// What the client was told.
        why: String,
    },
    /// It may have run, may still run, or not.
    Unknown {
        /// When the client gave up.
        at: Micros,
        /// Which operation.
        op: OpId,
        /// What the client was told.
        why: String,
    },
    /// Something beside the operations.
    Observation {
        /// When it was seen.
        at: Micros,
        /// What.
        saw: Observed,
    },
    /// The last one: a history without it is of a run that did not finish.
    End {
        /// When.
        at: Micros,
    },
}

/// What a run was.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Header {
    /// [`FORMAT`].
    pub format: u32,
    /// What everything about the run was derived from.
    pub seed: u64,
    /// `sim`, `torture`, or a test's name.
    pub driver: String,
    /// The sessions' time to live.
    pub ttl_us: Micros,
    /// What the checkers compare with.
    #[serde(default)]
    pub limits: Limits,
    /// Rules that were switched off: the run is a control that must fail.
    #[serde(default)]
    pub rules_off: Vec<String>,
}

impl Header {
    /// A header of the present format.
    pub fn new(driver: &str, seed: u64, ttl_us: Micros) -> Self {
        Self { format: FORMAT, seed, driver: driver.to_owned(), ttl_us, ..Self::default() }
    }
}

/// What the checkers compare with.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Resident bytes a process may have (I11).
    pub rss_bytes: Option<u64>,
    /// How long after the end of faults a grain may take to answer (I10); `None`: 2 TTL + 5 s.
    pub converge_us: Option<Micros>,
    /// How often every fault kind that is named must have taken effect in this run (I12). Runs of
    /// which many are merged leave it empty and judge the sum ([`crate::Verdict::cover`]).
    pub effects: BTreeMap<String, u64>,
    /// Invariants that must have had something to check, or the run is invalid.
    pub requires: Vec<Invariant>,
    /// Fault kinds after which the time to the first answer is measured, besides those that start with
    /// `kill` or `crash`.
    pub failover_kinds: Vec<String>,
    /// Whether clock rates stayed within the 10 % of G1(b) and clocks counted every pause. If not,
    /// overlapping execution is counted and printed, not failed; stores must hold all the same.
    pub clocks_within_bound: bool,
    /// Answers that come so long after their session's `Lease` line ended left too late (G1(b)). Only
    /// where nothing holds messages up.
    #[serde(default)]
    pub late_us: Option<Micros>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            rss_bytes: None,
            converge_us: None,
            effects: BTreeMap::new(),
            requires: Vec::new(),
            failover_kinds: Vec::new(),
            clocks_within_bound: true,
            late_us: None,
        }
    }
}

/// The workloads.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Workload {
    /// Ledgers of op ids in leased grains.
    Counter,
    /// Transfers between sharded grains.
    Account,
    /// Registers in leased grains.
    Register,
    /// Registers straight in the state store, by fenced compare-and-set.
    Store,
    /// A stub of one shard: a ledger that must have one keeper at a time.
    Singleton,
    /// Ledgers in grains that are collected when idle and come back.
    Idle,
    /// Snowflake issuers.
    Snowflake,
}

/// What a client asks.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Call {
    /// Append the operation's own number to the ledger.
    Append,
    /// Read the whole ledger.
    Ledger,
    /// Pay `amount` to another account, under the operation's own number.
    Transfer {
        /// To whom.
        to: String,
        /// How much.
        amount: u64,
    },
    /// Read the whole account.
    Account,
    /// Read the register.
    Read,
    /// Write the register.
    Write {
        /// What.
        value: u64,
    },
    /// Write `to` if the register holds `from`.
    Cas {
        /// What it must hold.
        from: u64,
        /// What is written.
        to: u64,
    },
    /// Issue ids.
    Ids {
        /// How many.
        count: u32,
    },
    /// End the activation, so that the next call makes a new one.
    StepDown,
}

/// What an operation was answered.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Value {
    /// Nothing to say.
    Done,
    /// The grain ran and refused; nothing has changed.
    Refused {
        /// Why.
        why: String,
    },
    /// The op stands in the ledger.
    Appended {
        /// At this place, counted from 1.
        position: u64,
        /// Saved as this version.
        version: u64,
    },
    /// The ledger.
    Ledger {
        /// The entries in order.
        entries: Vec<Entry>,
    },
    /// The register's value; 0 before the first write.
    Register {
        /// The value.
        value: u64,
    },
    /// How a compare-and-set went.
    Swapped {
        /// Whether it wrote.
        done: bool,
        /// What the register held before.
        seen: u64,
    },
    /// An account.
    Account(Account),
    /// Ids, in the order they were issued.
    Ids {
        /// The ids.
        ids: Vec<u64>,
    },
}

/// One entry of a ledger.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// The operation that appended it.
    pub op: OpId,
    /// The version of the write that stored it.
    pub version: u64,
    /// The token of the activation that wrote it.
    pub epoch: Epoch,
    /// That activation.
    pub life: u64,
}

/// An account as it is read.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Account {
    /// What it began with.
    pub opening: u64,
    /// What it has.
    pub balance: u64,
    /// Every transfer that left.
    pub sent: Vec<Sent>,
    /// What has arrived, by sender.
    pub received: BTreeMap<String, Received>,
    /// Transfers that have left and are not known to have arrived.
    pub pending: u64,
}

/// One transfer that has left an account.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Sent {
    /// The operation that asked for it.
    pub op: OpId,
    /// To whom.
    pub to: String,
    /// How much.
    pub amount: u64,
}

/// What an account has got from another one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Received {
    /// Transfers.
    pub count: u64,
    /// Their sum.
    pub amount: u64,
}

/// A fencing token, `[generation, index, activation]`, ordered as such.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(from = "(u32, u64, u32)", into = "(u32, u64, u32)")]
pub struct Epoch {
    /// Rises with changes of mode and with recoveries.
    pub generation: u32,
    /// The log index of the grant.
    pub index: u64,
    /// Counts the activations of a process.
    pub activation: u32,
}

impl From<(u32, u64, u32)> for Epoch {
    fn from((generation, index, activation): (u32, u64, u32)) -> Self {
        Self { generation, index, activation }
    }
}
impl From<Epoch> for (u32, u64, u32) {
    fn from(e: Epoch) -> Self {
        (e.generation, e.index, e.activation)
    }
}
impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.generation, self.index, self.activation)
    }
}

/// Which activation answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Served {
    /// The session of its node.
    pub session: u64,
    /// Its token.
    pub epoch: Epoch,
    /// Itself: drawn once when the grain is made, from a counter that no two processes share.
    pub life: u64,
}

/// What is seen beside operations.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Observed {
    /// A part of the run begins.
    Phase {
        /// Which.
        phase: Phase,
    },
    /// A fault, written when it is over (or never got to start).
    Fault(Fault),
    /// A store accepted a write, in the order of acceptance.
    Write {
        /// Whose state.
        grain: String,
        /// Which of its states.
        slot: String,
        /// Under which session.
        session: u64,
        /// Under which token.
        epoch: Epoch,
        /// The version it became.
        version: u64,
    },
    /// A lease, written when it has ended for its holder.
    Lease {
        /// `Type/key`, or `Type#shard`.
        of: String,
        /// Whose.
        session: u64,
        /// From when its holder might run turns.
        from: Micros,
        /// Until when.
        until: Micros,
    },
    /// Memory of a process.
    Rss {
        /// Which.
        process: String,
        /// Resident bytes.
        bytes: u64,
    },
    /// How the cluster stands once all is quiet.
    Settled {
        /// Members that lead the metadata group.
        leaders: u32,
        /// One hash of the applied state per member, as text.
        state_hashes: Vec<String>,
        /// Leases that name no living session.
        orphan_leases: u64,
    },
    /// For the reader of a timeline.
    Note {
        /// What.
        text: String,
    },
}

/// One fault as it went.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Fault {
    /// Its kind, such as `kill_worker`.
    pub kind: String,
    /// Whom it hit.
    pub target: String,
    /// The session that the target held when it began, where there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<u64>,
    /// From when.
    pub start: Micros,
    /// Until when.
    pub end: Micros,
    /// Whether it did what it is for: the killed process was leader, the cut link had carried frames, …
    pub took_effect: bool,
}

/// Parts of a run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// No fault starts or goes on from here: everything must answer within the bound (I10).
    FaultsOver,
    /// The load has ended; everything is read back from here.
    ReadBack,
}

/// What is checked. I6 (reminders) and I7 (pushes) are not here: neither feature exists yet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Invariant {
    /// I1: accepted writes of a grain have non-decreasing epochs, one epoch has one activation, every
    /// version is the one before plus one.
    SingleActivation,
    /// I2: no acknowledged write is lost.
    NoLostWrite,
    /// Every operation has its effect at most once.
    ExactlyOnce,
    /// I3: epochs never go back, in the order of real time.
    MonotoneEpochs,
    /// I4: registers are linearizable.
    Linearizable,
    /// I5: every answer carries the epoch that served it; overlapping leases are counted.
    Routing,
    /// I8: ids are unique, and rise per issuer.
    Ids,
    /// I9: what was reported as not run is never visible.
    HonestFailure,
    /// I10: everything answers soon after faults stop.
    Convergence,
    /// I11: memory is bounded.
    Memory,
    /// I12: every kind of fault took effect as often as asked.
    Coverage,
    /// Transfers neither make nor lose money.
    Conservation,
    /// A singleton's operations carry epochs in the order of real time, none interleaved.
    AtMostOne,
    /// A grain that was collected comes back with its state.
    IdleReturn,
}

impl Invariant {
    /// All of them, in the order of the report.
    pub const ALL: [Self; 14] = [
        Self::SingleActivation,
        Self::NoLostWrite,
        Self::ExactlyOnce,
        Self::MonotoneEpochs,
        Self::Linearizable,
        Self::Routing,
        Self::Ids,
        Self::HonestFailure,
        Self::Convergence,
        Self::Memory,
        Self::Coverage,
        Self::Conservation,
        Self::AtMostOne,
        Self::IdleReturn,
    ];

    /// For people.
    pub fn title(self) -> &'static str {
        match self {
            Self::SingleActivation => "I1  single activation in stores",
            Self::NoLostWrite => "I2  no acknowledged write lost",
            Self::ExactlyOnce => "I2b every op at most once",
            Self::MonotoneEpochs => "I3  epochs never go back",
            Self::Linearizable => "I4  registers linearizable",
            Self::Routing => "I5  answers carry their epoch",
            Self::Ids => "I8  ids unique and rising",
            Self::HonestFailure => "I9  failed means not run",
            Self::Convergence => "I10 convergence",
            Self::Memory => "I11 bounded memory",
            Self::Coverage => "I12 fault coverage",
            Self::Conservation => "C1  money is conserved",
            Self::AtMostOne => "C2  at most one singleton",
            Self::IdleReturn => "C3  idle grains keep state",
        }
    }
}
