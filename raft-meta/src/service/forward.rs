//! Passing a request on to the leader, once, and telling the client where the leader is.

use std::future::Future;

use tonic::{Request, Response, Status, transport::Channel};

use super::{LEADER_HEADER, not_done};
use crate::{member::Running, raft::Leadership};

/// Where a request that only a leader can serve goes.
pub(super) enum Way {
    /// This member leads.
    Here,
    /// To the leader, at this address.
    There(String, Channel),
}

/// Decides where, by what this member knows of `leadership`.
pub(super) fn way(running: &Running, leadership: &Leadership, forwarded: bool) -> Result<Way, Status> {
    match &leadership.leader {
        _ if leadership.own => Ok(Way::Here),
        Some((id, addr)) if *id != running.member && !forwarded => {
            Ok(Way::There(addr.clone(), running.forward.channel(addr)))
        }
        Some((_, addr)) => Err(not_done("this member does not lead; ask the leader", Some(addr))),
        None => Err(not_done("no leader is known: an election is under way, or most members are down", None)),
    }
}

/// Sends it on and adds the hint, so that the next request goes there directly.
pub(super) async fn pass_on<Q, A, F>(
    addr: &str,
    message: Q,
    send: impl FnOnce(Request<Q>) -> F,
) -> Result<Response<A>, Status>
where
    F: Future<Output = Result<Response<A>, Status>>,
{
    let mut answer = send(Request::new(message)).await?;
    if let Ok(hint) = addr.parse() {
        answer.metadata_mut().insert(LEADER_HEADER, hint);
    }
    Ok(answer)
}
