//! Local ask by key, many callers.

use anyhow::{Result, ensure};
use millet::Node;

use crate::{
    counter::Count,
    drive::{self, Target},
    floors::{cell::Cells, channel::Tasks},
    node::{Grains, with_node},
    row::{Figures, Goal, Peer, Row, Side, Size},
};

/// The row.
pub const ROW: Row = Row {
    name: "ask-key",
    work: "64 tasks of the grains' pool ask 1,000 counters by key, 2,000,000 asks in all, each task its own one \
           after the other; reference, look-up, turn, reply; every ask is timed; all counters are read back. \
           Ours: a whole node in memory, sharded type. Floors: a cell without a task, looked up by key; a task \
           with a tokio channel per counter, held by position",
    sides: &[Side::new("millet", millet), Side::new("keyed cell", cells), Side::new("tokio mpsc", channels)],
    goals: &[
        Goal::at_least("per_s", 0.7).times("keyed cell"),
        Goal::at_least("per_s", 1.0).times("tokio mpsc"),
        Goal::at_least("per_s", 6.0).times("orlando"),
    ],
    peers: &[
        Peer::per_s("orlando", "a/p_orlando/key_par"),
        Peer::per_s("coerce sharding", "a/p_coerce/shard_par"),
        Peer::per_s("rio-rs", "a/p_rio/ask_par"),
        Peer::per_s("actix (ref held)", "a/p_actix/ask_par"),
        Peer::per_s("coerce (ref held)", "a/p_coerce/ask_par"),
        Peer::per_s("ractor (ref held)", "a/p_ractor/ask_par"),
    ],
    missing: &[],
};

const CALLERS: u64 = 64;
const GRAINS: u64 = 1000;

fn asks(size: Size) -> u64 {
    size.of(2_000_000, 20_000)
}

/// A whole node in memory; `get(key).call(add)` from tasks of its grains' pool.
fn millet(size: Size) -> Result<Figures> {
    with_node(Node::builder().in_memory().grain::<Count>(), move |node| run(Grains(node), asks(size)))
}

/// The same asks of cells without tasks, looked up by key on every ask.
fn cells(size: Size) -> Result<Figures> {
    drive::in_pool(async move { run(Cells::new(), asks(size)).await })
}

/// The same asks of tasks with channels, found by position.
fn channels(size: Size) -> Result<Figures> {
    drive::in_pool(async move { run(Tasks::start(GRAINS), asks(size)).await })
}

async fn run<T: Target>(target: T, asks: u64) -> Result<Figures> {
    let figures = drive::many(&target, CALLERS, GRAINS, asks, &[]).await?;
    let (sum, asked) = (drive::total(&target, 0..GRAINS).await?, drive::asked(CALLERS, asks));
    ensure!(sum == asked, "the counters hold {sum} after {asked} asks of 1");
    Ok(figures)
}
