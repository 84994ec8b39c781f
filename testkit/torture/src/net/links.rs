//! The proxies of a cluster. Each listens for one node (or the clients) and leads to one node; while that
//! node is down, it refuses connections as the node's own port would.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
    task::JoinSet,
};

use super::pipe::{Condition, Flow, pipe};

/// Who a link is between: positions of nodes, or the clients' position.
pub type Pair = (usize, usize);

/// One proxy to make.
#[derive(Clone, Debug)]
pub struct Route {
    /// From whom to whom.
    pub pair: Pair,
    /// Where the proxy listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// What it leads to.
    pub target: SocketAddr,
    /// Its own address towards the target, where that matters.
    pub source: Option<IpAddr>,
}

/// One way between two nodes.
struct Way {
    condition: watch::Sender<Condition>,
    flow: Arc<Flow>,
}

/// Every proxy. Their connections end when this is dropped.
pub struct Links {
    ways: BTreeMap<Pair, Way>,
    up: BTreeMap<usize, watch::Sender<bool>>,
    at: BTreeMap<Pair, SocketAddr>,
    _proxies: JoinSet<()>,
}

/// A target that does not answer a connect is not there.
const CONNECT: Duration = Duration::from_secs(2);
/// Between looks at a port that refuses.
const LOOK: Duration = Duration::from_millis(20);

impl Links {
    /// Starts these proxies. Targets count as down until [`Links::set_up`].
    pub async fn start(routes: Vec<Route>) -> io::Result<Self> {
        let (mut ways, mut up, mut at) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let mut proxies = JoinSet::new();
        for route in &routes {
            let (from, to) = route.pair;
            for pair in [(from, to), (to, from)] {
                ways.entry(pair).or_insert_with(|| Way {
                    condition: watch::channel(Condition::default()).0,
                    flow: Arc::default(),
                });
            }
            up.entry(to).or_insert_with(|| watch::channel(false).0);
        }
        for mut route in routes {
            // Bound once now, so that the port is known; then again whenever the target is up.
            route.listen = TcpListener::bind(route.listen).await?.local_addr()?;
            at.insert(route.pair, route.listen);
            let (from, to) = route.pair;
            let ends = |pair: &Pair| (ways[pair].condition.subscribe(), ways[pair].flow.clone());
            let proxy =
                Proxy { there: ends(&(from, to)), back: ends(&(to, from)), up: up[&to].subscribe(), route };
            proxies.spawn(proxy.run());
        }
        Ok(Self { ways, up, at, _proxies: proxies })
    }

    /// Where `pair.0` dials to reach `pair.1`.
    pub fn at(&self, pair: Pair) -> SocketAddr {
        self.at[&pair]
    }

    /// Whether a node's process is there: connections to it are taken, else refused and reset.
    pub fn set_up(&self, node: usize, up: bool) {
        self.up[&node].send_replace(up);
    }

    /// Changes how bytes from `pair.0` to `pair.1` are treated.
    pub fn change(&self, pair: Pair, change: impl FnOnce(&mut Condition)) {
        self.ways[&pair].condition.send_modify(change);
    }

    /// Every way there is.
    pub fn pairs(&self) -> impl Iterator<Item = Pair> + '_ {
        self.ways.keys().copied()
    }

    /// Bytes that arrived, and bytes that were held by a cut, so far.
    pub fn flow(&self, pair: Pair) -> (u64, u64) {
        let flow = &self.ways[&pair].flow;
        (flow.carried(), flow.held())
    }

    /// Ends every condition but the count of resets.
    pub fn heal(&self) {
        for way in self.ways.values() {
            way.condition.send_modify(|c| *c = Condition { resets: c.resets, ..Condition::default() });
        }
    }
}

type End = (watch::Receiver<Condition>, Arc<Flow>);

struct Proxy {
    route: Route,
    there: End,
    back: End,
    up: watch::Receiver<bool>,
}

impl Proxy {
    /// Listens while the target does; what it carries is reset when the target's process is gone.
    async fn run(mut self) {
        while self.up.wait_for(|up| *up).await.is_ok() {
            let mut connections = JoinSet::new();
            let mut listener = None;
            while *self.up.borrow() {
                match listener.take() {
                    Some(open) => listener = self.serve(open, &mut connections).await,
                    None => listener = self.reopen(&mut connections).await,
                }
            }
            drop(listener);
            connections.shutdown().await;
        }
    }

    /// Takes connections until the target refuses one or goes down; gives the listener back if neither.
    async fn serve(&mut self, listener: TcpListener, connections: &mut Connections) -> Option<TcpListener> {
        tokio::select! {
            accepted = listener.accept() => if let Ok(stream) = accepted.and_then(|(s, _)| Abrupt::new(s)) {
                let (route, there, back) = (self.route.clone(), self.there.clone(), self.back.clone());
                connections.spawn(carry(stream, route, there, back));
            },
            Some(ended) = connections.join_next() => {
                if ended.is_ok_and(|e| e.is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused)) {
                    return None;
                }
            }
            _ = self.up.wait_for(|up| !*up) => return None,
        }
        Some(listener)
    }

    /// Listens again if the target takes connections; else waits for a moment.
    async fn reopen(&mut self, connections: &mut Connections) -> Option<TcpListener> {
        let reached = tokio::select! {
            reached = connect(&self.route) => reached.is_ok(),
            Some(_) = connections.join_next() => return None,
            _ = self.up.wait_for(|up| !*up) => return None,
        };
        if reached {
            return TcpListener::bind(self.route.listen).await.ok();
        }
        tokio::time::sleep(LOOK).await;
        None
    }
}

type Connections = JoinSet<io::Result<()>>;

/// A connection that is reset, not ended, when it is dropped before both ways had come to their end.
struct Abrupt {
    stream: TcpStream,
    ended: bool,
}

impl Abrupt {
    fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self { stream, ended: false })
    }
}

impl Drop for Abrupt {
    fn drop(&mut self) {
        if !self.ended {
            // A socket that is gone already needs no reset.
            let _ = self.stream.set_zero_linger();
        }
    }
}

async fn carry(mut inner: Abrupt, route: Route, there: End, back: End) -> io::Result<()> {
    let mut outer = Abrupt::new(connect(&route).await?)?;
    let ((mut ri, mut wi), (mut ro, mut wo)) = (inner.stream.split(), outer.stream.split());
    let (t, b) = (pipe(&mut ri, &mut wo, there.0, there.1), pipe(&mut ro, &mut wi, back.0, back.1));
    // The first error resets both ways; an orderly end of one leaves the other open.
    tokio::try_join!(t, b)?;
    (inner.ended, outer.ended) = (true, true);
    Ok(())
}

async fn connect(route: &Route) -> io::Result<TcpStream> {
    let socket = if route.target.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if let Some(source) = route.source {
        socket.bind(SocketAddr::new(source, 0))?;
    }
    match tokio::time::timeout(CONNECT, socket.connect(route.target)).await {
        Ok(connected) => connected,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

#[cfg(test)]
mod tests {
    use millet_testkit::until_some;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    /// Echoes every connection.
    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let at = listener.local_addr().expect("bound");
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut r, mut w) = stream.split();
                    let _ = tokio::io::copy(&mut r, &mut w).await;
                });
            }
        });
        at
    }

    async fn links() -> Links {
        let target = echo().await;
        let listen = "127.0.0.1:0".parse().expect("an address");
        let route = Route { pair: (0, 1), listen, target, source: None };
        Links::start(vec![route]).await.expect("a proxy")
    }

    async fn dial(links: &Links) -> TcpStream {
        until_some("the proxy listens", async || TcpStream::connect(links.at((0, 1))).await.ok(), LIMIT).await
    }

    #[tokio::test]
    async fn a_way_that_is_cut_holds_its_bytes_and_the_other_way_goes_on() {
        let links = links().await;
        links.set_up(1, true);
        let mut s = dial(&links).await;
        let mut byte = [0];
        s.write_all(b"a").await.expect("written");
        s.read_exact(&mut byte).await.expect("echoed");
        links.change((1, 0), |c| c.cut = true);
        s.write_all(b"b").await.expect("written");
        until_some("the echo is held", async || (links.flow((1, 0)).1 == 1).then_some(()), LIMIT).await;
        assert_eq!(links.flow((0, 1)), (2, 0), "the way there was not cut");
        links.heal();
        s.read_exact(&mut byte).await.expect("arrives after the cut");
        assert_eq!(&byte, b"b");
    }

    #[tokio::test]
    async fn a_reset_ends_connections_with_rst_and_new_ones_work() {
        let links = links().await;
        links.set_up(1, true);
        let mut s = dial(&links).await;
        let mut byte = [0];
        s.write_all(b"a").await.expect("written");
        s.read_exact(&mut byte).await.expect("echoed");
        links.change((0, 1), |c| c.resets += 1);
        let error = s.read(&mut byte).await.expect_err("reset");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        let mut s = dial(&links).await;
        s.write_all(b"c").await.expect("written");
        s.read_exact(&mut byte).await.expect("a new connection works");
    }

    #[tokio::test]
    async fn the_port_of_a_node_that_is_down_refuses() {
        let links = links().await;
        let refused = TcpStream::connect(links.at((0, 1))).await.expect_err("nobody is there");
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        links.set_up(1, true);
        let mut s = dial(&links).await;
        links.set_up(1, false);
        let mut byte = [0];
        assert!(s.read(&mut byte).await.is_err(), "the connection is reset with the node");
    }
}
