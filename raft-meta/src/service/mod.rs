//! What a member serves: `Meta` and `State` for nodes, `Raft` and `MemberSteps` for members, `Members` for
//! administrators, `Bootstrap` once. Thin: it checks who is meant, passes on what only a leader can do, and translates.

mod backup;
mod bootstrap;
mod forward;
mod members;
mod meta;
mod raft;
mod state;
mod watch;

use std::sync::Arc;

use millet_proto::wire::{
    bootstrap_server::BootstrapServer, member_steps_server::MemberStepsServer, members_server::MembersServer,
    meta_server::MetaServer, raft_server::RaftServer, state_server::StateServer,
};
use tonic::{Status, metadata::MetadataValue, transport::server::Router};

use crate::{
    member::{Running, Shared},
    raft::{MESSAGE_BYTES, ProposeError},
};

/// Answers and refusals of members that do not lead name the leader's address in this header.
pub(crate) const LEADER_HEADER: &str = "millet-leader";
/// On a refusal: nothing was done, for sure.
pub(crate) const NOT_DONE_HEADER: &str = "millet-not-done";

/// The tonic services of a member; all of them on one port.
#[derive(Clone)]
pub struct Services {
    pub(crate) shared: Arc<Shared>,
}

impl Services {
    /// Adds every service to a server's router.
    pub fn add_to<L: Clone>(self, router: Router<L>) -> Router<L> {
        let (members, steps) = self.clone().members();
        let (meta, state, raft, bootstrap) = self.parts();
        let router = router.add_service(meta).add_service(state).add_service(raft).add_service(bootstrap);
        router.add_service(members).add_service(steps)
    }

    /// Adds what administrators ask for, for a listener of their own.
    pub fn add_admin_to<L: Clone>(self, router: Router<L>) -> Router<L> {
        router.add_service(self.members().0)
    }

    fn members(self) -> (MembersServer<members::Service>, MemberStepsServer<members::Steps>) {
        let shared = self.shared;
        (
            MembersServer::new(members::Service(Arc::clone(&shared))),
            MemberStepsServer::new(members::Steps(shared)),
        )
    }

    /// Serves them alone on connections that the caller accepts (with `tcp_nodelay` set), until `incoming`
    /// ends.
    ///
    /// Cancel safety: dropping the future closes every connection.
    pub async fn serve<S, IO, E>(self, incoming: S) -> Result<(), tonic::transport::Error>
    where
        S: futures::Stream<Item = Result<IO, E>>,
        IO: tokio::io::AsyncRead
            + tokio::io::AsyncWrite
            + tonic::transport::server::Connected
            + Unpin
            + Send
            + 'static,
        IO::ConnectInfo: Clone + Send + Sync + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (members, steps) = self.clone().members();
        let (meta, state, raft, bootstrap) = self.parts();
        let router =
            tonic::transport::Server::builder().add_service(meta).add_service(state).add_service(raft);
        let router = router.add_service(bootstrap).add_service(members).add_service(steps);
        router.serve_with_incoming(incoming).await
    }

    fn parts(self) -> Parts {
        let shared = self.shared;
        (
            MetaServer::new(meta::Service(Arc::clone(&shared))),
            StateServer::new(state::Service(Arc::clone(&shared)))
                .max_decoding_message_size(MESSAGE_BYTES)
                .max_encoding_message_size(MESSAGE_BYTES),
            RaftServer::new(raft::Service(Arc::clone(&shared)))
                .max_decoding_message_size(MESSAGE_BYTES)
                .max_encoding_message_size(MESSAGE_BYTES),
            BootstrapServer::new(bootstrap::Service(shared)),
        )
    }
}

type Parts = (
    MetaServer<meta::Service>,
    StateServer<state::Service>,
    RaftServer<raft::Service>,
    BootstrapServer<bootstrap::Service>,
);

/// A refusal that says that nothing was done.
pub(crate) fn not_done(why: impl Into<String>, leader: Option<&str>) -> Status {
    let mut status = Status::unavailable(why);
    status.metadata_mut().insert(NOT_DONE_HEADER, MetadataValue::from_static("1"));
    if let Some(leader) = leader.and_then(|l| l.parse().ok()) {
        status.metadata_mut().insert(LEADER_HEADER, leader);
    }
    status
}

/// A proposal's failure in wire form.
pub(crate) fn refused(e: ProposeError) -> Status {
    match e {
        ProposeError::NotLeader(leader) => {
            let addr = leader.as_ref().map(|(_, addr)| addr.as_str());
            not_done("this member does not lead, or has lost its quorum; ask the leader", addr)
        }
        ProposeError::Unknown(why) => Status::unavailable(format!("outcome unknown: {why}")),
    }
}

/// The running member, if the request means this cluster.
pub(crate) fn running(shared: &Shared, cluster: &str) -> Result<Arc<Running>, Status> {
    let running = shared
        .running()
        .ok_or_else(|| not_done("this member belongs to no cluster yet: run init once", None))?;
    if *running.cluster == *cluster {
        return Ok(running);
    }
    let text = format!(
        "this is member {} of cluster {}, the request is for cluster {cluster:.64?}; check the address and the data directory",
        running.member, running.cluster
    );
    Err(Status::failed_precondition(text))
}
