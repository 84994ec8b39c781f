//! Requests that name what is not there, or break off.

use std::time::Duration;

use bytes::Bytes;
use tonic::Code::{
    DeadlineExceeded, FailedPrecondition, InvalidArgument, NotFound, Ok as Fine, Unimplemented,
};

use super::{Row, answered, row};
use crate::{
    call::{CHECK, Connection, KEY, LIMIT, STATUS, STRIKE, WATCH, framed, good, read},
    child::Target,
};

pub fn rows() -> Vec<Row> {
    vec![
        row!("unknown-type", "NOT_FOUND, known ones listed", unknown_type),
        row!("unknown-method", "UNIMPLEMENTED with type and method", unknown_method),
        row!("unknown-service", "UNIMPLEMENTED", unknown_service),
        row!("content-type", "HTTP 415", content_type),
        row!("bad-key", "INVALID_ARGUMENT with the rule", bad_key),
        row!("header-64-kib", "HTTP 431 or closed", header),
        row!("grpc-timeout", "INVALID_ARGUMENT", timeout),
        row!("other-cluster", "FAILED_PRECONDITION", other_cluster),
        row!("deadline-mid-call", "DEADLINE_EXCEEDED, turn whole", deadline),
        row!("reset-mid-call", "turn whole", reset),
        row!("slow-body", "DEADLINE_EXCEEDED at the deadline", patient slow_body),
        row!("slow-body-no-deadline", "DEADLINE_EXCEEDED at the default", patient slow_body_default),
    ]
}

async fn unknown_type(target: &Target) -> Result<String, String> {
    let connection = Connection::open(target.api).await?;
    let answer = connection.call("/arena.Nobody/Strike", &[KEY], framed(&[])).await;
    answered(&connection, "api", answer, &[NotFound], "known: abuse.Board, arena.Duel").await
}

async fn unknown_method(target: &Target) -> Result<String, String> {
    let connection = Connection::open(target.api).await?;
    let answer = connection.call("/arena.Duel/Fly", &[KEY], framed(&[])).await;
    let seen = answered(&connection, "api", answer, &[Unimplemented], "arena.Duel.Fly").await?;
    for (port, addr, path) in
        [("peer", target.peer, "/millet.v1.Meta/Fly"), ("admin", target.admin, "/grpc.health.v1.Health/Fly")]
    {
        let connection = Connection::open(addr).await?;
        let answer = connection.call(path, &[], framed(&[])).await;
        answered(&connection, port, answer, &[Unimplemented], "").await?;
    }
    Ok(seen)
}

async fn unknown_service(target: &Target) -> Result<String, String> {
    let mut seen = Vec::new();
    for (port, addr) in target.ports() {
        let connection = Connection::open(addr).await?;
        let answer = connection.call("/grpc.channelz.v1.Channelz/GetServers", &[], framed(&[])).await;
        seen.push(answered(&connection, port, answer, &[Unimplemented], "").await?);
    }
    Ok(seen.join(" | "))
}

async fn content_type(target: &Target) -> Result<String, String> {
    let mut seen = Vec::new();
    for (port, addr) in target.ports() {
        let connection = Connection::open(addr).await?;
        let (path, headers, message) = good(port);
        let headers: Vec<_> = headers.iter().copied().chain([("content-type", "application/json")]).collect();
        let answer = connection.call(path, &headers, message).await;
        if answer.http != 415 {
            return Err(format!("{port} {} (HTTP {}), expected HTTP 415", answer.short(), answer.http));
        }
        seen.push(format!("{port} HTTP 415"));
    }
    Ok(seen.join(" | "))
}

async fn bad_key(target: &Target) -> Result<String, String> {
    let connection = Connection::open(target.api).await?;
    let long = "k".repeat(1025);
    let post = "/abuse.Board/post";
    let mut seen = String::new();
    for (path, header, said) in [
        (STRIKE, None, "millet-key"),
        (STRIKE, Some(("millet-key", "007")), "canonical"),
        (STRIKE, Some(("millet-key", "anna")), "integer"),
        (post, Some(("millet-key", "")), "empty"),
        (post, Some(("millet-key", long.as_str())), "1024 bytes"),
        (post, Some(("millet-key-bin", "YQBi")), "U+0000"),
        (post, Some(("millet-key-bin", "!")), "base64"),
        (post, Some(("millet-key-bin", "/w==")), "UTF-8"),
    ] {
        let headers: Vec<_> = header.into_iter().collect();
        let answer = connection.call(path, &headers, framed(&[0x80])).await;
        seen = answered(&connection, "api", answer, &[InvalidArgument], said).await?;
    }
    Ok(seen)
}

async fn header(target: &Target) -> Result<String, String> {
    let mut seen = Vec::new();
    let long = "x".repeat(64 * 1024);
    for (port, addr) in target.ports() {
        let connection = Connection::open(addr).await?;
        let (path, headers, message) = good(port);
        let headers: Vec<_> = headers.iter().copied().chain([("x-long", long.as_str())]).collect();
        let answer = connection.call(path, &headers, message).await;
        if answer.http != 431 && answer.http != 0 {
            return Err(format!("{port} {}", answer.short()));
        }
        seen.push(format!("{port} {}", answer.short()));
    }
    Ok(seen.join(" | "))
}

async fn timeout(target: &Target) -> Result<String, String> {
    let mut seen = Vec::new();
    for (port, addr) in target.ports() {
        let connection = Connection::open(addr).await?;
        let (path, headers, message) = good(port);
        for bad in ["soon", "-1S", "123456789m", ""] {
            let headers: Vec<_> = headers.iter().copied().chain([("grpc-timeout", bad)]).collect();
            let answer = connection.call(path, &headers, message.clone()).await;
            let said = answered(&connection, port, answer, &[InvalidArgument], "grpc-timeout").await?;
            if bad == "soon" {
                seen.push(said);
            }
        }
    }
    Ok(seen.join(" | "))
}

async fn other_cluster(target: &Target) -> Result<String, String> {
    let connection = Connection::open(target.peer).await?;
    // Field 1 (cluster): a name of 1 MiB; the answer shows its beginning.
    let mut message = vec![0x0a, 0x80, 0x80, 0x40];
    message.extend([b'c'].repeat(1024 * 1024));
    let answer = connection.call(STATUS, &[], framed(&message)).await;
    answered(&connection, "peer", answer, &[FailedPrecondition], "check the address").await
}

/// The total of a grain once its turns have ended: whole turns add twice, torn ones once.
async fn whole(connection: &Connection, key: &str, wanted: u8) -> Result<String, String> {
    let ended = async {
        loop {
            let answer = connection.call(WATCH, &[("millet-key", key)], framed(&[])).await;
            // Report: text (1), total (2).
            let total = answer.message.iter().position(|b| *b == 0x10).map(|at| answer.message[at + 1]);
            if total == Some(wanted) {
                return Ok(format!("total {wanted}"));
            }
            if !answer.is_ok() {
                return Err(answer.short());
            }
            // tidy: sleep: between two looks of a bounded wait
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LIMIT, ended)
        .await
        .map_err(|_| format!("the total is never {wanted}: a torn turn"))?
}

/// `force` 3, `seal` 70: a turn of 700 ms.
const SLOW: &[u8] = &[0x08, 3, 0x12, 1, 70];

async fn deadline(target: &Target) -> Result<String, String> {
    let connection = Connection::open(target.api).await?;
    let headers = [("millet-key", "16"), ("grpc-timeout", "100m")];
    let answer = connection.call(STRIKE, &headers, framed(SLOW)).await;
    let seen = answered(&connection, "api", answer, &[DeadlineExceeded], "").await?;
    Ok(format!("{seen}, {}", whole(&connection, "16", 6).await?))
}

async fn reset(target: &Target) -> Result<String, String> {
    let connection = Connection::open(target.api).await?;
    for key in ["17", "18"] {
        let (response, mut stream) =
            connection.begin(STRIKE, &[("millet-key", key)], false).await.map_err(|e| e.to_string())?;
        stream.send_data(framed(SLOW), true).map_err(|e| e.to_string())?;
        // The turn has started once another connection sees half of it.
        started(target, key).await?;
        stream.send_reset(h2::Reason::CANCEL);
        drop(response);
    }
    let (a, b) = (whole(&connection, "17", 6).await?, whole(&connection, "18", 6).await?);
    Ok(format!("{a}, {b}"))
}

/// A call to the same grain waits in its mailbox until the deadline: the turn is running. One that is
/// answered overtook the turn on its own connection, and asks again.
async fn started(target: &Target, key: &str) -> Result<(), String> {
    let connection = Connection::open(target.api).await?;
    let headers = [("millet-key", key), ("grpc-timeout", "200m")];
    let busy = async {
        loop {
            let answer = connection.call(WATCH, &headers, framed(&[])).await;
            match answer.code {
                Some(DeadlineExceeded) => return Ok(()),
                Some(Fine) => tokio::task::yield_now().await,
                _ => return Err(answer.short()),
            }
        }
    };
    tokio::time::timeout(LIMIT, busy).await.map_err(|_| "the grain was never busy".to_owned())?
}

/// One byte a second, for longer than the deadline.
async fn trickle(
    target: &Target,
    deadline: Option<&'static str>,
    within: Duration,
) -> Result<String, String> {
    let ports = target.ports().into_iter().zip([STRIKE, STATUS, CHECK]);
    let runs = ports.filter(|((port, _), _)| deadline.is_some() || *port == "api");
    let runs = runs.map(|((port, addr), path)| async move {
        let connection = Connection::open(addr).await?;
        let headers: Vec<_> = [KEY].into_iter().chain(deadline.map(|d| ("grpc-timeout", d))).collect();
        let (response, mut stream) =
            connection.begin(path, &headers, false).await.map_err(|e| e.to_string())?;
        stream.send_data(Bytes::from_static(&[0, 0, 0, 1, 0]), false).map_err(|e| e.to_string())?;
        let trickling = async {
            while stream.send_data(Bytes::from_static(&[0x0a]), false).is_ok() {
                // tidy: sleep: a byte a second is the attack
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            std::future::pending::<()>().await;
        };
        let answer = tokio::select! {
            answer = tokio::time::timeout(within, read(response)) => answer,
            () = trickling => return Err("unreachable".into()),
        };
        let answer = answer.map_err(|_| format!("{port}: no answer within {within:?}"))?;
        answered(&connection, port, answer.map_err(|e| e.to_string())?, &[DeadlineExceeded], "").await
    });
    let seen = futures::future::try_join_all(runs).await?;
    Ok(seen.join(" | "))
}

async fn slow_body(target: &Target) -> Result<String, String> {
    trickle(target, Some("2S"), Duration::from_secs(4)).await
}

async fn slow_body_default(target: &Target) -> Result<String, String> {
    trickle(target, None, Duration::from_secs(12)).await
}
