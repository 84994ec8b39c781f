//! The network of a node under torture: listens as always, dials the driver's proxies.

use std::{collections::BTreeMap, io};

use millet::world::{Listener, Net, OsNet, Stream};
use millet_core::BoxFuture;

/// Dials other addresses than it is told to.
pub struct Routed(BTreeMap<String, String>);

impl Routed {
    /// By what callers mean: where the connection goes instead.
    pub fn new(routes: BTreeMap<String, String>) -> Self {
        Self(routes)
    }
}

impl Net for Routed {
    fn bind<'a>(&'a self, addr: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        OsNet.bind(addr)
    }
    fn connect<'a>(&'a self, addr: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Stream>>> {
        OsNet.connect(self.0.get(addr).map_or(addr, String::as_str))
    }
}
