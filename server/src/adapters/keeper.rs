//! The session keeper's thread: its own OS thread, its own runtime, its own connections, so that nothing a
//! node does can delay a keepalive (R5, R21). If the node's runtime stands still, the keeper stops renewing
//! and ends the process (R26).

use std::{io, sync::Arc};

use millet_core::model::NodeInfo;
use millet_directory::{Directory, Keeper, KeeperIdentity, KeeperLink, KeeperSettings, keeper_loop};

use crate::world::World;

/// What ends the process when the keeper's watchdog bites.
pub type Fatal = Box<dyn FnOnce(String) + Send>;

/// Says why and aborts: a process whose runtime hangs must not keep its leases.
pub fn abort() -> Fatal {
    Box::new(|why| {
        // A disk that is full may hold the log too: writing to it may panic, and nobody may go on then.
        let _abort = Abort;
        tracing::error!(why, "the node cannot go on");
    })
}

/// Ends the process when it is dropped, by a panic too.
struct Abort;

impl Drop for Abort {
    fn drop(&mut self) {
        std::process::abort()
    }
}

/// Starts the keeper of `directory`'s node. `link` is called on the keeper's runtime, so that its
/// connections live there. Ends with [`Directory::stop`] or a leave.
pub fn start(
    world: &World,
    directory: &Arc<Directory>,
    node: NodeInfo,
    settings: KeeperSettings,
    link: impl FnOnce() -> Arc<dyn KeeperLink> + Send + 'static,
    fatal: Fatal,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let identity = KeeperIdentity { incarnation: world.entropy.next_u128(), node };
    let (clock, vitals) = (world.clock.clone(), directory.vitals());
    let listener = Arc::downgrade(directory);
    let body = move || {
        let on_event = move |event| {
            if let Some(directory) = listener.upgrade() {
                directory.on_keeper_event(event);
            }
        };
        runtime.block_on(async move {
            let link = link();
            keeper_loop(Keeper::new(settings), identity, link, clock, vitals, on_event, fatal).await;
        });
    };
    world.threads.spawn("millet-keeper", Box::new(body))
}

#[cfg(test)]
mod tests {
    use std::{os::unix::process::ExitStatusExt, process::Command};

    const CHILD: &str = "MILLET_TEST_ABORT";

    /// Suggested by torture: where the log lies on the disk that is full, the last words of a member
    /// cannot be written, and writing them panics.
    #[test]
    fn a_node_that_cannot_go_on_ends_even_if_its_log_cannot_be_written() {
        if std::env::var_os(CHILD).is_some() {
            let broken = || -> std::io::Stderr { panic!("no space for the log") };
            let _log =
                tracing::subscriber::set_default(tracing_subscriber::fmt().with_writer(broken).finish());
            super::abort()("a test".into());
            return;
        }
        let own = std::env::current_exe().expect("this program");
        let name = "a_node_that_cannot_go_on_ends_even_if_its_log_cannot_be_written";
        let ended = Command::new(own).args([name, "--nocapture"]).env(CHILD, "1").output().expect("it runs");
        const SIGABRT: i32 = 6;
        assert_eq!(ended.status.signal(), Some(SIGABRT), "{ended:?}");
    }
}
