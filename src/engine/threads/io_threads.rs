//! What the engine keeps of the I/O threads: which of them sleep, and the attempts that each carries.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use slab::Slab;

use crate::attempt::Attempt;
use crate::delivery::{AttemptToken, LoopId, WakeLoop};
use crate::engine::events::recent_attempts::SentEvent;
use crate::event::StoredEvent;

#[derive(Default)]
pub(in crate::engine) struct IoThreads {
    pub(in crate::engine) threads: BTreeMap<LoopId, IoThread>,
}

pub(in crate::engine) struct IoThread {
    pub(in crate::engine) wake: WakeLoop,
    /// It found too few attempts and sleeps until it is woken.
    pub(in crate::engine) is_idle: bool,
    pub(in crate::engine) is_running: bool,
    /// Attempts whose event was read, to be given out first.
    pub(in crate::engine) prepared: VecDeque<PreparedAttempt>,
}

/// An attempt that an I/O thread takes, with its event if that is at hand.
pub(in crate::engine) struct PreparedAttempt {
    pub(in crate::engine) attempt: Attempt,
    pub(in crate::engine) event: Option<Arc<StoredEvent>>,
}

/// The attempts that each I/O thread carries. Only that thread locks its part, so nobody waits.
pub(in crate::engine) struct IssuedAttempts(Vec<Mutex<Slab<IssuedAttempt>>>);

pub(in crate::engine) struct IssuedAttempt {
    pub(in crate::engine) attempt: Attempt,
    pub(in crate::engine) event: SentEvent,
}

impl IssuedAttempts {
    pub(in crate::engine) fn new(threads: usize) -> IssuedAttempts {
        IssuedAttempts((0..threads).map(|_| Mutex::default()).collect())
    }

    pub(in crate::engine) fn issue(
        &self,
        from: LoopId,
        issued: IssuedAttempt,
    ) -> Option<AttemptToken> {
        let slot = self.0.get(from.0)?.lock().insert(issued);
        Some(AttemptToken(slot as u64))
    }

    pub(in crate::engine) fn take(
        &self,
        from: LoopId,
        token: AttemptToken,
    ) -> Option<IssuedAttempt> {
        let slot = usize::try_from(token.0).ok()?;
        self.0.get(from.0)?.lock().try_remove(slot)
    }

    pub(in crate::engine) fn take_all(&self, from: LoopId) -> Vec<IssuedAttempt> {
        self.0.get(from.0).map(|slab| slab.lock().drain().collect()).unwrap_or_default()
    }
}

impl IoThreads {
    pub(in crate::engine) fn is_running(&self) -> bool {
        self.threads.values().any(|thread| thread.is_running)
    }

    /// Wakes all, because the engine closes.
    pub(in crate::engine) fn wake_all(&self) {
        self.threads.values().for_each(|thread| (thread.wake)());
    }

    pub(in crate::engine) fn set_idle(&mut self, number: LoopId) {
        if let Some(thread) = self.threads.get_mut(&number) {
            thread.is_idle = true;
        }
    }
}
