//! The `Bootstrap` service: the only one that a member without a cluster serves.

use std::sync::Arc;

use millet_core::NodeId;
use millet_proto::wire::{self, bootstrap_server::Bootstrap};
use tonic::{Request, Response, Status};

use crate::{
    identity::Membership,
    machine::Secret,
    member::{MemberError, Shared},
};

/// See the module.
pub(super) struct Service(pub(super) Arc<Shared>);

fn failed(e: &MemberError) -> Status {
    Status::failed_precondition(e.to_string())
}

#[tonic::async_trait]
impl Bootstrap for Service {
    async fn inspect(
        &self,
        _: Request<wire::InspectRequest>,
    ) -> Result<Response<wire::InspectResponse>, Status> {
        let node = self.0.node().0;
        let Some(m) = self.0.membership() else {
            return Ok(Response::new(wire::InspectResponse { node, ..Default::default() }));
        };
        let initialized = match self.0.running() {
            Some(running) => {
                running.is_initialized().await.map_err(|e| Status::unavailable(e.to_string()))?
            }
            None => false,
        };
        let members = m.founders.into_iter().map(|(id, addr)| wire::MemberAddress { id, addr }).collect();
        Ok(Response::new(wire::InspectResponse {
            cluster: m.cluster,
            member: m.member,
            members,
            initialized,
            node,
        }))
    }

    async fn adopt(
        &self,
        request: Request<wire::AdoptRequest>,
    ) -> Result<Response<wire::AdoptResponse>, Status> {
        let r = request.into_inner();
        let secret = <[u8; 16]>::try_from(&r.secret[..])
            .map_err(|_| Status::invalid_argument("secret: 16 bytes are needed"))?;
        if r.cluster.is_empty() || r.member == 0 {
            return Err(Status::invalid_argument("cluster and member may not be empty"));
        }
        let founders: Vec<_> = r.members.into_iter().map(|m| (m.id, m.addr)).collect();
        // Earlier builds name it in the list only.
        let listed = founders.iter().find(|(id, _)| *id == r.member).map(|(_, addr)| addr.clone());
        let addr = if r.addr.is_empty() { listed.unwrap_or_default() } else { r.addr };
        let place = Membership { cluster: r.cluster, member: r.member, secret: Secret(secret), founders };
        self.0.adopt(place, &addr, NodeId(r.node)).await.map_err(|e| failed(&e))?;
        Ok(Response::new(wire::AdoptResponse {}))
    }

    async fn init(
        &self,
        request: Request<wire::InitRequest>,
    ) -> Result<Response<wire::InitResponse>, Status> {
        let place = self.0.init(&request.into_inner().members).await.map_err(|e| failed(&e))?;
        Ok(Response::new(wire::InitResponse { cluster: place.cluster, member: place.member }))
    }
}
