//! A wrapper that makes a value `Sync` by allowing nothing but exclusive access.

use std::fmt;

use parking_lot::Mutex;

/// Makes a `Send` value that is not `Sync` (`RefCell`, a SQLite connection) fit for a grain: it can be
/// reached through `&mut self` turns only, where nothing is locked.
#[derive(Default)]
pub struct Exclusive<T>(Mutex<T>);

impl<T> Exclusive<T> {
    /// Wraps a value.
    pub fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }
    /// The value, from an exclusive turn. Takes no lock.
    pub fn get_mut(&mut self) -> &mut T {
        self.0.get_mut()
    }
    /// The value itself.
    pub fn into_inner(self) -> T {
        self.0.into_inner()
    }
}

impl<T> fmt::Debug for Exclusive<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Exclusive(..)")
    }
}
