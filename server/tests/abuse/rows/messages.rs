//! Messages that are too long, cut short, or none.

use bytes::Bytes;
use tonic::Code::{self, InvalidArgument, ResourceExhausted, Unimplemented};

use super::{Row, answered, row};
use crate::{
    call::{CHECK, Connection, KEY, STATUS, STRIKE, framed},
    child::Target,
};

pub fn rows() -> Vec<Row> {
    vec![
        row!("over-limit", "RESOURCE_EXHAUSTED, kept", over_limit),
        row!("prefix-4-gib", "RESOURCE_EXHAUSTED, kept", prefix),
        row!("truncated", "INVALID_ARGUMENT, kept", truncated),
        row!("random-protobuf", "INVALID_ARGUMENT, kept", random),
        row!("compression-flag", "INVALID_ARGUMENT or UNIMPLEMENTED, kept", compression),
        row!("zip-bomb", "INVALID_ARGUMENT or UNIMPLEMENTED, kept", bomb),
        row!("not-utf8", "INVALID_ARGUMENT with the field, kept", not_utf8),
        row!("nested-groups", "INVALID_ARGUMENT, kept", nested),
        row!("random-msgpack", "INVALID_ARGUMENT, kept", msgpack),
    ]
}

/// Sends the same body to a method of each port.
async fn everywhere(
    target: &Target,
    body: Bytes,
    headers: &[(&str, &str)],
    expected: &[Code],
) -> Result<String, String> {
    let mut seen = Vec::new();
    for ((port, addr), path) in target.ports().into_iter().zip([STRIKE, STATUS, CHECK]) {
        let connection = Connection::open(addr).await?;
        let headers: Vec<_> = headers.iter().copied().chain([KEY]).collect();
        let answer = connection.call(path, &headers, body.clone()).await;
        seen.push(answered(&connection, port, answer, expected, "").await?);
    }
    Ok(seen.join(" | "))
}

async fn over_limit(target: &Target) -> Result<String, String> {
    everywhere(target, framed(&vec![0; 5 * 1024 * 1024]), &[], &[ResourceExhausted]).await
}

async fn prefix(target: &Target) -> Result<String, String> {
    let announced = Bytes::from_static(&[0, 255, 255, 255, 255]);
    everywhere(target, announced, &[], &[ResourceExhausted]).await
}

async fn truncated(target: &Target) -> Result<String, String> {
    everywhere(target, Bytes::from_static(&[0, 0, 0, 0, 9, 1]), &[], &[InvalidArgument]).await
}

async fn random(target: &Target) -> Result<String, String> {
    // Field 1 as a message of 127 bytes of which 3 are there.
    everywhere(target, framed(&[0x0a, 127, 7, 0xff, 0x13]), &[], &[InvalidArgument]).await
}

async fn compression(target: &Target) -> Result<String, String> {
    let expected = [InvalidArgument, Unimplemented];
    everywhere(target, Bytes::from_static(&[7, 0, 0, 0, 0]), &[], &expected).await
}

/// A gzip stream of 1 GiB of zeros begins so; nobody unpacks it.
async fn bomb(target: &Target) -> Result<String, String> {
    let mut body = framed(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0xec, 0xc1, 1, 1, 0, 0]).to_vec();
    body[0] = 1;
    let expected = [InvalidArgument, Unimplemented];
    everywhere(target, body.into(), &[("grpc-encoding", "gzip")], &expected).await
}

async fn not_utf8(target: &Target) -> Result<String, String> {
    let mut seen = Vec::new();
    let bad = [(target.api, "api", STRIKE, 0x1a, "at"), (target.peer, "peer", STATUS, 0x0a, "cluster")];
    for (addr, port, path, tag, field) in
        bad.into_iter().chain([(target.admin, "admin", CHECK, 0x0a, "service")])
    {
        let connection = Connection::open(addr).await?;
        let answer = connection.call(path, &[KEY], framed(&[tag, 2, b'a', 0xff])).await;
        seen.push(answered(&connection, port, answer, &[InvalidArgument], field).await?);
    }
    Ok(seen.join(" | "))
}

async fn nested(target: &Target) -> Result<String, String> {
    // Field 15, a group, in itself.
    everywhere(target, framed(&[0x7b].repeat(200_000)), &[], &[InvalidArgument]).await
}

async fn msgpack(target: &Target) -> Result<String, String> {
    let connection = Connection::open(target.api).await?;
    let mut seen = String::new();
    // An array of 4 G elements; nested arrays; a map cut short; a text of 4 GiB.
    let deep = [0x91].repeat(200_000);
    let bad: [&[u8]; 4] = [
        &[0x82, 0xa5, b'v', b'o', b't', b'e', b's', 0xdd, 255, 255, 255, 255],
        &deep,
        &[0xdf, 255, 255, 255, 255],
        &[0x81, 0xa4, b'l', b'i', b'n', b'e', 0xdb, 255, 255, 255, 255],
    ];
    for message in bad {
        let answer = connection.call("/abuse.Board/post", &[("millet-key", "b")], framed(message)).await;
        seen = answered(&connection, "api", answer, &[InvalidArgument], "").await?;
    }
    Ok(seen)
}
