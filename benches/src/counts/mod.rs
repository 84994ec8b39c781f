//! Single operations whose instructions are counted: one file per subject. No node, no network, one thread,
//! a clock that stands still, the same random numbers every time, so that the same program counts the same.
//!
//! The runner (`cargo xtask bench --counts`) runs each twice under valgrind, the second time with twice as
//! many operations: the difference is what they cost, whatever the start cost.

mod ask;
mod envelope;
mod hash;
mod lease;
mod mailbox;
mod placement;

use std::future::Future;

use anyhow::Result;
use serde::Serialize;

/// One operation.
#[derive(Serialize)]
pub struct Count {
    /// As it is asked for on the command line.
    pub name: &'static str,
    /// Exactly what one operation is.
    pub work: &'static str,
    /// Does so many of them.
    #[serde(skip)]
    pub run: fn(u64) -> Result<()>,
}

/// Every operation, in the order in which it is printed.
pub const COUNTS: &[Count] = &[
    ask::LOCAL,
    ask::TELL,
    mailbox::MAILBOX,
    ask::ACTIVATE,
    ask::AWAY,
    placement::SHARD_OWNER,
    envelope::ENVELOPE,
    lease::LEASE,
    hash::INT,
    hash::TEXT,
    hash::LEASE_KEY,
];

/// Runs the work on this thread.
fn on_one_thread(work: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_operation_is_named_once_and_can_be_done() {
        let mut names = BTreeSet::new();
        for count in COUNTS {
            assert!(names.insert(count.name), "{} twice", count.name);
            (count.run)(3).unwrap();
        }
    }
}
