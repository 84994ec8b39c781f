//! Who has left a cluster is told so, that it stops asking for votes (R34).

use std::{sync::Weak, time::Duration};

use millet_proto::wire::{self, member_steps_client::MemberStepsClient};
use tonic::Code;

use super::{Running, change::ANSWER};
use crate::service::NOT_DONE_HEADER;

/// Times that a member is told that it has left: with the pauses between, about two minutes, a restart of
/// its machine. Who was away longer is told when it asks for votes.
const FAREWELLS: u32 = 10;
/// The first pause between two of them, doubling up to the longest.
const FAREWELL_PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

/// Tells a member that it has left until it has heard it, or for long enough; ends with this member.
pub(super) async fn farewell(running: Weak<Running>, id: u64, addr: String) {
    let (mut pause, longest) = FAREWELL_PAUSES;
    for _ in 0..FAREWELLS {
        let Some(running) = running.upgrade() else { return };
        match tell(&running, id, &addr).await {
            Ok(what) => return tracing::info!(member = id, addr, "{what}"),
            Err(why) => tracing::debug!(member = id, addr, why, "was not told yet that it has left"),
        }
        drop(running);
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(longest);
    }
    tracing::info!(member = id, addr, "was not told that it has left: it will be when it asks for votes");
}

/// What came of telling it; an error is worth another try.
async fn tell(running: &Running, id: u64, addr: &str) -> Result<&'static str, String> {
    let request = wire::RetireMemberRequest { cluster: running.cluster.to_string(), to: id };
    let mut client = MemberStepsClient::new(running.forward.channel(addr));
    match tokio::time::timeout(ANSWER, client.retire(request)).await {
        Ok(Ok(_)) => Ok("told that it has left"),
        Ok(Err(e)) if e.code() == Code::FailedPrecondition => Ok("another one is at its address"),
        Ok(Err(e)) if e.metadata().contains_key(NOT_DONE_HEADER) => Ok("belongs to no cluster any more"),
        Ok(Err(e)) => Err(e.message().to_owned()),
        Err(_) => Err("no answer in time".into()),
    }
}
