//! The mailbox of an activation, alone.

use std::{collections::VecDeque, hint::black_box};

use anyhow::{Result, ensure};
use millet_runtime::mailbox::Mailbox;

use super::Count;

/// In and out.
pub const MAILBOX: Count = Count {
    name: "mailbox",
    work: "8 bytes pushed into a mailbox and popped from a batch of 100, without the lock",
    run,
};

const BATCH: u64 = 100;

fn run(ops: u64) -> Result<()> {
    let (mut mailbox, mut batch) = (Mailbox::default(), VecDeque::new());
    for n in 1..=ops {
        ensure!(mailbox.push(black_box(n), 1024).is_ok(), "the mailbox is full");
        if n % BATCH == 0 || n == ops {
            mailbox.swap(&mut batch);
            while let Some(n) = batch.pop_front() {
                black_box(n);
            }
        }
    }
    Ok(())
}
