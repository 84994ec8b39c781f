//! Binding ports and serving gRPC on them, with the limits tonic leaves open.

use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use futures::TryStreamExt;
use millet_gateway::{Calm, FIRST_BYTES, Prompt, Rejects, Repair};
use tonic::{
    body::Body,
    service::Routes,
    transport::{Server, server::Router},
};
use tower::{
    Layer, Service,
    layer::util::{Identity, Stack},
};

use crate::world::{Incoming, Listener, Net, net};

/// Streams one connection may have open: tonic's default is unlimited, and half-open ones cost memory.
const STREAMS: u32 = 1024;
/// Headers of one request; tonic's own default is 16 KiB, written down so that it does not change.
const HEADERS: u32 = 16 * 1024;

/// A port that could not be taken.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {addr} ({key}): {source}; free the port or change {key}")]
pub struct BindError {
    /// The setting that named it.
    pub key: &'static str,
    /// The address asked for.
    pub addr: String,
    /// What the system said.
    pub source: io::Error,
}

/// Takes the port that the setting `key` names.
///
/// Cancel safety: dropping the future takes nothing.
pub async fn bind(
    net: &dyn Net,
    key: &'static str,
    addr: &str,
) -> Result<(Box<dyn Listener>, SocketAddr), BindError> {
    let error = |source| BindError { key, addr: addr.to_owned(), source };
    let listener = net.bind(addr).await.map_err(error)?;
    let local = listener.local_addr().map_err(error)?;
    Ok((listener, local))
}

/// What answers on the ports for nodes and for people where tonic deviates from the gRPC table.
pub type Inner = Stack<Repair, Identity>;
/// Takes as long as the snapshot is large; its sender has a limit of its own.
const SNAPSHOT: &str = "/millet.v1.Raft/Snapshot";

/// A gRPC server with our limits, for ports that nodes and people use. The API's own routes have a
/// [`Repair`] of their own; see [`server`].
pub fn inner_server() -> Server<Inner> {
    server().layer(Repair::inner(SNAPSHOT))
}

/// A gRPC server with our limits.
pub fn server() -> Server {
    Server::builder()
        .initial_stream_window_size(net::STREAM_WINDOW)
        .initial_connection_window_size(net::CONNECTION_WINDOW)
        .max_concurrent_streams(STREAMS)
        .http2_max_header_list_size(HEADERS)
        .http2_keepalive_interval(Some(net::HTTP2_KEEPALIVE))
        .http2_keepalive_timeout(Some(net::HTTP2_KEEPALIVE))
}

/// Serves until `stop`; then open streams have `grace` to end (tonic itself would wait for ever).
/// `name` says in the log which port turned somebody away.
///
/// Cancel safety: dropping the future closes the port; connections that are open end by themselves, or with
/// the runtime.
pub async fn serve<L, A>(
    name: &'static str,
    router: Router<L>,
    listener: Box<dyn Listener>,
    stop: impl Future<Output = ()> + Send + 'static,
    grace: Duration,
) where
    L: Layer<Routes, Service = A>,
    A: Service<http::Request<Body>, Response = http::Response<Body>> + Clone + Send + 'static,
    A::Future: Send,
    A::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
{
    let (stopping, stopped) = tokio::sync::oneshot::channel();
    let signal = async move {
        stop.await;
        let _ = stopping.send(());
    };
    // A connection that stays silent, or floods us, is cut off: tonic would keep it for ever.
    let rejects = Arc::new(Rejects::new(name));
    let incoming = Incoming::new(listener).map_ok(move |accepted| {
        Calm::new(Prompt::new(accepted, FIRST_BYTES, rejects.clone()), rejects.clone())
    });
    let serving = router.serve_with_incoming_shutdown(incoming, signal);
    let limit = async {
        if stopped.await.is_ok() {
            tokio::time::sleep(grace).await;
        } else {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        done = serving => {
            if let Err(e) = done {
                tracing::error!(error = %net::reason(&e), "a listener ended");
            }
        }
        () = limit => {}
    }
}
