//! Floors: the least that could do a row's work, without what a platform adds. They promise nothing else:
//! no bounds, no deadlines, no ownership, no isolation of panics.

pub mod cell;
pub mod channel;
pub mod etcd;
pub mod net;
pub mod swap;
