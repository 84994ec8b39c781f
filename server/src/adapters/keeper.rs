//! The session keeper's thread: its own OS thread, its own runtime, its own connections, so that nothing a
//! node does can delay a keepalive (R5, R21). If the node's runtime stands still, the keeper stops renewing
//! and ends the process (R26).

use std::{io, sync::Arc};

use millet_core::{SessionLease, model::NodeInfo};
use millet_directory::{
    Directory, Keeper, KeeperEvent, KeeperIdentity, KeeperLink, KeeperSettings, keeper_loop,
};

use crate::world::World;

/// Starts the keeper of `directory`'s node. `link` is called on the keeper's runtime, so that its
/// connections live there; `begins` before a new session is used. Ends with [`Directory::stop`] or a leave.
pub fn start(
    world: &World,
    directory: &Arc<Directory>,
    node: NodeInfo,
    settings: KeeperSettings,
    link: impl FnOnce() -> Arc<dyn KeeperLink> + Send + 'static,
    begins: impl Fn(&SessionLease) + Send + 'static,
) -> io::Result<()> {
    let identity = KeeperIdentity { incarnation: world.entropy.next_u128(), node };
    let (clock, vitals) = (world.clock.clone(), directory.vitals());
    let listener = Arc::downgrade(directory);
    let fatal = world.fatal.clone();
    let body = async move {
        let on_event = move |event| {
            if let KeeperEvent::Ready { session, .. } = &event {
                begins(session);
            }
            if let Some(directory) = listener.upgrade() {
                directory.on_keeper_event(event);
            }
        };
        let link = link();
        keeper_loop(Keeper::new(settings), identity, link, clock, vitals, on_event, move |why| fatal(why))
            .await;
    };
    world.threads.run("millet-keeper", Box::pin(body), Box::new(|| ()))
}
