//! The one owner of a lane's sending side: a stream of frames that tonic pulls when the connection has
//! room. It yields once so that more messages gather, then drains the queue into one frame.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures::{Stream, task::AtomicWaker};
use millet_core::{
    SessionLease,
    clock::Clock,
    control::{Point, reached},
};
use millet_proto::{peer::boot_ms, wire};
use parking_lot::Mutex;

use super::lane::LaneState;

/// A lane between the tasks that use it.
pub(super) struct Lane<T> {
    state: Mutex<LaneState<T>>,
    writer: AtomicWaker,
    /// Our session: what is written was decided under it (R12).
    lease: Arc<SessionLease>,
    clock: Arc<dyn Clock>,
}

impl<T> Lane<T> {
    pub(super) fn new(hello: wire::Hello, lease: Arc<SessionLease>, clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(LaneState::new(hello)), writer: AtomicWaker::new(), lease, clock })
    }

    /// Changes the lane's state and wakes the writer if that left something to write.
    pub(super) fn with<R>(&self, f: impl FnOnce(&mut LaneState<T>) -> R) -> R {
        let mut state = self.state.lock();
        let result = f(&mut state);
        let wake = state.has_work() || state.is_closed();
        drop(state);
        if wake {
            self.writer.wake();
        }
        result
    }

    /// The exit check of the connection writer: our session, and a clock read made now (R12).
    fn may_speak(&self) -> bool {
        self.lease.valid_at(self.clock.boottime())
    }
}

/// The frames of a lane, in order.
pub(super) struct Writer<T> {
    lane: Arc<Lane<T>>,
    yielded: bool,
}

impl<T> Writer<T> {
    pub(super) fn new(lane: Arc<Lane<T>>) -> Self {
        Self { lane, yielded: false }
    }
}

impl<T> Stream for Writer<T> {
    type Item = wire::PeerFrame;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.lane.writer.register(cx.waker());
        let yielded = std::mem::take(&mut self.yielded);
        let mut state = self.lane.state.lock();
        if state.is_closed() {
            return Poll::Ready(None);
        }
        if !state.has_work() {
            return Poll::Pending;
        }
        if !yielded {
            drop(state);
            self.yielded = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let now_ms = boot_ms(self.lane.clock.boottime());
        match state.pack(now_ms, self.lane.may_speak()) {
            Some(frame) => {
                reached(Point::FrameChecked);
                Poll::Ready(Some(frame))
            }
            // Frozen: the lane's driver wakes us every tick until the session is valid or dead (R4).
            None => Poll::Pending,
        }
    }
}
