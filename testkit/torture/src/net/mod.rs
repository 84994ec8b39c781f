//! One TCP proxy per directed pair of nodes, so that every link of the cluster can be made slow, be cut in
//! one direction, or be reset, without privileges.
//!
//! - `links`: the proxies, and what becomes of them when a node is gone.
//! - `pipe`: one direction of one connection.

mod links;
mod pipe;

pub use links::{Links, Route};
