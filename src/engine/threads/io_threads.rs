//! What the engine keeps of the I/O threads: which of them sleep, and the attempts that each carries.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use slab::Slab;

use crate::attempt::Attempt;
use crate::delivery::{AttemptToken, EXCHANGE_MAX, LoopId, WakeLoop};
use crate::engine::events::recent_attempts::SentEvent;
use crate::event::StoredEvent;

#[derive(Default)]
pub(in crate::engine) struct IoThreads {
    pub(in crate::engine) threads: Vec<IoThread>,
    /// Attempts whose event was read, to be given out first.
    pub(in crate::engine) prepared: VecDeque<PreparedAttempt>,
}

pub(in crate::engine) struct IoThread {
    pub(in crate::engine) wake: WakeLoop,
    /// It found too few attempts and sleeps until it is woken.
    pub(in crate::engine) is_idle: bool,
    pub(in crate::engine) is_running: bool,
    /// How many attempts it carried at its last exchange.
    pub(in crate::engine) in_flight: usize,
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

    pub(in crate::engine) fn count(&self, from: LoopId) -> usize {
        self.0.get(from.0).map_or(0, |slab| slab.lock().len())
    }

    pub(in crate::engine) fn take_all(&self, from: LoopId) -> Vec<IssuedAttempt> {
        self.0.get(from.0).map(|slab| slab.lock().drain().collect()).unwrap_or_default()
    }
}

impl IoThreads {
    pub(in crate::engine) fn is_running(&self) -> bool {
        self.threads.iter().any(|thread| thread.is_running)
    }

    /// Wakes as many idle threads as `attempts` more need, those with the fewest in flight first.
    pub(in crate::engine) fn wake(&mut self, attempts: usize) {
        let mut attempts = attempts + self.prepared.len();
        while attempts > 0 {
            let idle = self.threads.iter_mut().filter(|thread| thread.is_idle);
            let Some(thread) = idle.min_by_key(|thread| thread.in_flight) else { return };
            thread.is_idle = false;
            (thread.wake)();
            attempts = attempts.saturating_sub(EXCHANGE_MAX);
        }
    }

    /// How many of `room` attempts a thread may take that carries `in_flight`: half of them where an idle one carries
    /// far fewer. Otherwise the thread that is awake would keep all lanes at their cap, and the other one would sleep.
    pub(in crate::engine) fn fair_room(
        &mut self,
        number: LoopId,
        in_flight: usize,
        room: usize,
    ) -> usize {
        if let Some(thread) = self.threads.get_mut(number.0) {
            thread.in_flight = in_flight;
        }
        let has_fewer = |thread: &IoThread| {
            thread.is_running && thread.is_idle && thread.in_flight + EXCHANGE_MAX < in_flight
        };
        if self.threads.iter().any(has_fewer) { room.div_ceil(2) } else { room }
    }

    /// Wakes all, because the engine closes.
    pub(in crate::engine) fn wake_all(&self) {
        self.threads.iter().for_each(|thread| (thread.wake)());
    }

    pub(in crate::engine) fn set_idle(&mut self, number: LoopId) {
        if let Some(thread) = self.threads.get_mut(number.0) {
            thread.is_idle = true;
        }
    }
}
