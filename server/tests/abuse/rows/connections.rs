//! Connections that say nothing, something else, or stop in the middle.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use futures::future::{join_all, try_join_all};

use super::{Row, row};
use crate::{
    call::{KEY, STRIKE},
    child::Target,
    raw::{HEADERS, PREFACE, Raw, frame, request},
};

pub fn rows() -> Vec<Row> {
    vec![
        row!("garbage", "closed at once", garbage),
        row!("http1", "closed at once", http1),
        row!("tls", "closed at once", tls),
        row!("silent", "2,000 closed within 7 s", patient silent),
        row!("slow-preface", "closed within 7 s", patient slow_preface),
        row!("preface-only", "closed within 12 s", patient preface_only),
        row!("half-open-peer", "closed within 12 s", patient half_open),
        row!("slow-headers", "closed within 12 s", patient slow_headers),
    ]
}

/// Says this on each port; each must close.
async fn say(target: &Target, bytes: &[u8], within: Duration) -> Result<String, String> {
    let runs = target.ports().map(|(port, addr)| async move {
        let start = Instant::now();
        let mut raw = Raw::bare(addr).await?;
        raw.send(bytes).await?;
        let heard = raw.closed(within).await;
        match heard.closed {
            Some(_) => Ok(format!("{port} {} in {:.1} s", heard.short(), start.elapsed().as_secs_f64())),
            None => Err(format!("{port} open after {within:?}")),
        }
    });
    Ok(try_join_all(runs).await?.join(" | "))
}

const AT_ONCE: Duration = Duration::from_secs(2);

async fn garbage(target: &Target) -> Result<String, String> {
    say(target, &[0, 255, 1, 254].repeat(64), AT_ONCE).await
}

async fn http1(target: &Target) -> Result<String, String> {
    say(target, b"GET / HTTP/1.1\r\nhost: abuse\r\n\r\n", AT_ONCE).await
}

async fn tls(target: &Target) -> Result<String, String> {
    // A record of a handshake, version 3.1, 512 bytes: a client hello.
    say(target, &[&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &[7; 506]].concat(), AT_ONCE).await
}

async fn all_closed(sockets: Vec<Raw>, within: Duration) -> Result<String, String> {
    let (start, count) = (Instant::now(), sockets.len());
    let heard = join_all(sockets.iter().map(|raw| raw.closed(within))).await;
    let open = heard.iter().filter(|h| h.closed.is_none()).count();
    if open > 0 {
        return Err(format!("{open} of {count} are open after {within:?}"));
    }
    Ok(format!("{count} closed in {:.1} s", start.elapsed().as_secs_f64()))
}

async fn silent(target: &Target) -> Result<String, String> {
    let addrs: Vec<SocketAddr> =
        target.ports().map(|(_, addr)| addr).into_iter().cycle().take(2_000).collect();
    let mut sockets = Vec::new();
    for some in addrs.chunks(100) {
        sockets.extend(try_join_all(some.iter().map(|addr| Raw::bare(*addr))).await?);
    }
    all_closed(sockets, Duration::from_secs(7)).await
}

async fn slow_preface(target: &Target) -> Result<String, String> {
    let runs = target.ports().map(|(port, addr)| async move {
        let mut raw = Raw::bare(addr).await?;
        for byte in &PREFACE[..8] {
            if raw.heard().closed.is_some() {
                break;
            }
            drop(raw.send(&[*byte]).await);
            // tidy: sleep: a byte a second is the attack
            tokio::time::sleep(Duration::from_millis(900)).await;
        }
        let heard = raw.heard();
        if heard.closed.is_some() { Ok(format!("{port} closed")) } else { Err(format!("{port} is open")) }
    });
    Ok(try_join_all(runs).await?.join(" | "))
}

/// Twice the keepalive, and some for the look.
const KEEPALIVE: Duration = Duration::from_secs(12);

async fn preface_only(target: &Target) -> Result<String, String> {
    say(target, PREFACE, KEEPALIVE).await
}

/// Shakes hands, then answers no ping.
async fn half_open(target: &Target) -> Result<String, String> {
    let mut sockets = Vec::new();
    for (_, addr) in target.ports() {
        sockets.push(Raw::open(addr).await?);
    }
    all_closed(sockets, KEEPALIVE).await
}

/// A header block that never ends: no other frame may come between.
async fn slow_headers(target: &Target) -> Result<String, String> {
    let mut sockets = Vec::new();
    for (_, addr) in target.ports() {
        let mut raw = Raw::open(addr).await?;
        raw.send(&frame(HEADERS, 0, 1, &request(STRIKE, &[KEY]))).await?;
        sockets.push(raw);
    }
    all_closed(sockets, KEEPALIVE).await
}
