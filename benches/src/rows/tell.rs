//! One-way messages to one grain.

use std::sync::Arc;

use anyhow::Result;
use millet::Node;

use crate::{
    counter::Count,
    drive,
    floors::{channel, swap},
    node::with_node,
    row::{Figures, Goal, Peer, Row, Side, Size},
    tells::{self, Channel, DEEP, Deep, DeepGrain, PlainGrain, Sink, Swap},
};

/// The row.
pub const ROW: Row = Row {
    name: "tell",
    work: "1,000,000 one-way messages of 8 bytes to one counter, from 1 task and from 4, until the counter has \
           taken the last; messages a second, mean of 3 rounds after an unmeasured one, and the rate of 4 over \
           the rate of 1. Ours: a whole node in memory, full dispatch, a mailbox deep enough for a round; and \
           the default mailbox of 1,024, whose senders yield and send again when it is full. Floors: a vector \
           behind a mutex, swapped by the reader, a boxed future per message; a task with a tokio channel",
    sides: &[
        Side::new("millet", millet),
        Side::new("millet, default mailbox", plain),
        Side::new("swap buffer", swapped),
        Side::new("tokio mpsc", channels),
    ],
    goals: &[
        Goal::at_least("p1_per_s", 0.5).times("swap buffer"),
        Goal::at_least("p4_per_s", 0.5).times("swap buffer"),
        // No fall, within what rounds differ by.
        Goal::at_least("p4_over_p1", 0.95),
        Goal::at_least("p1_per_s", 4.0).times("actix"),
    ],
    peers: &[
        Peer::per_s("actix", "b/p_actix/tell_1p").beside("p1_per_s"),
        Peer::per_s("actix", "b/p_actix/tell_4p").beside("p4_per_s"),
        Peer::per_s("ractor", "b/p_ractor/tell_1p").beside("p1_per_s"),
        Peer::per_s("ractor", "b/p_ractor/tell_4p").beside("p4_per_s"),
    ],
    missing: &[],
};

const ROUNDS: u64 = 3;

/// A whole node, a mailbox that holds a round.
fn millet(size: Size) -> Result<Figures> {
    let builder = Node::builder().in_memory().grain::<Deep>();
    with_node(builder, move |node| async move { run(tells::awake(DeepGrain(node)).await?, size).await })
}

/// A whole node, the default mailbox.
fn plain(size: Size) -> Result<Figures> {
    let builder = Node::builder().in_memory().grain::<Count>();
    with_node(builder, move |node| async move { run(tells::awake(PlainGrain(node)).await?, size).await })
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
    let (sink, messages) = (Arc::new(sink), size.of(1_000_000, 10_000));
    // Sums go on over both parts: a sink counts everything it has ever taken.
    let [one, four] = tells::rounds(sink, [1, 4], messages, size.of(ROUNDS, 1)).await?;
    let rate = |took: std::time::Duration| messages as f64 / took.as_secs_f64();
    Ok(vec![("p1_per_s", rate(one)), ("p4_per_s", rate(four)), ("p4_over_p1", rate(four) / rate(one))])
}
