//! Floods of frames over one connection.

use std::time::Duration;

use super::{Row, row};
use crate::{
    call::{CHECK, KEY, STATUS, STRIKE, good},
    child::Target,
    raw::{
        CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, Heard, PING, PRIORITY, RST, Raw, SETTINGS,
        WINDOW, frame, request,
    },
};

/// How long a flooded connection may stay open after the last byte.
const SOON: Duration = Duration::from_secs(5);

pub fn rows() -> Vec<Row> {
    vec![
        row!("ping-flood", "closed", pings),
        row!("settings-flood", "closed", settings),
        row!("window-flood", "closed", windows),
        row!("priority-flood", "closed", priorities),
        row!("unknown-frame-flood", "closed", unknown),
        row!("rapid-reset", "closed", resets),
        row!("continuation-flood", "closed", continuations),
        row!("empty-data-flood", "closed", empty_data),
        row!("open-streams", "REFUSED_STREAM above 1024", streams),
    ]
}

/// Floods each port; all must close.
async fn flood(
    target: &Target,
    count: usize,
    first: impl Fn(&str) -> Vec<u8>,
    piece: impl Fn(&str, usize) -> Vec<u8>,
) -> Result<String, String> {
    let mut seen = Vec::new();
    for (port, addr) in target.ports() {
        let mut raw = Raw::open(addr).await?;
        raw.send(&first(port)).await?;
        let sent = raw.flood(count, |n| piece(port, n)).await;
        let heard = raw.closed(SOON).await;
        if heard.closed.is_none() {
            return Err(format!("{port} stays open after {sent} frames: {:?}", heard.frames));
        }
        seen.push(format!("{port} {} <= {sent}", heard.short()));
    }
    Ok(seen.join(" | "))
}

fn path(port: &str) -> &'static str {
    match port {
        "api" => STRIKE,
        "peer" => STATUS,
        _ => CHECK,
    }
}

/// HEADERS that open a stream for a message.
fn open(port: &str, stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &request(path(port), &[KEY]))
}

fn number(n: usize) -> u32 {
    u32::try_from(n).expect("small")
}

async fn pings(target: &Target) -> Result<String, String> {
    let ping = |_: &str, n: usize| frame(PING, 0, 0, &(n as u64).to_be_bytes());
    flood(target, 200_000, |_| Vec::new(), ping).await
}

async fn settings(target: &Target) -> Result<String, String> {
    // Initial window size, another one each time.
    let setting = |_: &str, n: usize| {
        frame(SETTINGS, 0, 0, &[[0, 4].as_slice(), &(number(n) + 1).to_be_bytes()].concat())
    };
    flood(target, 200_000, |_| Vec::new(), setting).await
}

async fn windows(target: &Target) -> Result<String, String> {
    flood(target, 200_000, |_| Vec::new(), |_, _| frame(WINDOW, 0, 0, &1u32.to_be_bytes())).await
}

async fn priorities(target: &Target) -> Result<String, String> {
    let priority = |_: &str, n: usize| frame(PRIORITY, 0, 2 * number(n) + 1, &[0, 0, 0, 0, 9]);
    flood(target, 200_000, |_| Vec::new(), priority).await
}

async fn unknown(target: &Target) -> Result<String, String> {
    flood(target, 200_000, |_| Vec::new(), |_, _| frame(0x77, 0, 0, b"nothing")).await
}

/// Rapid reset (CVE-2023-44487).
async fn resets(target: &Target) -> Result<String, String> {
    let both = |port: &str, n: usize| {
        let stream = 2 * number(n) + 1;
        let (path, headers, _) = good(port);
        let open = frame(HEADERS, END_HEADERS | END_STREAM, stream, &request(path, headers));
        [open, frame(RST, 0, stream, &8u32.to_be_bytes())].concat()
    };
    flood(target, 20_000, |_| Vec::new(), both).await
}

/// CONTINUATION without end (VU#421644).
async fn continuations(target: &Target) -> Result<String, String> {
    let start = |port: &str| frame(HEADERS, 0, 1, &request(path(port), &[]));
    let more = |_: &str, n: usize| {
        let name = format!("x-{n}");
        let block = [&[0, name.len() as u8], name.as_bytes(), &[1, b'v']].concat();
        frame(CONTINUATION, 0, 1, &block)
    };
    flood(target, 200_000, start, more).await
}

async fn empty_data(target: &Target) -> Result<String, String> {
    flood(target, 200_000, |port| open(port, 1), |_, _| frame(DATA, 0, 1, &[])).await
}

/// 10,000 streams on each port of which none is ever ended.
async fn streams(target: &Target) -> Result<String, String> {
    const REFUSED: u32 = 7;
    let mut seen = Vec::new();
    for (port, addr) in target.ports() {
        let mut raw = Raw::open(addr).await?;
        raw.flood(10_000, |n| open(port, 2 * number(n) + 1)).await;
        let refused = |heard: &Heard| heard.resets.get(&REFUSED).copied().unwrap_or(0);
        let waiting = async {
            while refused(&raw.heard()) < 8_976 && raw.heard().closed.is_none() {
                // tidy: sleep: between two looks of a bounded wait
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        drop(tokio::time::timeout(SOON, waiting).await);
        let heard = raw.heard();
        // Closing is as good: what must not be is that all of them are kept.
        if heard.closed.is_none() && refused(&heard) < 8_976 {
            return Err(format!("{port}: {} refused, {}", refused(&heard), heard.short()));
        }
        seen.push(format!("{port} {} refused, {}", refused(&heard), heard.short()));
    }
    Ok(seen.join(" | "))
}
