//! Remote ask: two processes on loopback, 64 callers, 256, and one.

use anyhow::{Context, Result, ensure};

use crate::{
    child::Child,
    drive::{self, Target},
    floors::net::{Bare, Framed, Stream, Unary},
    host::Members,
    node::{Grains, with_node},
    row::{Figures, Goal, Peer, Row, Side, Size},
};

/// 64 callers.
pub const ROW_64: Row = Row {
    name: "remote-64",
    work: "64 tasks in one process ask 1,000 counters in another by key, over loopback, 600,000 asks in all, each \
           task its own one after the other; every ask is timed; CPU of both processes. Ours: a node that only \
           calls and a node that hosts (and is the one metadata member), full road: directory, lanes, dispatch, \
           turn; all counters are read back. Floors answer in place: one gRPC stream with batches of 64, one \
           call each over one connection, bare TCP with batches of 64",
    sides: &[
        Side::new("millet", |size| millet(64, size.of(600_000, 2_000))),
        Side::new("tonic stream", |size| floor(Floor::Stream, 64, size.of(600_000, 2_000))),
        Side::new("tonic unary", |size| floor(Floor::Unary, 64, size.of(60_000, 1_000))),
        Side::new("tcp", |size| floor(Floor::Tcp, 64, size.of(600_000, 2_000))),
    ],
    goals: &[
        Goal::at_least("per_s", 0.85).times("tonic stream"),
        Goal::at_most("cpu_us", 3.0),
        Goal::at_least("per_s", 4.0).times("rio-rs"),
    ],
    peers: &[
        Peer::per_s("rio-rs", "d/p_rio/par64"),
        Peer::per_s("coerce", "d/p_coerce/par64"),
        Peer::per_s("ractor_cluster", "d/p_ractor_cluster/par64"),
        Peer::per_s("orlando", "d/p_orlando/par64"),
    ],
    missing: &[],
};

/// 256 callers.
pub const ROW_256: Row = Row {
    name: "remote-256",
    work: "as remote-64, with 256 tasks",
    sides: &[
        Side::new("millet", |size| millet(256, size.of(600_000, 2_000))),
        Side::new("tonic stream", |size| floor(Floor::Stream, 256, size.of(600_000, 2_000))),
        Side::new("tonic unary", |size| floor(Floor::Unary, 256, size.of(60_000, 1_000))),
        Side::new("tcp", |size| floor(Floor::Tcp, 256, size.of(600_000, 2_000))),
    ],
    goals: &[
        Goal::at_least("per_s", 0.8).times("tonic stream"),
        Goal::at_least("per_s", 8.0).times("rio-rs"),
    ],
    peers: &[
        Peer::per_s("rio-rs", "d/p_rio/par256"),
        Peer::per_s("coerce", "d/p_coerce/par256"),
        Peer::per_s("ractor_cluster", "d/p_ractor_cluster/par256"),
        Peer::per_s("orlando", "d/p_orlando/par256"),
    ],
    missing: &[],
};

/// One caller.
pub const ROW_ONE: Row = Row {
    name: "remote-one",
    work: "one task in one process asks one counter in another, 20,000 times, one after the other; every ask is \
           timed. Mostly what it costs to wake idle cores: only ratios within a pass mean something. Sides as in \
           remote-64; over TCP the caller writes and reads itself",
    sides: &[
        Side::new("millet", millet_one),
        Side::new("tonic stream", |size| floor_one(Floor::Stream, size)),
        Side::new("tonic unary", |size| floor_one(Floor::Unary, size)),
        Side::new("tcp", |size| floor_one(Floor::Tcp, size)),
    ],
    goals: &[Goal::at_most("p50_us", 1.1).times("tonic unary"), Goal::at_most("p50_us", 1.0).times("rio-rs")],
    peers: &[
        Peer::p50("rio-rs", "d/p_rio/seq"),
        Peer::p50("coerce", "d/p_coerce/seq"),
        Peer::p50("ractor_cluster", "d/p_ractor_cluster/seq"),
        Peer::p50("orlando", "d/p_orlando/seq"),
    ],
    missing: &[],
};

const GRAINS: u64 = 1000;

fn asks_of_one(size: Size) -> u64 {
    size.of(20_000, 200)
}

/// A hosting process, and a node here that hosts nothing.
fn millet(callers: u64, asks: u64) -> Result<Figures> {
    let members = Members::one()?;
    with_node(members.worker("caller"), move |node| async move {
        let target = Grains(node.clone());
        // Every counter is active and its route known before the clock runs.
        drive::total(&target, 0..GRAINS).await?;
        let figures = drive::many(&target, callers, GRAINS, asks, &members.pids()).await?;
        let (sum, asked) = (drive::total(&target, 0..GRAINS).await?, drive::asked(callers, asks));
        ensure!(sum == asked, "the counters hold {sum} after {asked} asks of 1");
        ensure!(node.stats().now().activations == 0, "a counter was active in the calling process");
        Ok(figures)
    })
}

/// The same with one caller.
fn millet_one(size: Size) -> Result<Figures> {
    let members = Members::one()?;
    with_node(members.worker("caller"), move |node| async move {
        drive::one(&Grains(node), 7, asks_of_one(size), &members.pids()).await
    })
}

/// How a floor asks.
#[derive(Clone, Copy)]
enum Floor {
    Stream,
    Unary,
    Tcp,
}

/// A process that adds in place, asked in one of three ways.
fn floor(how: Floor, callers: u64, asks: u64) -> Result<Figures> {
    async fn ask(target: impl Target, callers: u64, asks: u64, other: u32) -> Result<Figures> {
        drive::many(&target, callers, GRAINS, asks, &[other]).await
    }
    let server = Child::start(&["child", "floor"])?;
    drive::in_pool(async move {
        let (grpc, tcp) = addresses(&server)?;
        match how {
            Floor::Stream => ask(Stream::connect(&grpc).await?, callers, asks, server.pid()).await,
            Floor::Unary => ask(Unary::connect(&grpc).await?, callers, asks, server.pid()).await,
            Floor::Tcp => ask(Framed::connect(&tcp).await?, callers, asks, server.pid()).await,
        }
    })
}

/// The same with one caller.
fn floor_one(how: Floor, size: Size) -> Result<Figures> {
    async fn ask(target: impl Target, size: Size, other: u32) -> Result<Figures> {
        drive::one(&target, 7, asks_of_one(size), &[other]).await
    }
    let server = Child::start(&["child", "floor"])?;
    drive::in_pool(async move {
        let (grpc, tcp) = addresses(&server)?;
        match how {
            Floor::Stream => ask(Stream::connect(&grpc).await?, size, server.pid()).await,
            Floor::Unary => ask(Unary::connect(&grpc).await?, size, server.pid()).await,
            Floor::Tcp => ask(Bare::connect(&tcp).await?, size, server.pid()).await,
        }
    })
}

fn addresses(server: &Child) -> Result<(String, String)> {
    match server.said.as_slice() {
        [grpc, tcp] => Ok((grpc.clone(), tcp.clone())),
        said => None.with_context(|| format!("the server said {said:?} instead of two addresses")),
    }
}
