//! 100,000 messages through one mailbox, at rising numbers of producers: the loop that mailbox libraries
//! like to show.

use std::sync::Arc;

use anyhow::Result;
use millet::Node;

use crate::{
    bare::Bare,
    drive,
    floors::{channel, swap},
    node::with_node,
    row::{Figures, Goal, Peer, Row, Side, Size},
    tells::{self, Channel, DEEP, Deep, DeepGrain, Sink, Swap},
};

/// The row.
pub const ROW: Row = Row {
    name: "mailbox",
    work: "milliseconds for 100,000 messages of 8 bytes pushed by 1, 2, 4, 8 and 16 tasks and taken by one \
           counter, mean of 30 rounds after an unmeasured one. Ours: a whole node in memory, with dispatch: \
           reference, look-up, mailbox, checks, turn; and the bare mailbox of an activation, with its lock, \
           read by a task that adds. Floors as in tell",
    sides: &[
        Side::new("millet", millet),
        Side::new(BARE, bare),
        Side::new("swap buffer", swapped),
        Side::new("tokio mpsc", channels),
    ],
    goals: &[
        Goal::at_most("p1_ms", 3.0),
        Goal::at_most("p2_ms", 3.0),
        Goal::at_most("p4_ms", 3.0),
        Goal::at_most("p8_ms", 3.0),
        Goal::at_most("p16_ms", 3.0),
        Goal::at_most("p1_ms", 2.0).by(BARE),
        Goal::at_most("p2_ms", 2.0).by(BARE),
        Goal::at_most("p4_ms", 2.0).by(BARE),
        Goal::at_most("p8_ms", 2.0).by(BARE),
        Goal::at_most("p16_ms", 2.0).by(BARE),
    ],
    peers: &[
        round("actix", "g/p_actix/tell/1", "p1_ms"),
        round("actix", "g/p_actix/tell/2", "p2_ms"),
        round("actix", "g/p_actix/tell/4", "p4_ms"),
        round("actix", "g/p_actix/tell/8", "p8_ms"),
        round("actix", "g/p_actix/tell/16", "p16_ms"),
    ],
    missing: &[],
};

/// Ours too, without the platform around it.
const BARE: &str = "bare mailbox";

const fn round(name: &'static str, row: &'static str, figure: &'static str) -> Peer {
    Peer { name, row, figure, theirs: "ns_per_round", scale: 1e-6 }
}

const PRODUCERS: [u64; 5] = [1, 2, 4, 8, 16];
const NAMES: [&str; 5] = ["p1_ms", "p2_ms", "p4_ms", "p8_ms", "p16_ms"];

/// A whole node, a mailbox that holds a round.
fn millet(size: Size) -> Result<Figures> {
    let builder = Node::builder().in_memory().grain::<Deep>();
    with_node(builder, move |node| async move { run(tells::awake(DeepGrain(node)).await?, size).await })
}

/// Pushes and pops of the product's mailbox, nothing else.
fn bare(size: Size) -> Result<Figures> {
    drive::in_pool(async move { rounds(Bare::start(), size).await })
}

/// The swap buffer with dynamic dispatch.
fn swapped(size: Size) -> Result<Figures> {
    drive::in_pool(async move { run(Swap(swap::Mailbox::start()), size).await })
}

/// A task with a channel.
fn channels(size: Size) -> Result<Figures> {
    drive::in_pool(async move { run(Channel(channel::counter(DEEP)), size).await })
}

async fn run<S: Sink>(sink: S, size: Size) -> Result<Figures> {
    rounds(Arc::new(sink), size).await
}

async fn rounds<S: Sink>(sink: Arc<S>, size: Size) -> Result<Figures> {
    let messages = size.of(100_000, 1_600);
    let took = tells::rounds(sink, PRODUCERS, messages, size.of(30, 1)).await?;
    Ok(NAMES.into_iter().zip(took.map(|took| took.as_secs_f64() * 1000.0)).collect())
}
