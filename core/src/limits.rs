//! Every bound of the system in one place, with its unit and the reason for its value.
//!
//! What the user sees when one bites stands beside it.

use std::time::Duration;

/// A grain key; longer ones are `BadKey`. Keys travel in every envelope.
pub const KEY_BYTES: usize = 1024;
/// A grain type's name.
pub const TYPE_NAME_BYTES: usize = 128;
/// A cluster's id, its name in front: it stands in refusals and logs, which strangers must not fill.
pub const CLUSTER_NAME_BYTES: usize = 256;
/// A node's name, or one of its addresses: every member keeps them for every session, and tells every node.
pub const NODE_TEXT_BYTES: usize = 256;
/// Arguments or result of one call between nodes: `TooLarge`. Bounds a frame's memory on both sides.
pub const MESSAGE_BYTES: usize = 4 * 1024 * 1024;
/// Arguments of a call from outside the cluster: `TooLarge`.
pub const API_MESSAGE_BYTES: usize = 1024 * 1024;
/// One value in a state store: `TooLarge`. It travels through the Raft log as one entry.
pub const STATE_BYTES: usize = 4 * 1024 * 1024;
/// Messages waiting for one activation, unless its type says otherwise: `Overloaded`.
pub const MAILBOX_MESSAGES: usize = 1024;
/// Calls a node has under way to one peer: `Overloaded`. A slow peer makes its callers feel it.
pub const PENDING_CALLS_PER_PEER: usize = 65_536;
/// Tells of one node on their way to other nodes; more are `Overloaded`. As many as calls to one peer:
/// without an owner they wait for their deadline, and hold what they carry.
pub const TELLS: usize = 65_536;
/// Frames in a call chain (A calls B calls C …): `CallCycle`. Deeper chains are loops.
pub const CHAIN_FRAMES: usize = 32;
/// Entries and total bytes of a request's context.
pub const CONTEXT_ENTRIES: usize = 16;
/// See [`CONTEXT_ENTRIES`].
pub const CONTEXT_BYTES: usize = 4096;
/// A call without a deadline of its own gets this one.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(10);
/// Longer deadlines are cut to this.
pub const MAX_DEADLINE: Duration = Duration::from_secs(60);
/// How often the directory resends a call that was refused with `Moved` or `Fenced` before it asks the
/// metadata store, after which it resends once more (R13, R30).
pub const RESENDS: u32 = 2;
/// First polls of runs nested on one caller's stack; deeper ones go to the spawner.
pub const INLINE_DEPTH: u32 = 4;
/// Turns an activation runs before it yields to others on its thread.
pub const TURN_BUDGET: u32 = 64;
/// Routes a node remembers; the oldest are forgotten first. 1 M routes are about 100 MB.
pub const ROUTES: usize = 262_144;
/// Panics an activation may have within [`PANIC_WINDOW`] before its grain is quarantined.
pub const PANICS: u32 = 3;
/// See [`PANICS`]; also how long a quarantine lasts.
pub const PANIC_WINDOW: Duration = Duration::from_secs(60);
/// A shard's owner answers a revoke within this or keeps the shard (R8).
pub const REVOKE_BOUND: Duration = Duration::from_secs(10);
/// The runtime must run a probe task at least this often, or the keeper aborts the process (R26).
pub const WATCHDOG: Duration = Duration::from_secs(10);
/// Default time to live of a session.
pub const SESSION_TTL: Duration = Duration::from_secs(4);
/// Idle activations are ended after this, unless their type says otherwise.
pub const IDLE_AFTER: Duration = Duration::from_secs(15 * 60);
/// Shards of one stub type.
pub const SHARDS: u32 = 65_536;
/// Operations in one batch to the metadata or state store.
pub const BATCH_OPS: usize = 512;
/// Ended sessions and other changes a metadata member keeps for watchers; older: resync.
pub const WATCH_EVENTS: usize = 16_384;
/// Living sessions of one cluster; more are refused at open. A Tick looks at every one of them.
pub const SESSIONS: usize = 4096;
/// Process starts whose last session has ended and whose repeated `OpenSession` is still recognised (R7).
pub const ENDED_INCARNATIONS: usize = 4096;
/// Grain types of one cluster; a node that declares more is not eligible for them.
pub const TYPES: usize = 4096;
/// Shards of all types together: 32 bytes each in every member and node.
pub const TOTAL_SHARDS: usize = 1_048_576;
/// Shortest and longest time to live of a session; wishes beyond are cut. Below the shortest no
/// failover of the metadata leader fits, beyond the longest a dead node's grains are gone too long.
pub const SESSION_TTL_MIN: Duration = Duration::from_millis(500);
/// See [`SESSION_TTL_MIN`].
pub const SESSION_TTL_MAX: Duration = Duration::from_secs(60);
/// Snowflake worker ids: 10 bits.
pub const WORKERS: u16 = 1024;
/// How far above the leader's wall clock a snowflake reservation may be (R33); beyond: refused, the node
/// issues no ids until its clock is right.
pub const RESERVE_AHEAD: Duration = Duration::from_secs(60);
/// Ownership changes a metadata member remembers for people who ask who held what; older: "history
/// since revision R".
pub const HISTORY: usize = 65_536;
/// Nodes whose sessions died young that are remembered (R27); the oldest are forgotten first.
pub const YOUNG_NODES: usize = 1024;
/// A session that expires within this after its first renewal died young (R27).
pub const YOUNG: Duration = Duration::from_secs(30);
/// The wait after the second young death in a row; doubles with each further one (R27).
pub const YOUNG_WAIT: Duration = Duration::from_secs(5);
/// See [`YOUNG_WAIT`]: never longer than this.
pub const YOUNG_WAIT_MAX: Duration = Duration::from_secs(120);
/// Shards of one type under hand-over at a time: callers of few shards wait at once.
pub const REVOKING_PER_TYPE: usize = 16;
/// Repeats of one keepalive that wait for its answer at the leader; the oldest is dropped (R5).
pub const KEEPALIVE_WAITERS: usize = 16;
/// Decisions about shards in one log entry.
pub const DECISIONS: usize = 4096;
