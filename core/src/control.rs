//! Must-fail controls: the proof switches one rule off and must then see its harm (docs/proof.md).
//!
//! Without the feature `controls`, which only the crates of `testkit/` turn on, [`off`] is the constant
//! `false` and the switch costs nothing. With it, the environment variable `MILLET_RULE_OFF` names the
//! rules of this process, read once: one run, one set of rules. A build without debug assertions has no
//! switch at all, whoever asks for the feature: features of a workspace are shared by all that is built in it.

/// A rule that can be switched off; named as in docs/guarantees.md where it has a number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Rule {
    /// Given-up grants stay dead.
    R1,
    /// A store is opened, which raises its floor, before anything is loaded or written.
    R2,
    /// The token is (grant, activation), not the grant alone.
    R3,
    /// Freeze at the local deadline; drop only on Dead.
    R4,
    /// Close the set of keepalives, then read the clock.
    R6,
    /// No authority before the first renewed keepalive.
    R7,
    /// A shard ack names the grant it gives up.
    R8,
    /// Validity is 0.8 of the TTL: off, it is what clocks within 1 % would allow.
    R9,
    /// Validity comes from the activation's own session: off, from whatever session the node has now.
    R12,
    /// A watch never goes back in revision.
    R17,
    /// The leader's clock starts at its first own applied entry, gaps are clamped.
    R21,
    /// Only sessions that hear their answers are renewed.
    R22,
    /// An image is used only if the grant names its epoch.
    R23,
    /// One grant per grain and entry.
    R24,
    /// The exit check.
    Exit,
    /// Stores refuse lower tokens.
    Fence,
    /// Sessions end by cluster time and nodes stop with them: off, a node trusts its lease for ever.
    Lease,
    /// Turns belong to the activation: off, a caller that goes drops the turn.
    OwnTurn,
    /// The log syncs before it answers.
    LogSync,
    /// A member keeps its vote and the machine its grants over a restart.
    EpochKept,
    /// Snowflake ids stop with the session.
    SnowflakeSession,
}

impl Rule {
    /// All of them.
    pub const ALL: [Rule; 21] = [
        Rule::R1,
        Rule::R2,
        Rule::R3,
        Rule::R4,
        Rule::R6,
        Rule::R7,
        Rule::R8,
        Rule::R9,
        Rule::R12,
        Rule::R17,
        Rule::R21,
        Rule::R22,
        Rule::R23,
        Rule::R24,
        Rule::Exit,
        Rule::Fence,
        Rule::Lease,
        Rule::OwnTurn,
        Rule::LogSync,
        Rule::EpochKept,
        Rule::SnowflakeSession,
    ];

    /// The name that `MILLET_RULE_OFF` uses.
    pub fn name(self) -> String {
        format!("{self:?}")
    }
}

/// Whether this process runs without `rule`.
#[cfg(not(all(feature = "controls", debug_assertions)))]
#[inline(always)]
pub const fn off(_rule: Rule) -> bool {
    false
}

/// Whether this process runs without `rule`.
#[cfg(all(feature = "controls", debug_assertions))]
pub fn off(rule: Rule) -> bool {
    static OFF: std::sync::OnceLock<u32> = std::sync::OnceLock::new();
    let set = *OFF.get_or_init(|| {
        let names = std::env::var("MILLET_RULE_OFF").unwrap_or_default();
        names.split(',').filter(|n| !n.is_empty()).fold(0, |set, name| {
            let rule = Rule::ALL.into_iter().find(|r| r.name() == name);
            set | 1 << rule.unwrap_or_else(|| panic!("MILLET_RULE_OFF names no rule: {name:?}")) as u32
        })
    });
    set >> rule as u32 & 1 == 1
}

/// Places at which the proof stops a process for a while: where a right was checked, or a clock read, and
/// the deed that rests on it is still to come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Point {
    /// The exit check has passed, the output is still here.
    ExitChecked,
    /// As `ExitChecked`, at the connection's writer.
    FrameChecked,
    /// The right to write was checked, the write has not been sent.
    BeforeSave,
    /// The grain is granted, the store has not been opened.
    BeforeOpen,
    /// Keepalives were taken, the leader's clock has not been read.
    KeepalivesClosed,
    /// The leader's clock was read, the Tick has not been proposed.
    TickStamped,
    /// A keepalive counts as sent, and has not been.
    KeepaliveCounted,
    /// A shard was given up, the ack has not been sent.
    BeforeAck,
}

impl Point {
    /// All of them.
    pub const ALL: [Point; 8] = [
        Point::ExitChecked,
        Point::FrameChecked,
        Point::BeforeSave,
        Point::BeforeOpen,
        Point::KeepalivesClosed,
        Point::TickStamped,
        Point::KeepaliveCounted,
        Point::BeforeAck,
    ];
}

/// This process has come to `point`.
#[cfg(not(feature = "controls"))]
#[inline(always)]
pub const fn reached(_point: Point) {}

#[cfg(feature = "controls")]
static HOOK: std::sync::OnceLock<fn(Point)> = std::sync::OnceLock::new();

/// This process has come to `point`.
#[cfg(feature = "controls")]
pub fn reached(point: Point) {
    if let Some(hook) = HOOK.get() {
        hook(point);
    }
}

/// Has `hook` called at every point. The first one stays.
#[cfg(feature = "controls")]
pub fn on_points(hook: fn(Point)) {
    let _ = HOOK.set(hook);
}
