//! HTTP/2 by hand: frames as no library would send them.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::JoinHandle,
};

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW: u8 = 8;
pub const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// One frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = u32::try_from(payload.len()).expect("small").to_be_bytes();
    let mut out = vec![a, b, c, kind, flags];
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

/// The header block of a gRPC request, without compression of any kind.
pub fn request(path: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    // :method POST, :scheme http from the static table.
    let mut out = vec![0x83, 0x86];
    let text = |out: &mut Vec<u8>, text: &str| {
        length(out, text.len());
        out.extend(text.as_bytes());
    };
    let all =
        [(":path", path), (":authority", "abuse"), ("te", "trailers"), ("content-type", "application/grpc")];
    for (name, value) in all.iter().chain(headers) {
        out.push(0);
        text(&mut out, name);
        text(&mut out, value);
    }
    out
}

fn length(out: &mut Vec<u8>, n: usize) {
    if n < 127 {
        out.push(n as u8);
        return;
    }
    out.push(127);
    let mut rest = n - 127;
    while rest >= 128 {
        out.push((rest % 128 + 128) as u8);
        rest /= 128;
    }
    out.push(rest as u8);
}

/// What the other side said so far.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    /// Frames by kind.
    pub frames: BTreeMap<u8, u64>,
    /// RST_STREAM by code.
    pub resets: BTreeMap<u32, u64>,
    /// The code and text of GOAWAY.
    pub goaway: Option<(u32, String)>,
    /// The connection has ended, and how.
    pub closed: Option<String>,
}

impl Heard {
    /// In few words.
    pub fn short(&self) -> String {
        let goaway = self.goaway.as_ref().map(|(code, text)| format!("GOAWAY {code} {text} "));
        let end = self.closed.as_deref().unwrap_or("open");
        format!("{}{end}", goaway.unwrap_or_default())
    }
}

/// A connection after its preface.
pub struct Raw {
    write: OwnedWriteHalf,
    heard: Arc<Mutex<Heard>>,
    reader: JoinHandle<()>,
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Raw {
    /// Connects and says the preface and empty settings; answers nothing.
    pub async fn open(addr: SocketAddr) -> Result<Self, String> {
        let mut raw = Self::bare(addr).await?;
        raw.send(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await?;
        Ok(raw)
    }

    /// Connects and says nothing.
    pub async fn bare(addr: SocketAddr) -> Result<Self, String> {
        let io = TcpStream::connect(addr).await.map_err(|e| e.to_string())?;
        drop(io.set_nodelay(true));
        let (read, write) = io.into_split();
        let heard = Arc::new(Mutex::new(Heard::default()));
        let reader = tokio::spawn(listen(read, heard.clone()));
        Ok(Self { write, heard, reader })
    }

    /// Sends bytes as they are.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        let sending = tokio::time::timeout(super::call::LIMIT, self.write.write_all(bytes));
        sending.await.map_err(|_| "nobody reads".to_owned())?.map_err(|e| e.to_string())
    }

    /// Sends `count` pieces until the other side closes; returns how many went out.
    pub async fn flood(&mut self, count: usize, mut piece: impl FnMut(usize) -> Vec<u8>) -> usize {
        let mut buffer = Vec::new();
        for n in 0..count {
            buffer.extend(piece(n));
            if buffer.len() >= 8 * 1024 || n + 1 == count {
                if self.heard().closed.is_some() || self.send(&buffer).await.is_err() {
                    return n;
                }
                buffer.clear();
            }
        }
        count
    }

    pub fn heard(&self) -> Heard {
        self.heard.lock().expect("no panic holds it").clone()
    }

    /// Waits until the other side has closed, or the time is over.
    pub async fn closed(&self, within: Duration) -> Heard {
        let waiting = async {
            while self.heard().closed.is_none() {
                // tidy: sleep: between two looks of a bounded wait
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        drop(tokio::time::timeout(within, waiting).await);
        self.heard()
    }
}

async fn listen(mut read: OwnedReadHalf, heard: Arc<Mutex<Heard>>) {
    let ended = async {
        loop {
            let mut head = [0; 9];
            read.read_exact(&mut head).await?;
            let [a, b, c, kind, ..] = head;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            read.read_exact(&mut payload).await?;
            let mut heard = heard.lock().expect("no panic holds it");
            *heard.frames.entry(kind).or_default() += 1;
            match (kind, payload.as_slice()) {
                (RST, &[a, b, c, d]) => {
                    *heard.resets.entry(u32::from_be_bytes([a, b, c, d])).or_default() += 1;
                }
                (GOAWAY, [_, _, _, _, a, b, c, d, text @ ..]) => {
                    let code = u32::from_be_bytes([*a, *b, *c, *d]);
                    heard.goaway = Some((code, String::from_utf8_lossy(text).into_owned()));
                }
                _ => {}
            }
        }
    };
    let result: std::io::Result<()> = ended.await;
    let why = match result {
        Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => "reset",
        _ => "closed",
    };
    heard.lock().expect("no panic holds it").closed = Some(why.to_owned());
}
