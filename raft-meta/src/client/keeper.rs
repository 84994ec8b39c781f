//! The session keeper's own road: its own connections, no queue, no batch, no retry of its own. The
//! keeper decides when to send again and to whom (R5).

use std::time::Duration;

use millet_core::model::{Keepalive, KeepaliveAnswer, OpenSession, OpenedSession};
use millet_proto::wire::{self, meta_client::MetaClient as Wire};

use super::{
    ClientError,
    road::{Failure, Road},
};
use crate::Dial;

/// An unanswered keepalive is given up after this; the keeper has sent it to everybody long before.
const ANSWER: Duration = Duration::from_secs(1);
/// An open waits for a commit; one member is not waited for longer.
const OPEN: Duration = Duration::from_millis(1500);

/// See the module. Its connections live on the runtime that first uses them.
pub struct KeeperClient {
    road: Road,
}

impl KeeperClient {
    /// Nothing is connected yet.
    pub fn new(cluster: &str, members: &[String], dial: Dial) -> Self {
        Self { road: Road::new(cluster, members, dial) }
    }

    /// How many members can be addressed.
    pub fn members(&self) -> usize {
        self.road.len()
    }

    /// Opens a session through whichever member leads; asks each member once. Repeating with the same
    /// incarnation and attempt is harmless (R7).
    ///
    /// Cancel safety: dropped, the session may have been opened; it expires by itself.
    pub async fn open(&self, open: OpenSession) -> Result<OpenedSession, ClientError> {
        let mut request = wire::OpenSessionRequest::from(open);
        request.cluster = self.road.cluster.to_string();
        let mut why = Failure::NotDone("no metadata members are configured".into());
        for _ in 0..self.road.len() {
            let member = self.road.leader();
            let mut client = Wire::new(self.road.channel(member)?);
            match tokio::time::timeout(OPEN, client.open(request.clone())).await {
                Ok(Ok(answer)) => {
                    self.road.hint(member, answer.metadata());
                    return answer.into_inner().try_into().map_err(|e| Failure::unreadable(e).into());
                }
                Ok(Err(status)) => {
                    self.road.failed(member, Some(&status));
                    why = Failure::of(&status);
                    if matches!(why, Failure::Refused(_)) {
                        break;
                    }
                }
                Err(_) => {
                    self.road.failed(member, None);
                    why = Failure::late();
                }
            }
        }
        Err(why.into())
    }

    /// Sends a keepalive to one member, by position; it passes it on to the leader it knows.
    ///
    /// Cancel safety: dropped, the keepalive may still renew; the answer is lost.
    pub async fn keepalive(
        &self,
        member: usize,
        keepalive: Keepalive,
    ) -> Result<KeepaliveAnswer, ClientError> {
        let mut request = wire::KeepaliveRequest::from(keepalive);
        request.cluster = self.road.cluster.to_string();
        let mut client = Wire::new(self.road.channel(member)?);
        let answer =
            tokio::time::timeout(ANSWER, client.keepalive(request)).await.map_err(|_| Failure::late())?;
        let answer = answer.map_err(|status| Failure::of(&status))?;
        answer.into_inner().try_into().map_err(|e| Failure::unreadable(e).into())
    }

    /// Which member is thought to lead, by position: send there first.
    pub fn likely_leader(&self) -> usize {
        self.road.leader()
    }
}
