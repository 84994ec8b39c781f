//! Who is where: positions, addresses, folders.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    ops::Range,
    path::Path,
};

use anyhow::Result;

use super::name;
use crate::{
    host::netns,
    net::{Links, Route},
    spec::NodeSpec,
};

/// Positions of the metadata members, which host nothing.
pub const MEMBERS: Range<usize> = 0..3;
/// Positions of the workers, which host grains and are no members.
pub const WORKERS: Range<usize> = 3..6;
/// How many nodes there are.
pub const NODES: usize = WORKERS.end;
/// The position of the clients, as an end of links.
pub const CLIENTS: usize = NODES;

/// Ports within a network namespace, where everything is free.
const PEER: u16 = 7400;
const API: u16 = 7401;
const ADMIN: u16 = 7402;

/// Addresses of every node.
pub struct Layout {
    apart: bool,
    peers: Vec<SocketAddr>,
    apis: Vec<SocketAddr>,
    admins: Vec<SocketAddr>,
}

impl Layout {
    /// `apart`: every node in a network namespace of its own; else free ports on loopback.
    pub fn new(apart: bool) -> Result<Self> {
        if apart {
            let at = |port| (0..NODES).map(|i| SocketAddr::new(IpAddr::V4(netns::own(i)), port)).collect();
            return Ok(Self { apart, peers: at(PEER), apis: at(API), admins: at(ADMIN) });
        }
        let held: Vec<_> =
            (0..3 * NODES).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<std::io::Result<_>>()?;
        let at: Vec<_> = held.iter().map(TcpListener::local_addr).collect::<std::io::Result<_>>()?;
        Ok(Self {
            apart,
            peers: at[..NODES].to_vec(),
            apis: at[NODES..2 * NODES].to_vec(),
            admins: at[2 * NODES..].to_vec(),
        })
    }

    /// One proxy for each directed pair of nodes, and one from the clients to each worker.
    pub fn routes(&self) -> Vec<Route> {
        let mut routes = Vec::new();
        for from in 0..NODES {
            for to in (0..NODES).filter(|to| *to != from) {
                routes.push(self.route(from, to, self.peers[to]));
            }
        }
        routes.extend(MEMBERS.map(|to| self.route(CLIENTS, to, self.peers[to])));
        routes.extend(WORKERS.map(|to| self.route(CLIENTS, to, self.apis[to])));
        routes
    }

    fn route(&self, from: usize, to: usize, target: SocketAddr) -> Route {
        let listen =
            if self.apart && from != CLIENTS { netns::stand_in(from, to) } else { Ipv4Addr::LOCALHOST };
        let source = self.apart.then(|| IpAddr::V4(netns::stand_in(to, from)));
        Route { pair: (from, to), listen: SocketAddr::new(IpAddr::V4(listen), 0), target, source }
    }

    /// What members call each other.
    pub fn members(&self) -> Vec<String> {
        MEMBERS.map(|m| self.peers[m].to_string()).collect()
    }

    /// What the process at this position is told.
    pub fn spec(&self, i: usize, dir: &Path, links: &Links) -> NodeSpec {
        let routes: BTreeMap<_, _> = (0..NODES)
            .filter(|to| *to != i)
            .map(|to| (self.peers[to].to_string(), links.at((i, to)).to_string()))
            .collect();
        let member = MEMBERS.contains(&i);
        let folder = dir.join(name(i));
        NodeSpec {
            name: name(i),
            // An image's root has a folder of the file system's own.
            dir: if member { folder.join("data") } else { folder },
            member,
            peer: self.peers[i].to_string(),
            api: if member { String::new() } else { self.apis[i].to_string() },
            admin: if member { self.admins[i].to_string() } else { String::new() },
            members: self.members(),
            routes,
            init: i == MEMBERS.start,
            start: 0,
        }
    }
}
