//! How an engine ends: in order with `close`, or by a signal when the last handle is dropped. Neither
//! waits for the backlog, which is durable and continues at the next open. A thread of its own waits for the
//! device, so that every caller of `close` waits for the same end and none of them longer than a bound.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::Engine;
use super::shared::{ClosingStage, DispatchState, Shared};
use crate::error::{Error, Result};
use crate::history::History;
use crate::notice::Notice;
use crate::process::threads;
use crate::store::StoreFailure;

/// Signals the threads to end when the last handle is dropped. The threads hold `Shared` themselves, so
/// its own drop would come too late.
#[derive(Debug)]
pub(super) struct Owner(pub(super) Arc<Shared>);

impl Drop for Owner {
    fn drop(&mut self) {
        let _ = self.0.ended.set(Error::Closed);
        self.0.signal_stop();
        self.0.outbox.signal_stop();
    }
}

/// How long `close` waits for workers whose attempts it interrupted.
const INTERRUPT_GRACE: Duration = Duration::from_secs(1);

/// How long `close` waits for the device to finish what was begun.
const DEVICE_GRACE: Duration = Duration::from_secs(3);

impl Engine {
    /// Starts no more attempts, lets those under way finish for at most `timeout` and interrupts the rest: they
    /// are owed on the device and are made at the next open. Events are accepted until [`close`](Engine::close), so
    /// a server can stop listening last.
    pub fn stop_deliveries(&self, timeout: Duration) {
        self.shared.stop_deliveries(timeout);
    }
}

impl Shared {
    pub(super) fn close(self: &Arc<Self>, timeout: Duration) -> Result<()> {
        let result = match self.check_open() {
            Err(Error::Closed) => Ok(()),
            open_or_poisoned => open_or_poisoned,
        };
        if *self.closing.lock() == ClosingStage::Closed {
            return result;
        }
        let _ = self.ended.set(Error::Closed);
        self.stop_deliveries(timeout);
        self.start_release();
        let mut stage = self.closing.lock();
        let is_open = |stage: &mut ClosingStage| *stage != ClosingStage::Closed;
        if self.closed.wait_while_for(&mut stage, is_open, DEVICE_GRACE).timed_out() {
            let source = StoreFailure::io(io::ErrorKind::TimedOut.into());
            return Err(Error::Store { doing: "closing: the device does not answer", source });
        }
        result
    }

    /// Ends the threads that make attempts. Attempts in flight have until `timeout`.
    pub(super) fn stop_deliveries(&self, timeout: Duration) {
        self.signal_stop();
        let makes_attempts = |state: &mut DispatchState| {
            let begun = if state.answers_later { state.dispatcher.in_flight() } else { 0 };
            state.workers + state.jobs + begun > 0 || state.io.is_running()
        };
        let mut state = self.dispatch_state.lock();
        self.threads_ended.wait_while_for(&mut state, makes_attempts, timeout);
        drop(state);
        self.interrupt();
        let mut state = self.dispatch_state.lock();
        let runs = |state: &mut DispatchState| makes_attempts(state) || state.timekeeper_runs;
        self.threads_ended.wait_while_for(&mut state, runs, INTERRUPT_GRACE);
    }

    fn interrupt(&self) {
        let interrupted = catch_unwind(AssertUnwindSafe(|| self.transport.interrupt()));
        if interrupted.is_err() {
            let why = "the transport panicked when it was interrupted".to_owned();
            self.notices.send(&Notice::InternalError { why });
        }
    }

    /// Starts to release what the engine holds, unless another caller has.
    fn start_release(self: &Arc<Self>) {
        let mut stage = self.closing.lock();
        if *stage != ClosingStage::Open {
            return;
        }
        *stage = ClosingStage::Releasing;
        drop(stage);
        let shared = Arc::clone(self);
        if threads::start("wabahook-close", None, move || shared.release()).is_err() {
            self.release();
        }
    }

    fn release(&self) {
        self.outbox.close();
        self.history.iter().for_each(History::close);
        self.notices.close();
        *self.book.lock() = None;
        *self.directory_lock.lock() = None;
        self.store.release();
        *self.closing.lock() = ClosingStage::Closed;
        self.closed.notify_all();
        tracing::info!("the engine is closed");
    }
}
