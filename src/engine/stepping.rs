//! Drives an engine step by step on one thread, so that a simulation repeats exactly. Each step calls what
//! the engine's threads call; no thread is started, and nothing happens between two steps.

use std::sync::Arc;

use super::attempts::CompletedAttempt;
use super::events::recent_attempts::SentEvent;
use super::shared::Shared;
use super::storage::recovery;
use super::threads::{timekeeper, worker_pool};
use super::{Engine, Owner, commit_events};
use crate::attempt::{Attempt, AttemptEnd};
use crate::config::Config;
use crate::delivery;
use crate::error::Result;
use crate::text::debug_fields;
use crate::transport::{Reply, Shortage};

/// The committer, timekeeper and workers of an engine, each driven by a method.
///
/// Dropping it and every handle of its engine is a crash: nothing more is written.
pub struct Stepped {
    shared: Arc<Shared>,
}

/// An attempt in flight. It occupies its worker until it is completed.
#[derive(Debug)]
#[must_use = "its worker waits until the attempt is completed"]
pub struct BegunAttempt {
    attempt: Attempt,
    event: Option<SentEvent>,
    /// The reply of the transport. The simulation may delay it or replace it.
    pub reply: Reply,
}

impl Stepped {
    /// Opens an engine that starts no thread. What waits for a group ([`unsubscribe`](Engine::unsubscribe),
    /// [`replay`](Engine::replay), lists of dead letters) commits what is queued on the caller's thread.
    ///
    /// # Errors
    /// As [`Engine::open`].
    pub fn open(config: Config) -> Result<(Engine, Stepped)> {
        let (shared, unstarted) = recovery::prepare(config)?;
        let weak = Arc::downgrade(&shared);
        let (owing, sink) =
            (commit_events::owed_query(weak.clone()), commit_events::commit_listener(weak));
        shared.outbox.start_stepped(unstarted, Arc::clone(&shared.clock), owing, sink);
        let engine =
            Engine { _owner: Arc::new(Owner(Arc::clone(&shared))), shared: Arc::clone(&shared) };
        Ok((engine, Stepped { shared }))
    }

    /// The committer's step: writes one group of what is queued, or compacts if nothing is. Returns
    /// whether there was work.
    ///
    /// # Errors
    /// The errors that would poison an engine with threads.
    pub fn commit(&self) -> Result<bool> {
        self.shared.outbox.step()
    }

    /// The timekeeper's step: makes deliveries due, and adds missing workers.
    pub fn tick(&self) {
        let now_ms = self.shared.clock.monotonic_ms();
        timekeeper::tick(&self.shared, &mut self.shared.dispatch_state.lock(), now_ms, &|| Ok(()));
        self.count_idle();
    }

    /// When [`tick`](Stepped::tick) makes something ready next, in monotonic milliseconds.
    pub fn next_wake_ms(&self) -> Option<u64> {
        self.shared.dispatch_state.lock().dispatcher.next_wake_ms()
    }

    /// When [`tick`](Stepped::tick) may end something by its age next, in monotonic milliseconds.
    pub fn next_expiry_ms(&self) -> Option<u64> {
        self.shared.dispatch_state.lock().dispatcher.next_expiry_ms()
    }

    /// An idle worker's step: takes the next attempt and sends it. `None` if no worker is idle or no
    /// attempt is ready.
    pub fn begin(&self) -> Option<BegunAttempt> {
        let mut state = self.shared.dispatch_state.lock();
        if state.workers <= state.dispatcher.in_flight() {
            return None;
        }
        state.idle = state.idle.saturating_sub(1);
        let attempt = self.shared.take_attempt(&mut state);
        drop(state);
        self.count_idle();
        attempt.map(|attempt| self.sent(attempt))
    }

    /// A worker's step: reports the reply, and continues with the next attempt if one is ready.
    pub fn complete(&self, begun: BegunAttempt) -> Option<BegunAttempt> {
        let BegunAttempt { attempt, event, reply } = begun;
        self.end(CompletedAttempt { attempt, end: reply.into(), event })
    }

    /// As [`complete`](Stepped::complete), for an attempt that ends with a shortage and does not count.
    pub fn complete_uncounted(
        &self,
        begun: BegunAttempt,
        shortage: Shortage,
    ) -> Option<BegunAttempt> {
        let (attempt, end) = (begun.attempt, AttemptEnd::Uncounted(shortage));
        self.end(CompletedAttempt { attempt, end, event: None })
    }

    fn end(&self, ended: CompletedAttempt) -> Option<BegunAttempt> {
        let next = self.shared.complete(ended);
        self.count_idle();
        next.map(|attempt| self.sent(attempt))
    }

    /// Ends idle workers, as a long time without an attempt does.
    pub fn rest(&self) {
        let mut state = self.shared.dispatch_state.lock();
        state.workers =
            state.workers.min(state.dispatcher.in_flight().max(worker_pool::WORKERS_KEPT));
        drop(state);
        self.count_idle();
    }

    /// Counts workers without an attempt as idle, which their threads would do themselves.
    fn count_idle(&self) {
        let mut state = self.shared.dispatch_state.lock();
        state.idle = state.workers.saturating_sub(state.dispatcher.in_flight());
    }

    fn sent(&self, attempt: Attempt) -> BegunAttempt {
        let CompletedAttempt { end, event, .. } = self.shared.attempt(attempt);
        BegunAttempt { attempt, event, reply: end.into_reply() }
    }
}

/// A receiver's `Retry-After` in milliseconds from `wall_ms`, as the transport parses it. Public for the
/// fuzz targets, because it parses text that a receiver wrote.
pub fn retry_after_ms(value: &str, wall_ms: u64) -> Option<u64> {
    delivery::retry_after_ms(value, wall_ms)
}

impl Engine {
    /// Whether there is nothing to do before more time passes.
    pub(crate) fn is_idle(&self) -> bool {
        let shared = &self.shared;
        let now_ms = shared.clock.monotonic_ms();
        let dispatcher = &shared.dispatch_state.lock().dispatcher;
        let is_due = dispatcher.next_timer_ms().is_some_and(|due_ms| due_ms <= now_ms);
        let is_busy = is_due || dispatcher.in_flight() > 0 || dispatcher.startable() > 0;
        !is_busy && shared.outbox.queued() == (0, 0)
    }
}

debug_fields!(Stepped);
