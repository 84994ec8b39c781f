//! Ends the sessions of a process that is proven dead, at the metadata members that the process named.

use std::time::Duration;

use millet_raft_meta::client::{ClientError, ClientOptions, MetaClient};

use super::message::Registration;
use crate::world::{Dial, World};

/// The longest try: longer than a metadata failover. Nothing is lost then, the session expires.
const LIMIT: Duration = Duration::from_secs(10);
/// Between two tries; the client has a back-off of its own.
const AGAIN: Duration = Duration::from_millis(50);

/// Closes every session, for one time to live at most: then it has expired anyway. Says in the log what
/// became of each.
///
/// Cancel safety: safe to drop and to repeat.
pub async fn close(sessions: &[Registration]) {
    futures::future::join_all(sessions.iter().map(close_one)).await;
}

async fn close_one(registration: &Registration) {
    let Registration { session, members, .. } = registration;
    let world = World::here();
    let start = world.clock.boottime();
    match tokio::time::timeout(registration.ttl().min(LIMIT), try_to_close(&world, registration)).await {
        Ok(Ok(())) => {
            let took = world.clock.boottime().since(start);
            tracing::info!(session, ?took, "the process is gone: its session is closed");
        }
        Ok(Err(why)) => tracing::error!(session, why, "the session cannot be closed; it will expire"),
        Err(_) => tracing::warn!(
            session,
            ?members,
            "no metadata quorum has answered: the session is not closed, it will expire"
        ),
    }
}

async fn try_to_close(world: &World, registration: &Registration) -> Result<(), String> {
    let client = MetaClient::new(&ClientOptions {
        cluster: registration.cluster.clone(),
        members: registration.members.clone(),
        dial: Dial::new(world.net.clone()).or_failing(),
        spawner: world.io.clone(),
    });
    loop {
        match client.close(registration.id()).await {
            Ok(()) | Err(ClientError::SessionNotAlive(_)) => return Ok(()),
            Err(ClientError::Refused(why)) => return Err(why),
            Err(ClientError::Unavailable(why)) => {
                tracing::debug!(why, "still trying to close the session");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}
