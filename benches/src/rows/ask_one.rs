//! Local ask, one caller.

use anyhow::Result;
use millet::Node;

use crate::{
    counter::Count,
    drive,
    floors::{cell::Cells, channel::Tasks},
    node::{Grains, with_node},
    row::{Figures, Goal, Peer, Row, Side, Size},
};

/// The row.
pub const ROW: Row = Row {
    name: "ask-one",
    work: "one task of the grains' pool asks one counter by key, 1,000,000 times, one after the other; every ask \
           is timed, the clock's own cost is in the figure. Sides as in ask-key",
    sides: &[Side::new("millet", millet), Side::new("keyed cell", cells), Side::new("tokio mpsc", channels)],
    goals: &[Goal::at_most("p50_us", 0.15)],
    peers: &[
        Peer::p50("coerce (ref held)", "a/p_coerce/ask_seq"),
        Peer::p50("xtra (ref held)", "a/p_xtra/ask_seq"),
        Peer::p50("ractor (ref held)", "a/p_ractor/ask_seq"),
        Peer::p50("orlando (ref held)", "a/p_orlando/ask_seq"),
    ],
    missing: &[],
};

fn asks(size: Size) -> u64 {
    size.of(1_000_000, 5_000)
}

/// A whole node in memory; `get(key).call(add)`.
fn millet(size: Size) -> Result<Figures> {
    with_node(Node::builder().in_memory().grain::<Count>(), move |node| async move {
        drive::one(&Grains(node), 7, asks(size), &[]).await
    })
}

/// A cell without a task, looked up by key on every ask.
fn cells(size: Size) -> Result<Figures> {
    drive::in_pool(async move { drive::one(&Cells::new(), 7, asks(size), &[]).await })
}

/// A task with a channel.
fn channels(size: Size) -> Result<Figures> {
    drive::in_pool(async move { drive::one(&Tasks::start(8), 7, asks(size), &[]).await })
}
