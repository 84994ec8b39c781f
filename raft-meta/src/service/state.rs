//! The `State` service: refuses everything until the `state` group takes commands.

use std::sync::Arc;

use millet_proto::wire::{self, state_server::State};
use tonic::{Request, Response, Status};

use crate::member::Shared;

/// See the module.
pub(super) struct Service(pub(super) Arc<Shared>);

#[tonic::async_trait]
impl State for Service {
    async fn batch(
        &self,
        request: Request<wire::StateBatchRequest>,
    ) -> Result<Response<wire::StateBatchResponse>, Status> {
        let message = request.into_inner();
        let _running = super::running(&self.0, &message.cluster)?;
        Err(Status::unimplemented("the state group takes no commands yet"))
    }
}
