//! How an engine ends: in order with `close`, or by a signal when the last handle is dropped. Neither
//! waits for the backlog, which is durable and continues at the next open.

use std::sync::Arc;
use std::time::Duration;

use super::shared::{DispatchState, Shared};
use crate::error::{Error, Result};

/// Signals the threads to end when the last handle is dropped. The threads hold `Shared` themselves, so
/// its own drop would come too late.
#[derive(Debug)]
pub(super) struct Owner(pub(super) Arc<Shared>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.phase.close();
        self.0.signal_stop();
        self.0.outbox.signal_stop();
    }
}

/// How long `close` waits for workers whose attempts it interrupted.
const INTERRUPT_GRACE: Duration = Duration::from_secs(1);

impl Shared {
    pub(super) fn close(&self, timeout: Duration) -> Result<()> {
        let result = match self.check_open() {
            Err(Error::Closed) => Ok(()),
            open_or_poisoned => open_or_poisoned,
        };
        self.phase.close();
        self.signal_stop();
        let makes_attempts =
            |state: &mut DispatchState| state.workers + state.jobs > 0 || state.io.is_running();
        let mut state = self.dispatch_state.lock();
        self.threads_ended.wait_while_for(&mut state, makes_attempts, timeout);
        drop(state);
        self.transport.interrupt();
        let mut state = self.dispatch_state.lock();
        let runs = |state: &mut DispatchState| makes_attempts(state) || state.timekeeper_runs;
        self.threads_ended.wait_while_for(&mut state, runs, INTERRUPT_GRACE);
        drop(state);
        self.outbox.close();
        self.notices.close();
        *self.book.lock() = None;
        *self.directory_lock.lock() = None;
        tracing::info!("the engine is closed");
        result
    }
}
