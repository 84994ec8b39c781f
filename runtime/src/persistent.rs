//! A piece of grain state that is kept in a store, and the visitor that finds all of them.
//!
//! What is written when is decided here (`Mode`); writing itself is `saving`'s.

use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use millet_core::store::{StateStore, Version};
use serde::{Serialize, de::DeserializeOwned};

/// What can be kept in a [`Persistent`]: stored as JSON, so fields may be added and removed over time
/// (`#[serde(default)]`).
pub trait Storable: Serialize + DeserializeOwned + Default + Send + Sync + 'static {}
impl<T: Serialize + DeserializeOwned + Default + Send + Sync + 'static> Storable for T {}

/// When a changed state is saved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    /// At the end of the turn, before its reply leaves.
    Through,
    /// This many milliseconds after the change, and when the activation ends in good order.
    Behind(u32),
    /// When the grain says so.
    Manual,
}

/// A named state of a grain type: which store it lives in. One per type and name, shared by all grains.
pub(crate) struct Slot {
    pub(crate) name: &'static str,
    pub(crate) store: Arc<dyn StateStore>,
}

/// A named state of a grain. Dereferences to `T`; a mutable dereference marks it as changed.
///
/// When a change is saved:
/// * write-through (default): at the end of the turn, before its reply leaves. A call that was answered
///   is stored.
/// * [`write_behind`](Self::write_behind): at the latest `interval` after the change, and when the
///   activation ends in good order. *Loss window:* changes of the last `interval`, although answered,
///   are lost when the process dies or loses its lease; they are counted and logged, never saved late (R28).
/// * [`manual`](Self::manual): by [`save`](Self::save) only. What was not saved is lost when the
///   activation ends.
///
/// A save that fails, or whose outcome nobody knows, ends the activation, and the caller gets `Unknown`
/// (R3, R13): the next activation reads what the store has.
pub struct Persistent<T> {
    pub(crate) value: T,
    pub(crate) slot: Arc<Slot>,
    pub(crate) version: Version,
    pub(crate) mode: Mode,
    pub(crate) dirty: bool,
}

impl<T> Persistent<T> {
    /// Saves at the end of every turn that changed it (the default).
    #[must_use]
    pub fn write_through(mut self) -> Self {
        self.mode = Mode::Through;
        self
    }

    /// Saves at the latest `interval` (at least 10 ms) after a change.
    #[must_use]
    pub fn write_behind(mut self, interval: Duration) -> Self {
        self.mode = Mode::Behind(u32::try_from(interval.as_millis()).unwrap_or(u32::MAX).max(10));
        self
    }

    /// Saves only when told.
    #[must_use]
    pub fn manual(mut self) -> Self {
        self.mode = Mode::Manual;
        self
    }

    /// Whether it differs from what the store has, as far as is known.
    pub fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// The version of the last write that the store has accepted, as far as this activation knows; 0
    /// before the first. The next save becomes the one after it.
    pub fn version(&self) -> Version {
        self.version
    }
}

impl<T> Deref for Persistent<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}
impl<T> DerefMut for Persistent<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.dirty = true;
        &mut self.value
    }
}
impl<T: fmt::Debug> fmt::Debug for Persistent<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

/// A `Persistent` without its type.
pub(crate) trait Field {
    fn slot(&self) -> &Arc<Slot>;
    fn mode(&self) -> Mode;
    fn dirty(&self) -> bool;
    fn version(&self) -> Version;
    fn encode(&self) -> Result<Bytes, String>;
    /// Takes over what the store has.
    fn load(&mut self, version: Version, value: Option<&[u8]>) -> Result<(), String>;
    /// The store has answered: this is saved.
    fn saved(&mut self, version: Version);
}

impl<T: Storable> Field for Persistent<T> {
    fn slot(&self) -> &Arc<Slot> {
        &self.slot
    }
    fn mode(&self) -> Mode {
        self.mode
    }
    fn dirty(&self) -> bool {
        self.dirty
    }
    fn version(&self) -> Version {
        self.version
    }
    fn encode(&self) -> Result<Bytes, String> {
        serde_json::to_vec(&self.value)
            .map(Bytes::from)
            .map_err(|e| format!("state {:?} cannot be written as JSON: {e}", self.slot.name))
    }
    fn load(&mut self, version: Version, value: Option<&[u8]>) -> Result<(), String> {
        self.version = version;
        self.value = match value {
            None => T::default(),
            Some(json) => serde_json::from_slice(json).map_err(|e| {
                format!(
                    "stored state {:?} cannot be read: {e}; give new fields #[serde(default)]",
                    self.slot.name
                )
            })?,
        };
        self.dirty = false;
        Ok(())
    }
    fn saved(&mut self, version: Version) {
        self.version = version;
        self.dirty = false;
    }
}

/// Passed to [`crate::Grain::persist`]; visits every state of a grain.
pub struct Persist<'a>(pub(crate) &'a mut dyn FnMut(&mut dyn Field));

impl Persist<'_> {
    /// Visits one state. [`crate::states!`] writes these calls.
    pub fn visit<T: Storable>(&mut self, state: &mut Persistent<T>) {
        (self.0)(state);
    }
}

/// Writes [`Grain::persist`](crate::Grain::persist): name every [`Persistent`] field of the grain, inside
/// its `impl Grain`.
///
/// ```ignore
/// impl Grain for Hero {
///     type Service = Player;
///     fn create(c: &mut Create<'_, Self>) -> Self { Hero { profile: c.state("profile") } }
///     millet::states!(profile);
/// }
/// ```
#[macro_export]
macro_rules! states {
    ($($field:ident),+ $(,)?) => {
        fn persist(&mut self, p: &mut $crate::Persist<'_>) {
            $( p.visit(&mut self.$field); )+
        }
    };
}
