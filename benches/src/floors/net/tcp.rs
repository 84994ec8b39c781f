//! Bare TCP: asks are 24 bytes (id, key, number), little endian. With many callers they are gathered as on
//! the gRPC stream; with one, written and read in place.

use std::sync::Arc;

use anyhow::{Result, bail};
use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Mutex as Turn, mpsc, oneshot},
};

use super::{BATCH, WAITING, answer};
use crate::drive::Target;

/// Bytes of an ask and of a reply.
const ASK: usize = 24;
/// Bytes read at once.
const READ: usize = 64 * 1024;

/// Answers on every connection until the process ends.
pub async fn serve(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(echo(stream));
    }
}

/// Whatever whole asks have come are answered with one write.
async fn echo(mut stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let (mut buffer, mut have) = (vec![0; READ], 0);
    loop {
        have += match stream.read(&mut buffer[have..]).await? {
            0 => return Ok(()),
            n => n,
        };
        let whole = have - have % ASK;
        for ask in buffer[..whole].chunks_exact_mut(ASK) {
            let by = number(&ask[16..])?;
            ask[16..].copy_from_slice(&answer(by).to_le_bytes());
        }
        stream.write_all(&buffer[..whole]).await?;
        buffer.copy_within(whole..have, 0);
        have -= whole;
    }
}

fn number(bytes: &[u8]) -> Result<u64> {
    Ok(u64::from_le_bytes(bytes.try_into()?))
}

fn put(to: &mut Vec<u8>, id: u64, key: u64, by: u64) {
    for field in [id, key, by] {
        to.extend_from_slice(&field.to_le_bytes());
    }
}

async fn connect(address: &str) -> Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// One ask at a time, written and read by the caller itself.
#[derive(Clone)]
pub struct Bare(Arc<Turn<TcpStream>>);

impl Bare {
    /// Connects.
    pub async fn connect(address: &str) -> Result<Self> {
        Ok(Self(Arc::new(Turn::new(connect(address).await?))))
    }
}

impl Target for Bare {
    async fn ask(&self, key: u64, by: u64) -> Result<u64> {
        let mut stream = self.0.lock().await;
        let mut ask = Vec::with_capacity(ASK);
        put(&mut ask, 0, key, by);
        stream.write_all(&ask).await?;
        stream.read_exact(&mut ask).await?;
        number(&ask[16..])
    }
}

/// Many callers over one connection.
#[derive(Clone)]
pub struct Framed {
    asks: mpsc::Sender<Asked>,
}

type Asked = (u64, u64, oneshot::Sender<u64>);
type Pending = Arc<Mutex<HashMap<u64, oneshot::Sender<u64>>>>;

impl Framed {
    /// Connects.
    pub async fn connect(address: &str) -> Result<Self> {
        let (read, write) = connect(address).await?.into_split();
        let (asks, queue) = mpsc::channel(WAITING);
        let pending = Pending::default();
        tokio::spawn(write_all(queue, write, pending.clone()));
        tokio::spawn(async move {
            let ended = read_all(read, &pending).await;
            // Whoever still waits learns that nothing will come.
            pending.lock().clear();
            ended
        });
        Ok(Self { asks })
    }
}

async fn write_all(
    mut queue: mpsc::Receiver<Asked>,
    mut write: OwnedWriteHalf,
    pending: Pending,
) -> Result<()> {
    let (mut id, mut bytes, mut gathered) = (0, Vec::with_capacity(BATCH * ASK), Vec::with_capacity(BATCH));
    while let Some(first) = queue.recv().await {
        tokio::task::yield_now().await;
        gathered.push(first);
        while gathered.len() < BATCH
            && let Ok(next) = queue.try_recv()
        {
            gathered.push(next);
        }
        bytes.clear();
        {
            let mut pending = pending.lock();
            for (key, by, caller) in gathered.drain(..) {
                id += 1;
                pending.insert(id, caller);
                put(&mut bytes, id, key, by);
            }
        }
        write.write_all(&bytes).await?;
    }
    Ok(())
}

async fn read_all(mut read: OwnedReadHalf, pending: &Pending) -> Result<()> {
    let (mut buffer, mut have) = (vec![0; READ], 0);
    loop {
        have += match read.read(&mut buffer[have..]).await? {
            0 => return Ok(()),
            n => n,
        };
        let whole = have - have % ASK;
        {
            let mut pending = pending.lock();
            for reply in buffer[..whole].chunks_exact(ASK) {
                if let Some(caller) = pending.remove(&number(&reply[..8])?) {
                    // Who no longer waits misses nothing.
                    let _ = caller.send(number(&reply[16..])?);
                }
            }
        }
        buffer.copy_within(whole..have, 0);
        have -= whole;
    }
}

impl Target for Framed {
    async fn ask(&self, key: u64, by: u64) -> Result<u64> {
        let (tx, rx) = oneshot::channel();
        if self.asks.send((key, by, tx)).await.is_err() {
            bail!("the connection has ended");
        }
        Ok(rx.await?)
    }
}
