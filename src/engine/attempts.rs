//! The life of an attempt in the engine: a worker takes it from the dispatcher, sends it, and reports
//! its end. Which attempt is next and what a reply means is decided by `dispatch`. Nothing here waits for
//! the device or the network while the dispatch state is locked.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::events::recent_attempts::{RecentAttempt, RecentOutcome, SentEvent};
use super::shared::{DispatchState, Job, Shared};
use super::subscriptions::table::ActiveSubscription;
use crate::attempt::{Attempt, AttemptEnd, DeliveryId, FailedAttempt, Reason, Record};
use crate::delivery::Template;
use crate::dispatch::{Completed, StepContext};
use crate::error::Error;
use crate::event::StoredEvent;
use crate::notice::Notice;
use crate::stats::Bound;
use crate::subscription::{SubscriptionId, SubscriptionState};
use crate::transport::{Answer, Failure, Reply};

/// An attempt that ended, as the thread that made it reports it.
pub(super) struct CompletedAttempt {
    pub(super) attempt: Attempt,
    pub(super) end: AttemptEnd,
    /// The event; `None` if it was not read.
    pub(super) event: Option<SentEvent>,
}

/// What remains to be done for ended attempts once the lock is released.
#[derive(Default)]
pub(super) struct EndEffects {
    /// The events of settled deliveries, which need no longer be cached for them.
    pub(super) settled: Vec<u64>,
    completed: Vec<(Attempt, Completed)>,
    traced: Vec<(SubscriptionId, RecentAttempt)>,
    /// Forgotten attempts, freed without the lock.
    replaced: Vec<RecentAttempt>,
}

impl Shared {
    pub(super) fn attempt(&self, attempt: Attempt) -> CompletedAttempt {
        let (active, event) = match self.found(attempt) {
            Ok(found) => found,
            Err(ended) => return ended,
        };
        let send = || self.send(&active.template, &event, attempt.number, self.clock.wall_ms());
        let reply = span_of(attempt, &event).in_scope(send);
        let event = Some(SentEvent::from(&*event));
        CompletedAttempt { attempt, end: reply.into(), event }
    }

    /// Begins an attempt through a transport that answers later. Its answer ends it, on whichever thread.
    pub(super) fn begin(self: &Arc<Self>, attempt: Attempt) {
        let (active, event) = match self.found(attempt) {
            Ok(found) => found,
            Err(ended) => return self.end_begun(ended),
        };
        let (shared, sent) = (Arc::downgrade(self), Some(SentEvent::from(&*event)));
        let answer = Answer::new(move |reply| {
            if let Some(shared) = shared.upgrade() {
                shared.end_begun(CompletedAttempt { attempt, end: reply.into(), event: sent });
            }
        });
        let (number, wall_ms) = (attempt.number, self.clock.wall_ms());
        match active.template.request(&event, number, wall_ms, &self.catalogue) {
            Ok(request) => {
                span_of(attempt, &event).in_scope(|| self.transport.begin(request, answer));
            }
            Err(failure) => answer.reply(Reply::Failed(failure)),
        }
    }

    fn end_begun(&self, ended: CompletedAttempt) {
        self.complete_and(ended, |_, _| None);
        // `close` waits for attempts that no thread carries.
        self.threads_ended.notify_all();
    }

    /// The subscription and the event of an attempt, or how it ends without them.
    fn found(
        &self,
        attempt: Attempt,
    ) -> Result<(Arc<ActiveSubscription>, Arc<StoredEvent>), CompletedAttempt> {
        let DeliveryId { sequence, subscription: id } = attempt.delivery;
        // A subscription that was removed a moment ago: its deliveries are already cancelled.
        let active = self.subscriptions.read().get(id).ok_or_else(|| interrupted(attempt))?;
        let event = self.outbox.event(sequence).map_err(|error| self.unread(attempt, &error))?;
        Ok((active, event))
    }

    pub(super) fn unread(&self, attempt: Attempt, error: &Error) -> CompletedAttempt {
        if matches!(error, Error::Closed) || self.is_stalled_by(error) {
            return interrupted(attempt);
        }
        self.notices.send(&Notice::InternalError { why: error.to_string() });
        let end = AttemptEnd::Reply(Reply::Failed(Failure::Internal));
        CompletedAttempt { attempt, end, event: None }
    }

    /// Builds the request of an event's attempt `number` and sends it.
    pub(super) fn send(
        &self,
        template: &Template,
        event: &StoredEvent,
        number: u32,
        wall_ms: u64,
    ) -> Reply {
        match template.request(event, number, wall_ms, &self.catalogue) {
            Ok(request) => self.transport.send(&request),
            Err(failure) => Reply::Failed(failure),
        }
    }

    pub(super) fn take_attempt(&self, state: &mut DispatchState) -> Option<Attempt> {
        let attempt = state.next_attempt(self.clock.monotonic_ms())?;
        self.wake_workers(state);
        Some(attempt)
    }

    /// Ends an attempt and takes the next one, under one lock.
    pub(super) fn complete(&self, ended: CompletedAttempt) -> Option<Attempt> {
        self.complete_and(
            ended,
            |state, now_ms| {
                if state.closing { None } else { state.next_attempt(now_ms) }
            },
        )
    }

    fn complete_and(
        &self,
        ended: CompletedAttempt,
        next: impl FnOnce(&mut DispatchState, u64) -> Option<Attempt>,
    ) -> Option<Attempt> {
        let ended = self.with_random([ended]);
        let mut state = self.dispatch_state.lock();
        let effects = self.end_attempts(&mut state, ended);
        let next = next(&mut state, self.clock.monotonic_ms());
        self.wake_workers(&mut state);
        drop(state);
        self.outbox.release_cached(&effects.settled);
        self.finish_ends(effects);
        next
    }

    /// Draws the random bits of each end before the lock is taken.
    pub(super) fn with_random(
        &self,
        ended: impl IntoIterator<Item = CompletedAttempt>,
    ) -> Vec<(CompletedAttempt, u64)> {
        ended.into_iter().map(|ended| (ended, self.clock.random_u64())).collect()
    }

    /// Ends attempts. They are recorded, counted and remembered under the lock: a reader that no longer
    /// finds a delivery owed finds its end in the outbox's queue, in the counters and among the recent
    /// attempts.
    pub(super) fn end_attempts(
        &self,
        state: &mut DispatchState,
        ended: Vec<(CompletedAttempt, u64)>,
    ) -> EndEffects {
        let (now_ms, wall_ms) = (self.clock.monotonic_ms(), self.clock.wall_ms());
        let mut effects = EndEffects::default();
        let mut remembered = Vec::with_capacity(ended.len());
        for (CompletedAttempt { attempt, end, event }, random) in ended {
            let context = StepContext { now_ms, wall_ms, random };
            let mut completed = state.dispatcher.complete(attempt, &end, context);
            if completed.record.is_some() {
                state.note_end();
            }
            match end {
                AttemptEnd::Reply(reply) => {
                    self.record(attempt, &reply, &completed, wall_ms);
                    self.count(&reply, &completed);
                    let recent = self.recent(attempt, &mut completed, reply, event, wall_ms);
                    remembered.extend(recent.map(|one| (attempt.delivery.subscription, one)));
                }
                AttemptEnd::Uncounted(shortage) => {
                    self.counters.uncounted.add(1);
                    state.bounds.note(Bound::Shortage(shortage), now_ms);
                }
            }
            if let Some(Record::Settle(delivery) | Record::SettleMain(delivery)) = completed.record
            {
                effects.settled.push(delivery.sequence);
            }
            effects.completed.push((attempt, completed));
        }
        if self.history.is_some() {
            effects.traced.clone_from(&remembered);
        }
        effects.replaced = self.recent_attempts.remember(remembered);
        effects
    }

    /// The attempt to remember; `None` for one that changed nothing, because it was interrupted or its
    /// subscription was removed.
    fn recent(
        &self,
        attempt: Attempt,
        completed: &mut Completed,
        reply: Reply,
        event: Option<SentEvent>,
        wall_ms: u64,
    ) -> Option<RecentAttempt> {
        let outcome = RecentOutcome::of(completed.record.as_ref()?)?;
        let reason = completed.reason.take();
        let (status, excerpt) = reply.into_status_and_excerpt();
        let (id, event_type) = match event {
            Some(SentEvent { id, event_type }) => (id, Some(event_type)),
            None => (self.outbox.id_of(attempt.delivery.sequence), None),
        };
        Some(RecentAttempt {
            at_ms: wall_ms,
            event: id,
            event_type,
            number: attempt.number,
            outcome,
            status,
            took: Duration::from_millis(completed.took_ms),
            excerpt: if reason.is_some() { excerpt } else { Vec::new() },
            reason,
        })
    }

    /// Logs and announces the ends of attempts, without the lock.
    pub(super) fn finish_ends(&self, effects: EndEffects) {
        drop(effects.replaced);
        self.note_attempts(effects.traced);
        for (attempt, completed) in effects.completed {
            self.log_end(attempt, &completed);
            self.announce(attempt.delivery.subscription, completed);
        }
    }

    /// Queues what the end of an attempt changed for the next group, its history first.
    fn record(&self, attempt: Attempt, reply: &Reply, completed: &Completed, wall_ms: u64) {
        let Completed { record, with, health, reason, took_ms, .. } = completed;
        // An attempt that changed nothing, because its subscription is removed, has no history.
        if let (Some(reason), Some(_)) = (reason, record) {
            let excerpt = match reply {
                Reply::Response(response) => response.excerpt.clone(),
                Reply::Failed(_) => Vec::new(),
            };
            self.outbox.record(Record::FailedAttempt(
                attempt.delivery,
                FailedAttempt {
                    number: attempt.number,
                    at_ms: wall_ms,
                    took: Duration::from_millis(*took_ms),
                    reason: reason.clone(),
                    excerpt,
                },
            ));
        }
        if let Some(health) = health {
            self.outbox.record(health.clone());
        }
        match record {
            Some(record) if with.is_empty() => self.outbox.record(record.clone()),
            Some(record) => {
                let together = std::iter::once(record).chain(with).cloned().collect();
                self.outbox.record_together(together);
            }
            None => {}
        }
    }

    /// Whether an event cannot be read because the device refuses. Its delivery then goes back to its
    /// lane, and the attempt is neither counted nor reported.
    fn is_stalled_by(&self, error: &Error) -> bool {
        let refuses = self.dispatch_state.lock().note_unread();
        // A generation that is being opened again may be readable at the next attempt.
        refuses || matches!(error, Error::Unknown { .. })
    }

    fn count(&self, reply: &Reply, completed: &Completed) {
        if !matches!(reply, Reply::Failed(Failure::Interrupted)) {
            self.counters.attempts.add(1);
            self.counters.attempt_durations.record(completed.took_ms);
        }
        for record in completed.record.iter().chain(&completed.with) {
            match record {
                Record::Settle(_) | Record::SettleMain(_) => self.counters.delivered.add(1),
                // Not the end of an attempt.
                Record::Revive(_)
                | Record::Discard(_)
                | Record::FailedAttempt(..)
                | Record::Health(..) => {}
                Record::Retry(..) => self.counters.retried.add(1),
                Record::Dead(_) => self.counters.dead.add(1),
            }
        }
    }

    /// Sends the notices of an attempt's end, and disables the subscription if the end requires it.
    fn announce(&self, id: SubscriptionId, completed: Completed) {
        let Completed { record, with, disabled, .. } = completed;
        for letter in record.iter().chain(&with).filter_map(Record::letter) {
            self.notices.send(&Notice::DeadLettered {
                event: self.outbox.id_of(letter.delivery.sequence),
                subscription: letter.delivery.subscription,
                reason: letter.reason.clone(),
            });
        }
        if let Some(reason) = disabled {
            self.submit_job(Job::Disable(id, reason));
        }
    }

    /// Makes durable that a subscription is disabled. Its lane already is, and is set again here because
    /// a call of the host that held the book in between may have activated it. If the write fails, the
    /// next attempt after a restart finds the same reason again.
    pub(super) fn disable(&self, id: SubscriptionId, reason: Reason) {
        let mut book = self.book.lock();
        let Some(subscription) = self.subscriptions.read().get(id) else { return };
        let mut info = (*subscription.info).clone();
        if info.state == SubscriptionState::Disabled {
            // Another attempt, in flight at the same time, has disabled it.
            return;
        }
        info.state = SubscriptionState::Disabled;
        info.disabled_reason = Some(reason.to_string());
        let kept = match book.as_mut() {
            Some(book) => book.put(&info),
            None => Err(Error::Closed),
        };
        if let Err(error) = kept {
            self.notices.send(&Notice::InternalError { why: error.to_string() });
        }
        if let Ok(subscription) = ActiveSubscription::new(info) {
            self.activate(vec![(subscription, HashMap::new())]);
        }
        drop(book);
        self.notices.send(&Notice::Disabled { subscription: id, reason });
    }
}

/// What a host's own transport logs within.
fn span_of(attempt: Attempt, event: &StoredEvent) -> tracing::Span {
    let Attempt { delivery, number } = attempt;
    tracing::debug_span!("attempt", event = %event.id, subscription = %delivery.subscription, number)
}

/// An attempt that was not made. It does not count.
pub(super) fn interrupted(attempt: Attempt) -> CompletedAttempt {
    let end = AttemptEnd::Reply(Reply::Failed(Failure::Interrupted));
    CompletedAttempt { attempt, end, event: None }
}
