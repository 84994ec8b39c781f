//! Binding ports and serving gRPC on them, with the limits tonic leaves open.

use std::{future::Future, io, net::SocketAddr, time::Duration};

use futures::TryStreamExt;
use millet_gateway::{FIRST_BYTES, Prompt};
use tonic::transport::{Server, server::Router};

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
///
/// Cancel safety: dropping the future closes every connection.
pub async fn serve(
    router: Router,
    listener: Box<dyn Listener>,
    stop: impl Future<Output = ()> + Send + 'static,
    grace: Duration,
) {
    let (stopping, stopped) = tokio::sync::oneshot::channel();
    let signal = async move {
        stop.await;
        let _ = stopping.send(());
    };
    // A connection that stays silent is cut off: tonic would keep it for ever.
    let incoming = Incoming::new(listener).map_ok(|accepted| Prompt::new(accepted, FIRST_BYTES));
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
