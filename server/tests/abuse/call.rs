//! One gRPC request with exactly these headers and bytes, and what came back.

use std::{net::SocketAddr, time::Duration};

use bytes::{BufMut as _, Bytes, BytesMut};
use h2::client::SendRequest;
use tokio::net::TcpStream;

/// Nothing that is expected takes longer.
pub const LIMIT: Duration = Duration::from_secs(20);
pub const CHECK: &str = "/grpc.health.v1.Health/Check";
pub const STRIKE: &str = "/arena.Duel/Strike";
pub const WATCH: &str = "/arena.Duel/Watch";
pub const STATUS: &str = "/millet.v1.Meta/Status";

/// What came back: the HTTP status, gRPC's, and its message or the error of the connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    pub http: u16,
    pub code: Option<tonic::Code>,
    pub text: String,
    pub message: Bytes,
}

impl Answer {
    fn broken(e: &h2::Error) -> Self {
        Self { http: 0, code: None, text: e.to_string(), message: Bytes::new() }
    }

    /// Whether it says `OK`.
    pub fn is_ok(&self) -> bool {
        self.code == Some(tonic::Code::Ok)
    }

    /// In few words.
    pub fn short(&self) -> String {
        let text: String = self.text.chars().take(48).collect();
        match self.code {
            Some(code) => format!("{code:?} {text:?}"),
            None if self.http > 0 => format!("HTTP {}", self.http),
            None => text,
        }
    }
}

/// An HTTP/2 connection; its task ends with it.
pub struct Connection {
    send: SendRequest<Bytes>,
    addr: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Connection {
    /// Connects and shakes hands.
    pub async fn open(addr: SocketAddr) -> Result<Self, String> {
        let opening = async {
            let io = TcpStream::connect(addr).await.map_err(|e| e.to_string())?;
            drop(io.set_nodelay(true));
            h2::client::handshake(io).await.map_err(|e| e.to_string())
        };
        let (send, connection) =
            tokio::time::timeout(LIMIT, opening).await.map_err(|_| "no connection in time")??;
        let task = tokio::spawn(async move { drop(connection.await) });
        Ok(Self { send, addr, task })
    }

    /// Calls and waits for the end.
    pub async fn call(&self, path: &str, headers: &[(&str, &str)], body: Bytes) -> Answer {
        match tokio::time::timeout(LIMIT, self.exchange(path, headers, body)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(e)) => Answer::broken(&e),
            Err(_) => Answer { http: 0, code: None, text: "no answer".into(), message: Bytes::new() },
        }
    }

    /// The stream of a request whose body is still to be sent.
    pub async fn begin(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        end: bool,
    ) -> Result<(h2::client::ResponseFuture, h2::SendStream<Bytes>), h2::Error> {
        let mut request = http::Request::post(format!("http://{}{path}", self.addr)).header("te", "trailers");
        if !headers.iter().any(|(k, _)| *k == "content-type") {
            request = request.header("content-type", "application/grpc");
        }
        for (k, v) in headers {
            request = request.header(*k, *v);
        }
        let request = request.body(()).expect("a request");
        self.send.clone().ready().await?.send_request(request, end)
    }

    async fn exchange(&self, path: &str, headers: &[(&str, &str)], body: Bytes) -> Result<Answer, h2::Error> {
        let (response, mut stream) = self.begin(path, headers, body.is_empty()).await?;
        if !body.is_empty() {
            // Refused streams are reset while we send; the answer is there all the same.
            drop(stream.send_data(body, true));
        }
        read(response).await
    }
}

/// Reads an answer to its end.
pub async fn read(response: h2::client::ResponseFuture) -> Result<Answer, h2::Error> {
    let (head, mut body) = response.await?.into_parts();
    let (mut bytes, mut broken) = (BytesMut::new(), None);
    while let Some(piece) = body.data().await {
        match piece {
            Ok(piece) => {
                drop(body.flow_control().release_capacity(piece.len()));
                bytes.put(piece);
            }
            Err(e) => {
                broken = Some(e);
                break;
            }
        }
    }
    let trailers = if broken.is_none() { body.trailers().await.ok().flatten() } else { None };
    let status = tonic::Status::from_header_map(&head.headers)
        .or_else(|| trailers.as_ref().and_then(tonic::Status::from_header_map));
    let message = if bytes.len() >= 5 { bytes.freeze().split_off(5) } else { Bytes::new() };
    let text = match (&status, broken) {
        (Some(s), _) => s.message().to_owned(),
        (None, Some(e)) => e.to_string(),
        (None, None) => String::new(),
    };
    Ok(Answer { http: head.status.as_u16(), code: status.map(|s| s.code()), text, message })
}

/// A gRPC message as it travels.
pub fn framed(message: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(message.len() + 5);
    out.put_u8(0);
    out.put_u32(u32::try_from(message.len()).expect("small"));
    out.put(message);
    out.freeze()
}

/// The key of the grain that other rows leave alone.
pub const KEY: (&str, &str) = ("millet-key", "7");

/// A good call of each port: path, headers, message.
pub fn good(port: &str) -> (&'static str, &'static [(&'static str, &'static str)], Bytes) {
    match port {
        "api" => (WATCH, &[KEY], framed(&[])),
        "peer" => (STATUS, &[], framed(&[])),
        _ => (CHECK, &[], framed(&[])),
    }
}

/// Whether that answer is what a good call gets: the peer's names another cluster, and says so.
pub fn is_served(port: &str, answer: &Answer) -> bool {
    answer.is_ok() || (port == "peer" && answer.code == Some(tonic::Code::FailedPrecondition))
}
