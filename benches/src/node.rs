//! Whole nodes as users run them: grains on one pool, the network on another, and the callers are tasks of
//! the grains' pool, as grains that call are.

use std::{future::Future, sync::Arc};

use anyhow::{Context, Result};
use millet::{
    Key, Node, NodeBuilder,
    world::{RealDisk, World},
};

use crate::{
    counter::{Add, Counter},
    drive::Target,
};

/// Threads that serve the network, as in production.
const IO_THREADS: usize = 2;

/// Starts a node, waits until it has a session, and runs the work as a task of the grains' pool.
pub fn with_node<T, Work>(
    builder: NodeBuilder,
    work: impl FnOnce(Arc<Node>) -> Work + Send + 'static,
) -> Result<T>
where
    T: Send + 'static,
    Work: Future<Output = Result<T>> + Send + 'static,
{
    let grains = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let io = tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(IO_THREADS).build()?;
    let world = World::real(grains.handle().clone(), io.handle().clone(), Arc::new(RealDisk));
    let launch = io.spawn(builder.launch_in(world));
    let task = grains.spawn(async move {
        let node = Arc::new(launch.await.context("starting the node panicked")??);
        node.ready().await;
        work(node).await
    });
    let done = grains.block_on(task).context("the work panicked")?;
    grains.shutdown_background();
    io.shutdown_background();
    done
}

/// Counters by key on a node, or wherever it finds them: what a user writes.
#[derive(Clone)]
pub struct Grains(pub Arc<Node>);

impl Target for Grains {
    async fn ask(&self, key: u64, by: u64) -> Result<u64> {
        Ok(self.0.get::<Counter>(Key::Int(key)).call::<Add>(by).await?)
    }
}
