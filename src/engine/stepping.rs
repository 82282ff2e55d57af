//! Decides how an engine is driven step by step on one thread, so that a simulation repeats exactly.
//!
//! Leaves to others: every step itself: each calls what the engine's threads call. Invariant: no
//! thread is started, and between two steps nothing happens.

use std::fmt;
use std::sync::Arc;

use super::core::Core;
use super::{Engine, Owner, drain, recovery};
use crate::attempt::{Attempt, Made, Reply};
use crate::config::Config;
use crate::delivery::{self, Source};
use crate::error::Result;
use crate::event::EventType;

/// An engine's committer, timekeeper and workers, which act when they are told to.
///
/// Dropping it and every handle of its engine is a crash: nothing is written any more.
pub struct Stepped {
    core: Arc<Core>,
}

/// An attempt that a worker has begun and that holds the worker until it is completed.
#[derive(Debug)]
#[must_use = "its worker waits until the attempt is completed"]
pub struct Begun {
    attempt: Attempt,
    event_type: Option<EventType>,
    /// What the transport answered; it can be held back, and another reply given in its place.
    pub reply: Reply,
}

impl Stepped {
    /// Opens an engine that starts no thread. Its [`unsubscribe`](Engine::unsubscribe) and
    /// [`replay`](Engine::replay) commit what is queued on the caller's thread.
    ///
    /// # Errors
    /// As [`Engine::open`].
    pub fn open(config: Config) -> Result<(Engine, Stepped)> {
        let (core, unstarted) = recovery::prepare(config)?;
        let weak = Arc::downgrade(&core);
        let (owing, sink) = (drain::owing(weak.clone()), drain::sink(weak));
        core.outbox.start_stepped(unstarted, Arc::clone(&core.clock), owing, sink);
        let engine = Engine { _owner: Arc::new(Owner(Arc::clone(&core))), core: Arc::clone(&core) };
        Ok((engine, Stepped { core }))
    }

    /// The committer's step: one group of what is queued, or tidying where nothing is. Returns
    /// whether there was anything to do.
    ///
    /// # Errors
    /// Those that would poison an engine with threads.
    pub fn commit(&self) -> Result<bool> {
        self.core.outbox.step()
    }

    /// The timekeeper's step: makes due what is due now, and adds workers that are missing.
    pub fn mark_time(&self) {
        let now_ms = self.core.clock.monotonic_ms();
        drain::mark_time(&self.core, &mut self.core.drive.lock(), now_ms, &|| Ok(()));
        self.count_idle();
    }

    /// When [`mark_time`](Stepped::mark_time) has something to do next, in monotonic milliseconds.
    pub fn next_wake_ms(&self) -> Option<u64> {
        self.core.drive.lock().dispatcher.next_wake_ms()
    }

    /// Workers that make no attempt now.
    pub fn workers_idle(&self) -> usize {
        let drive = self.core.drive.lock();
        drive.workers.saturating_sub(drive.dispatcher.in_flight())
    }

    /// An idle worker's step: takes the next attempt and sends it. `None` where no worker is idle
    /// or no attempt is ready.
    pub fn begin(&self) -> Option<Begun> {
        let mut drive = self.core.drive.lock();
        if drive.workers <= drive.dispatcher.in_flight() {
            return None;
        }
        drive.idle = drive.idle.saturating_sub(1);
        let attempt = self.core.take_attempt(&mut drive);
        drop(drive);
        self.count_idle();
        attempt.map(|attempt| self.sent(attempt))
    }

    /// A worker's step: brings the reply, and goes on with the next attempt where one is ready.
    pub fn complete(&self, begun: Begun) -> Option<Begun> {
        let Begun { attempt, event_type, reply } = begun;
        let next = self.core.complete(attempt, Made { reply, event_type });
        self.count_idle();
        next.map(|attempt| self.sent(attempt))
    }

    /// Idle workers end, as after a long time without an attempt.
    pub fn rest(&self) {
        let mut drive = self.core.drive.lock();
        drive.workers = drive.workers.min(drive.dispatcher.in_flight().max(drain::WORKERS_KEPT));
        drop(drive);
        self.count_idle();
    }

    /// A worker that makes no attempt is idle: there is no thread that could say so itself.
    fn count_idle(&self) {
        let mut drive = self.core.drive.lock();
        drive.idle = drive.workers.saturating_sub(drive.dispatcher.in_flight());
    }

    fn sent(&self, attempt: Attempt) -> Begun {
        let Made { reply, event_type } = self.core.attempt(attempt);
        Begun { attempt, event_type, reply }
    }
}

/// What a receiver's `Retry-After` asks for, in milliseconds from `wall_ms`, as the transport reads it.
/// It is a step of an attempt, and the one that reads most of what a receiver wrote.
pub fn retry_after_ms(value: &str, wall_ms: u64) -> Option<u64> {
    delivery::retry_after_ms(value, wall_ms)
}

impl fmt::Debug for Stepped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stepped").finish_non_exhaustive()
    }
}
