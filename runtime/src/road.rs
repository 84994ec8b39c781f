//! What every reference to the grains of one service needs: where they are hosted, and under which name.
//! There is a copy for each stripe, because every reference counts itself in one.

use std::{
    any::{Any, TypeId},
    sync::Arc,
};

use hashbrown::HashMap;
use millet_core::{ErrorKind, GrainType};

use crate::{Hosted, deps::Deps, host::Deliver};

/// See the module.
pub(crate) struct Road<S: Hosted> {
    pub(crate) deps: Arc<Deps>,
    /// `None` where this node hosts none.
    pub(crate) host: Option<Arc<dyn Deliver<S>>>,
    pub(crate) ty: Result<GrainType, ErrorKind>,
}

/// The roads of one stripe to the types that this node hosts.
#[derive(Default)]
pub(crate) struct Roads(HashMap<TypeId, Box<dyn Any + Send + Sync>>);

impl Roads {
    pub(crate) fn add<S: Hosted>(&mut self, road: Road<S>) {
        self.0.insert(TypeId::of::<S>(), Box::new(Arc::new(road)));
    }

    pub(crate) fn of<S: Hosted>(&self) -> Option<Arc<Road<S>>> {
        self.0.get(&TypeId::of::<S>())?.downcast_ref::<Arc<Road<S>>>().cloned()
    }

    pub(crate) fn has<S: Hosted>(&self) -> bool {
        self.0.contains_key(&TypeId::of::<S>())
    }
}
