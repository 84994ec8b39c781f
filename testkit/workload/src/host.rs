//! What a process lends to the workload's grains: numbers for their lives, and the node's id generator.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use millet::{Directory, Node};
use millet_oracle::history::{Epoch, Served};
use parking_lot::Mutex;

/// A process as its grains see it. Cheap to clone.
#[derive(Clone)]
pub struct Host(Arc<Inner>);

struct Inner {
    process: u32,
    linger: Box<dyn Fn() -> Duration + Send + Sync>,
    lives: AtomicU64,
    directory: Mutex<Weak<Directory>>,
}

impl Host {
    /// For one start of one process: `process` must differ between all starts of all processes of a run.
    pub fn new(process: u32) -> Self {
        Self::lingering(process, || Duration::ZERO)
    }

    /// As [`Host::new`], and turns take so long: a register's reading between looking and answering, a
    /// counter's append between the change and its save. Such turns outlive their caller or their session.
    pub fn lingering(process: u32, linger: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        let (linger, lives) = (Box::new(linger), AtomicU64::new(1));
        Self(Arc::new(Inner { process, linger, lives, directory: Mutex::default() }))
    }

    /// Waits in the middle of a turn.
    pub(crate) async fn linger(&self) {
        let time = (self.0.linger)();
        if time > Duration::ZERO {
            tokio::time::sleep(time).await;
        }
    }

    /// The node has started: its grains may issue ids.
    pub fn started(&self, node: &Node) {
        self.attach(node.directory());
    }

    /// As [`Host::started`], where there is only a directory.
    pub fn attach(&self, directory: &Arc<Directory>) {
        *self.0.directory.lock() = Arc::downgrade(directory);
    }

    /// A number for a life that begins: no other activation of the run has it.
    pub(crate) fn new_life(&self) -> u64 {
        u64::from(self.0.process) << 32 | self.0.lives.fetch_add(1, Ordering::Relaxed)
    }

    /// A cluster-wide unique id.
    pub(crate) fn new_id(&self) -> Result<u64, String> {
        let directory = self.0.directory.lock().upgrade().ok_or("the node has not started")?;
        directory.next_id().map_err(|e| e.to_string())
    }
}

/// Who answers: for the end of every turn.
pub(crate) fn served<G: millet::rt::Grain>(ctx: &millet::rt::Ctx<G>, life: u64) -> Served {
    let epoch = ctx.epoch();
    let (generation, index) = (epoch.grant.generation, epoch.grant.index);
    let epoch = Epoch { generation, index, activation: epoch.activation };
    Served { session: ctx.session().0, epoch, life }
}
