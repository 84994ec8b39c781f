//! The turn that a call comes from: what nested calls inherit, and the fence their outputs pass.

use std::sync::{
    Weak,
    atomic::{AtomicU32, Ordering},
};

use millet_core::{BootTime, Chain, Epoch, GrainId, RequestId, Sender, SessionId, hash::grain_hash};
use xxhash_rust::xxh3::xxh3_128;

use crate::{
    fence::{Fence, Standing},
    parcel::Context,
};

pub(crate) struct Origin {
    pub(crate) grain: GrainId,
    pub(crate) deadline: BootTime,
    pub(crate) request: RequestId,
    /// The grain itself is its last frame.
    pub(crate) chain: Chain,
    pub(crate) context: Option<Context>,
    pub(crate) session: SessionId,
    pub(crate) epoch: Epoch,
    pub(crate) fence: Weak<dyn Fence>,
    pub(crate) calls: AtomicU32,
}

impl Origin {
    /// The id of this turn's next call: the same if the same request runs the same turn again (R14).
    pub(crate) fn next_request(&self) -> RequestId {
        let n = self.calls.fetch_add(1, Ordering::Relaxed);
        let mut bytes = [0u8; 28];
        bytes[..16].copy_from_slice(&self.request.0.to_le_bytes());
        bytes[16..24].copy_from_slice(&grain_hash(&self.grain).to_le_bytes());
        bytes[24..].copy_from_slice(&n.to_le_bytes());
        RequestId(xxh3_128(&bytes))
    }

    pub(crate) fn sender(&self) -> Sender {
        Sender { session: self.session, epoch: Some(self.epoch) }
    }

    /// Whether an output may leave now.
    pub(crate) fn standing(&self) -> Standing {
        self.fence.upgrade().map_or(Standing::Ended, |f| f.now())
    }

    /// Waits until an output may leave; false if it never may.
    pub(crate) async fn leave(&self, until: BootTime) -> bool {
        match self.fence.upgrade() {
            Some(fence) => fence.leave(until).await,
            None => false,
        }
    }
}
