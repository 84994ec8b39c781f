//! A machine's sockets, over turmoil's: they stand still while the machine does, can be reset from
//! outside, and write every byte that leaves into the trace.

use std::{
    collections::BTreeMap,
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker, ready},
};

use millet::world::{Listener, Net, Stream};
use millet_core::BoxFuture;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use turmoil::net::{TcpListener, TcpStream};

use super::Machine;

/// The open connections of a machine.
#[derive(Default)]
pub struct Conns {
    open: Mutex<Vec<Weak<Conn>>>,
    /// Writes so far, by peer.
    written: Mutex<BTreeMap<IpAddr, u64>>,
}

/// One end of a connection.
struct Conn {
    peer: IpAddr,
    broken: AtomicBool,
    waiting: Mutex<Vec<Waker>>,
}

impl Conns {
    fn open(&self, peer: IpAddr) -> Arc<Conn> {
        let conn = Arc::new(Conn { peer, broken: AtomicBool::new(false), waiting: Mutex::default() });
        let mut all = self.open.lock();
        all.retain(|c| c.strong_count() > 0);
        all.push(Arc::downgrade(&conn));
        conn
    }

    /// Writes to a machine so far.
    pub fn written_to(&self, peer: IpAddr) -> u64 {
        self.written.lock().get(&peer).copied().unwrap_or(0)
    }

    /// Resets every connection with a machine; how many there were.
    pub fn reset(&self, peer: IpAddr) -> usize {
        let mut reset = 0;
        for conn in self.open.lock().iter().filter_map(Weak::upgrade).filter(|c| c.peer == peer) {
            conn.broken.store(true, Ordering::Relaxed);
            conn.waiting.lock().drain(..).for_each(Waker::wake);
            reset += 1;
        }
        reset
    }
}

/// The World's network on one machine.
pub struct SimNet(pub Arc<Machine>);

impl Net for SimNet {
    fn bind<'a>(&'a self, addr: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let listener = Arc::new(TcpListener::bind(addr).await?);
            let listener = SimListener { machine: self.0.clone(), listener, next: None };
            Ok(Box::new(listener) as Box<dyn Listener>)
        })
    }

    fn connect<'a>(&'a self, addr: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Stream>>> {
        Box::pin(async move {
            // The machine answers where no process does; turmoil's would be silent.
            if super::stall::is_down(addr.rsplit_once(':').map_or(addr, |(host, _)| host)) {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            let stream = TcpStream::connect(addr).await?;
            Ok(Box::new(Socket::new(&self.0, stream)?) as Box<dyn Stream>)
        })
    }
}

type Accepting = BoxFuture<'static, io::Result<(TcpStream, SocketAddr)>>;

struct SimListener {
    machine: Arc<Machine>,
    listener: Arc<TcpListener>,
    next: Option<Accepting>,
}

impl Listener for SimListener {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(Box<dyn Stream>, SocketAddr)>> {
        ready!(self.machine.poll_running(cx));
        let listener = self.listener.clone();
        let next = self.next.get_or_insert_with(|| Box::pin(async move { listener.accept().await }));
        let accepted = ready!(Future::poll(next.as_mut(), cx));
        self.next = None;
        let (stream, from) = accepted?;
        Poll::Ready(Ok((Box::new(Socket::new(&self.machine, stream)?), from)))
    }
}

/// One end of a connection on a machine.
struct Socket {
    machine: Arc<Machine>,
    conn: Arc<Conn>,
    stream: TcpStream,
}

impl Socket {
    fn new(machine: &Arc<Machine>, stream: TcpStream) -> io::Result<Self> {
        let conn = machine.conns.open(stream.peer_addr()?.ip());
        Ok(Self { machine: machine.clone(), conn, stream })
    }

    fn poll_usable(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        super::stall::runs(self.machine.number);
        ready!(self.machine.poll_running(cx));
        if self.conn.broken.load(Ordering::Relaxed) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Poll::Ready(Ok(()))
    }

    /// Remembers who waits, so that a reset is heard.
    fn waits(&self, cx: &Context<'_>) {
        let mut waiting = self.conn.waiting.lock();
        if !waiting.iter().any(|w| w.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_usable(cx))?;
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if polled.is_pending() {
            self.waits(cx);
        }
        polled
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_usable(cx))?;
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        match &polled {
            Poll::Ready(Ok(n)) => {
                self.machine.note(&buf[..*n]);
                *self.machine.conns.written.lock().entry(self.conn.peer).or_default() += 1;
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.waits(cx),
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_usable(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_usable(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
