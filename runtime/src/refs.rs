//! skeleton
use std::{marker::PhantomData, time::Duration};

use millet_core::{CallError, ErrorKind, PlatformError};

use crate::{Hosted, HostedMethod};

/// A reference to one grain of service `S`. What generated references wrap.
pub struct GrainRef<S: Hosted>(PhantomData<fn() -> S>);
impl<S: Hosted> Clone for GrainRef<S> {
    fn clone(&self) -> Self {
        Self(PhantomData)
    }
}
impl<S: Hosted> GrainRef<S> {
    pub(crate) fn skeleton() -> Self {
        Self(PhantomData)
    }
    /// Calls made through the result end after `d` (at most what is left of the caller's deadline).
    #[must_use]
    pub fn with_deadline(self, d: Duration) -> Self {
        let _ = d;
        self
    }
    /// Adds an entry to the request context of calls made through the result.
    #[must_use]
    pub fn with_context(self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let _ = (name.into(), value.into());
        self
    }
    /// A reference that belongs to no turn: for grain fields and spawned work. Default deadline, no chain.
    #[must_use]
    pub fn detached(self) -> Self {
        self
    }
    /// Calls a method and waits for its end, at the latest at the deadline.
    pub async fn call<M: HostedMethod<Service = S>>(
        &self,
        args: M::Args,
    ) -> Result<M::Res, CallError<M::Error>> {
        let _ = args;
        Err(PlatformError::new(ErrorKind::Unavailable { what: "being written".into() }).into())
    }
    /// Sends without waiting for a reply: at most once.
    pub fn tell<M: HostedMethod<Service = S>>(&self, args: M::Args) -> Result<(), PlatformError> {
        let _ = args;
        Err(ErrorKind::Unavailable { what: "being written".into() }.into())
    }
}
