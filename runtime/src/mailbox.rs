//! What waits for one reader: a vector that senders push to and its reader swaps for an empty one, under the
//! lock of whoever owns it. Whether a message may wait, and who is woken by it, is `activation`'s.

use std::collections::VecDeque;

/// Messages in the order in which they were pushed. One that was never pushed to, or whose messages were
/// taken, holds no memory: idle grains have one each.
#[derive(Debug)]
pub struct Mailbox<T>(Vec<T>);

impl<T> Mailbox<T> {
    /// Puts a message behind the others.
    ///
    /// # Errors
    /// The message, where `limit` wait already.
    #[inline]
    pub fn push(&mut self, message: T, limit: usize) -> Result<(), T> {
        if self.0.len() >= limit {
            return Err(message);
        }
        self.0.push(message);
        Ok(())
    }

    /// Whether nothing waits.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Fills `batch`, which is empty, with what waits. What is pushed next lies in the memory that the last
    /// batch was in: a stream of messages allocates nothing.
    #[inline]
    pub fn swap(&mut self, batch: &mut VecDeque<T>) {
        debug_assert!(batch.is_empty(), "a batch is worked off before the next");
        let emptied = std::mem::take(batch).into();
        *batch = std::mem::replace(&mut self.0, emptied).into();
    }

    /// Takes what waits, and the memory.
    pub fn take(&mut self) -> Vec<T> {
        std::mem::take(&mut self.0)
    }

    /// What waits, for a reader that picks from it.
    pub fn waiting(&mut self) -> &mut Vec<T> {
        &mut self.0
    }
}

impl<T> Default for Mailbox<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> From<Vec<T>> for Mailbox<T> {
    fn from(waiting: Vec<T>) -> Self {
        Self(waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_in_order_up_to_the_limit_and_the_one_over_it_comes_back() {
        let (mut mailbox, mut batch) = (Mailbox::default(), VecDeque::new());
        assert_eq!((1..=4).map(|n| mailbox.push(n, 3)).collect::<Vec<_>>(), [Ok(()), Ok(()), Ok(()), Err(4)]);
        mailbox.swap(&mut batch);
        assert!(mailbox.is_empty());
        assert_eq!(mailbox.push(5, 3), Ok(()));
        assert_eq!(batch, [1, 2, 3]);
    }

    /// Two vectors go to and fro; taking gives the memory up.
    #[test]
    fn the_memory_of_a_batch_is_used_again_until_it_is_taken() {
        let (mut mailbox, mut batch) = (Mailbox::default(), VecDeque::new());
        for _ in 0..10 {
            assert_eq!(mailbox.push(1, 100), Ok(()));
            mailbox.swap(&mut batch);
            assert_eq!(batch.pop_front(), Some(1));
        }
        assert!(mailbox.waiting().capacity() > 0);
        drop(mailbox.take());
        assert_eq!(mailbox.waiting().capacity(), 0);
        assert_eq!(size_of_val(&mailbox), size_of::<Vec<u8>>());
    }
}
