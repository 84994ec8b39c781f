//! Callers from outside, on the API and admin listeners of a whole node.

mod cluster;

use std::time::Duration;

use bytes::Bytes;
use cluster::{BumperService, builder, settings};
use millet::{
    Node,
    world::{Dial, World},
};
use tonic::{Request, transport::Channel};

async fn node_with_api(dir: &std::path::Path) -> (Node, Channel) {
    let mut config = settings(dir, "127.0.0.1:0", &[]);
    config.node.api_listen = "127.0.0.1:0".into();
    config.node.admin_listen = "127.0.0.1:0".into();
    let node = builder(config).start().await.expect("starts");
    let addr = node.addresses().api.expect("listens").to_string();
    let channel = Dial::new(World::here().net).connect(&addr).await.expect("connects");
    (node, channel)
}

#[tokio::test(flavor = "multi_thread")]
async fn any_grpc_client_can_call_a_grain_by_name() {
    let dir = tempfile::tempdir().expect("a folder");
    let (node, channel) = node_with_api(dir.path()).await;
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.expect("ready");
    // Rust-first arguments: MessagePack with names; an empty map for none.
    let mut request = Request::new(Bytes::from_static(&[0x80]));
    request.metadata_mut().insert("millet-key", "7".parse().expect("ascii"));
    let path = http::uri::PathAndQuery::from_static("/test.Bumper/bump");
    let answer = client.unary(request, path, Raw).await.expect("answered").into_inner();
    let (bumps, session): (u64, u64) = rmp_serde::from_slice(&answer).expect("two numbers");
    assert_eq!((bumps, session), (1, node.directory().session().expect("ready").id().0));
    // The same grain by name and JSON, as tools call it.
    let json =
        node.json().call("test.Bumper", "7", "bump", "{}", Duration::from_secs(5)).await.expect("answered");
    assert_eq!(json, format!("[2,{session}]"));
    assert_eq!(node.get::<BumperService>(7).bump().await.map(|(n, _)| n), Ok(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_names_and_bad_keys_are_refused_by_name() {
    let dir = tempfile::tempdir().expect("a folder");
    let (node, _channel) = node_with_api(dir.path()).await;
    let call = async |service: &str, key: &str, method: &str| {
        let answer = node.json().call(service, key, method, "{}", Duration::from_secs(5)).await;
        answer.expect_err("refused").to_string()
    };
    let said = call("test.Nobody", "1", "bump").await;
    assert!(said.contains("test.Nobody") && said.contains("test.Bumper"), "{said}");
    assert!(call("test.Bumper", "1", "jump").await.contains("jump"));
    assert!(call("test.Bumper", "007", "bump").await.contains("canonical"));
    assert!(call("test.Board", "", "post").await.contains("empty"));
}

#[tokio::test(flavor = "multi_thread")]
async fn health_says_ready_and_no_longer_once_the_node_leaves() {
    use tonic_health::pb::{
        HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
    };
    let dir = tempfile::tempdir().expect("a folder");
    let (node, channel) = node_with_api(dir.path()).await;
    let admin = node.addresses().admin.expect("listens").to_string();
    let admin = Dial::new(World::here().net).connect(&admin).await.expect("connects");
    for channel in [channel, admin] {
        let mut health = HealthClient::new(channel);
        let ask = async || {
            let answer = health.check(HealthCheckRequest { service: String::new() }).await.ok()?;
            (answer.into_inner().status() == ServingStatus::Serving).then_some(())
        };
        millet_testkit::until_some("the node says it is ready", ask, cluster::LIMIT).await;
    }
    let left = node.shutdown().await;
    assert!(left.closed, "{left:?}");
}

/// Bytes as they are.
#[derive(Clone, Copy, Default)]
struct Raw;

impl tonic::codec::Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;
    fn encoder(&mut self) -> Self {
        Self
    }
    fn decoder(&mut self) -> Self {
        Self
    }
}

impl tonic::codec::Encoder for Raw {
    type Item = Bytes;
    type Error = tonic::Status;
    fn encode(&mut self, item: Bytes, to: &mut tonic::codec::EncodeBuf<'_>) -> Result<(), tonic::Status> {
        bytes::BufMut::put(to, item);
        Ok(())
    }
}

impl tonic::codec::Decoder for Raw {
    type Item = Bytes;
    type Error = tonic::Status;
    fn decode(&mut self, from: &mut tonic::codec::DecodeBuf<'_>) -> Result<Option<Bytes>, tonic::Status> {
        let left = bytes::Buf::remaining(from);
        Ok(Some(bytes::Buf::copy_to_bytes(from, left)))
    }
}
