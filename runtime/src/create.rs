//! What a grain sees while it is made: its key, its states, the process's resources.

use std::{any::Any, marker::PhantomData, sync::Arc};

use millet_core::{Key, store::Version};

use crate::{
    Grain, Persistent,
    persistent::{Mode, Slot, Storable},
};

/// What [`Grain::create`] works with.
pub struct Create<'a, G: Grain> {
    key: &'a Key,
    source: &'a dyn Source,
    /// Every state declared so far.
    pub(crate) declared: Vec<Arc<Slot>>,
    _grain: PhantomData<fn() -> G>,
}

/// Where slots and resources come from.
pub(crate) trait Source: Sync {
    fn slot(&self, store: &str, name: &'static str) -> Result<Arc<Slot>, String>;
    fn resource(
        &self,
        ty: std::any::TypeId,
        name: &'static str,
    ) -> Result<Arc<dyn Any + Send + Sync>, String>;
}

/// Thrown (without a panic message) by `Create` where the grain cannot be made; answered as `ActivateFailed`.
pub(crate) struct CannotCreate(pub(crate) String);

impl<'a, G: Grain> Create<'a, G> {
    pub(crate) fn new(key: &'a Key, source: &'a dyn Source) -> Self {
        Self { key, source, declared: Vec::new(), _grain: PhantomData }
    }

    /// The key of the grain that is made.
    pub fn key(&self) -> &Key {
        self.key
    }

    /// Declares a state in the store called `default`. Its value is loaded before `activate` runs; until
    /// then it is `T::default()`. To choose another mode than write-through, name the type:
    /// `c.state::<Profile>("profile").write_behind(…)`. Visit it in `persist` (`millet::states!`), or activation fails.
    pub fn state<T: Storable>(&mut self, name: &'static str) -> Persistent<T> {
        self.state_in("default", name)
    }

    /// Declares a state in the store of this name.
    pub fn state_in<T: Storable>(&mut self, store: &str, name: &'static str) -> Persistent<T> {
        let slot = self.source.slot(store, name).unwrap_or_else(|why| refuse(why));
        if self.declared.iter().any(|s| Arc::ptr_eq(s, &slot)) {
            refuse(format!("state {name:?} is declared twice; give each state a name of its own"));
        }
        self.declared.push(slot.clone());
        Persistent { value: T::default(), slot, version: Version(0), mode: Mode::Through, dirty: false }
    }

    /// A resource given to the builder with `.resource(…)`. Without one of this type the activation fails.
    pub fn resource<T: Send + Sync + 'static>(&mut self) -> Arc<T> {
        find_resource(self.source).unwrap_or_else(|why| refuse(why))
    }
}

fn refuse(why: String) -> ! {
    std::panic::resume_unwind(Box::new(CannotCreate(why)))
}

pub(crate) fn find_resource<T: Send + Sync + 'static>(source: &dyn Source) -> Result<Arc<T>, String> {
    let name = std::any::type_name::<T>();
    let found = source.resource(std::any::TypeId::of::<T>(), name)?;
    found.downcast().map_err(|_| format!("the resource under {name} is of another type"))
}
