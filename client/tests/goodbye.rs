//! What a connection that a leaving node ends means for the calls on it, against the real HTTP/2 client:
//! `never_sent` rests on the errors that h2 gives, and an upgrade of it must not change them silently.

use std::time::Duration;

use millet_client::Client;
use millet_core::Ran;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
};

const PREFACE: usize = 24;
const HEADERS: u8 = 1;
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
/// GOAWAY: stream 1 was taken, no error.
const GOAWAY: &[u8] = &[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0];

/// Takes two requests, says goodbye to the second, and cuts the first one off when told to.
async fn leaving_node(listener: TcpListener, cut: oneshot::Receiver<()>) {
    let (mut io, _) = listener.accept().await.expect("a client");
    io.read_exact(&mut [0; PREFACE]).await.expect("a preface");
    io.write_all(SETTINGS).await.expect("written");
    let mut requests = 0;
    while requests < 2 {
        requests += usize::from(frame(&mut io).await == HEADERS);
    }
    io.write_all(GOAWAY).await.expect("written");
    cut.await.expect("told");
}

/// Reads a frame; its type.
async fn frame(io: &mut TcpStream) -> u8 {
    let mut head = [0; 9];
    io.read_exact(&mut head).await.expect("a frame");
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
    io.read_exact(&mut vec![0; length]).await.expect("its payload");
    head[3]
}

#[tokio::test]
async fn g3_a_call_that_a_leaving_node_did_not_take_has_not_run_and_one_it_took_may_have() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let client = Client::connect([listener.local_addr().expect("bound").to_string()]).expect("an address");
    let (cut, told) = oneshot::channel();
    let node = tokio::spawn(leaving_node(listener, told));
    let call = |key: &'static str| {
        let client = client.clone();
        async move { client.call_json("test.Echo", key, "say", "{}", Duration::from_secs(10)).await }
    };
    let mut calls = tokio::task::JoinSet::new();
    calls.spawn(call("1"));
    calls.spawn(call("2"));
    let turned_away = calls.join_next().await.expect("one of two").expect("runs").expect_err("not taken");
    assert_eq!(turned_away.ran(), Ran::No, "{turned_away}");
    cut.send(()).expect("the node waits");
    let cut_off = calls.join_next().await.expect("the other").expect("runs").expect_err("cut off");
    assert_eq!(cut_off.ran(), Ran::Unknown, "{cut_off}");
    node.await.expect("ended");
}
