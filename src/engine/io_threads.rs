//! What the engine keeps of the I/O threads: which of them sleep, and the attempts that each carries.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use slab::Slab;

use super::recent_attempts::SentEvent;
use crate::attempt::Attempt;
use crate::delivery::{AttemptToken, EXCHANGE_MAX, LoopId, WakeLoop};
use crate::event::StoredEvent;

#[derive(Default)]
pub(super) struct IoThreads {
    pub(super) threads: Vec<IoThread>,
    /// Attempts whose event was read, to be given out first.
    pub(super) prepared: VecDeque<PreparedAttempt>,
}

pub(super) struct IoThread {
    pub(super) wake: WakeLoop,
    /// It found too few attempts and sleeps until it is woken.
    pub(super) is_idle: bool,
    pub(super) is_running: bool,
}

/// An attempt that an I/O thread takes, with its event if that is at hand.
pub(super) struct PreparedAttempt {
    pub(super) attempt: Attempt,
    pub(super) event: Option<Arc<StoredEvent>>,
}

/// The attempts that each I/O thread carries. Only that thread locks its part, so nobody waits.
pub(super) struct IssuedAttempts(Vec<Mutex<Slab<IssuedAttempt>>>);

pub(super) struct IssuedAttempt {
    pub(super) attempt: Attempt,
    pub(super) event: SentEvent,
}

impl IssuedAttempts {
    pub(super) fn new(threads: usize) -> IssuedAttempts {
        IssuedAttempts((0..threads).map(|_| Mutex::default()).collect())
    }

    pub(super) fn issue(&self, from: LoopId, issued: IssuedAttempt) -> Option<AttemptToken> {
        let slot = self.0.get(from.0)?.lock().insert(issued);
        Some(AttemptToken(slot as u64))
    }

    pub(super) fn take(&self, from: LoopId, token: AttemptToken) -> Option<IssuedAttempt> {
        let slot = usize::try_from(token.0).ok()?;
        self.0.get(from.0)?.lock().try_remove(slot)
    }

    pub(super) fn take_all(&self, from: LoopId) -> Vec<IssuedAttempt> {
        self.0.get(from.0).map(|slab| slab.lock().drain().collect()).unwrap_or_default()
    }
}

impl IoThreads {
    pub(super) fn is_running(&self) -> bool {
        self.threads.iter().any(|thread| thread.is_running)
    }

    /// Wakes as many idle threads as `attempts` more need.
    pub(super) fn wake(&mut self, attempts: usize) {
        let mut attempts = attempts + self.prepared.len();
        for thread in self.threads.iter_mut().filter(|thread| thread.is_idle) {
            if attempts == 0 {
                return;
            }
            thread.is_idle = false;
            (thread.wake)();
            attempts = attempts.saturating_sub(EXCHANGE_MAX);
        }
    }

    /// Wakes all, because the engine closes.
    pub(super) fn wake_all(&self) {
        self.threads.iter().for_each(|thread| (thread.wake)());
    }

    pub(super) fn set_idle(&mut self, number: LoopId) {
        if let Some(thread) = self.threads.get_mut(number.0) {
            thread.is_idle = true;
        }
    }
}
