//! The other process: gRPC and bare TCP on two ports of loopback.

use std::pin::Pin;

use anyhow::Result;
use futures::{Stream, StreamExt};
use tokio::net::TcpListener;
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Server, server::TcpIncoming},
};

use super::{
    answer, tcp,
    wire::{
        Ask, Batch,
        floor_server::{Floor, FloorServer},
    },
};

/// Serves until the process ends; `listening` hears both addresses: gRPC, TCP.
pub async fn serve(listening: impl FnOnce(String, String) -> Result<()>) -> Result<()> {
    let incoming = TcpIncoming::bind(([127, 0, 0, 1], 0).into())?.with_nodelay(Some(true));
    let bare = TcpListener::bind(("127.0.0.1", 0)).await?;
    listening(incoming.local_addr()?.to_string(), bare.local_addr()?.to_string())?;
    tokio::spawn(tcp::serve(bare));
    Server::builder().add_service(FloorServer::new(Adds)).serve_with_incoming(incoming).await?;
    Ok(())
}

struct Adds;

#[tonic::async_trait]
impl Floor for Adds {
    async fn one(&self, request: Request<Ask>) -> Result<Response<Ask>, Status> {
        Ok(Response::new(answered(request.into_inner())))
    }

    type ManyStream = Pin<Box<dyn Stream<Item = Result<Batch, Status>> + Send>>;

    async fn many(&self, request: Request<Streaming<Batch>>) -> Result<Response<Self::ManyStream>, Status> {
        let replies = request.into_inner().map(|batch| {
            let asks = batch?.asks.into_iter().map(answered).collect();
            Ok(Batch { asks })
        });
        Ok(Response::new(Box::pin(replies)))
    }
}

fn answered(ask: Ask) -> Ask {
    Ask { by: answer(ask.by), ..ask }
}
