//! What became of an event: the event itself, its deliveries and their attempts, put together from what is owed,
//! the dead letters, the recent attempts and the history. Events are also found by what a support person knows of
//! them. A search reads a bounded number of events at a time.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::query::{
    DeliveryOutcome, DeliveryTrace, EventCursor, EventQuery, EventTrace, SearchPosition,
};
use super::recent_attempts::{RecentAttempt, RecentOutcome};
use crate::attempt::{DeliveryId, FailedAttempt, Reason};
use crate::dispatch::DeliveryStage;
use crate::engine::deliveries::dead_letter_filter::is_type_and_number;
use crate::engine::page::{PageReads, READ_FOR_PAGE_MAX};
use crate::engine::shared::Shared;
use crate::engine::{DeliveryState, Engine, Page};
use crate::error::{Error, Result};
use crate::event::{EventId, EventType, StoredEvent};
use crate::history::{AcceptedEntry, History, HistoryEntry};
use crate::outbox::OwnerPages;
use crate::subscription::SubscriptionId;

impl Engine {
    /// What became of an event: with its payload, its deliveries and their attempts. `None` for an event that is
    /// no longer kept, or never was: one without a subscriber is kept only by a
    /// [history](crate::Limits::history_bytes_max).
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Directory`] or [`Error::Damaged`] when a part of it cannot be read.
    ///
    /// ```
    /// # use wabahook::{Config, Engine, Event, Subscription};
    /// # let directory = tempfile::tempdir()?;
    /// # let engine = Engine::open(Config::new(directory.path()))?;
    /// engine.subscribe(Subscription::to("https://crm.example/hook")?)?;
    /// let accepted = engine.publish(Event::new("ADD_TAG", "{}"))?.wait()?;
    /// let trace = engine.event(accepted.id)?.expect("it is owed");
    /// assert_eq!(trace.deliveries.len(), 1);
    /// # engine.close(std::time::Duration::from_secs(10))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn event(&self, id: EventId) -> Result<Option<EventTrace>> {
        self.shared.check_open()?;
        self.shared.settle_history();
        self.shared.trace(id)
    }

    /// Finds events, newest first, at most `count_max`. Pass the `next` of a page to get the following one. A page
    /// has fewer events, or none, if few of those read for it match; the search ends where `next` is `None`. What
    /// is in the history comes first, then what is owed or dead and not in the history.
    ///
    /// # Errors
    /// As [`event`](Engine::event).
    ///
    /// ```
    /// # use wabahook::{Config, Engine, Event, EventQuery, Subscription};
    /// # let directory = tempfile::tempdir()?;
    /// # let engine = Engine::open(Config::new(directory.path()))?;
    /// engine.subscribe(Subscription::to("https://crm.example/hook")?)?;
    /// engine.publish(Event::new("MESSAGE_RECEIVED", r#"{"id":"wamid.HBgMOTE5"}"#))?.wait()?;
    /// let page = engine.find_events(&EventQuery::default().message_id("wamid.HBgMOTE5"), None, 10)?;
    /// assert_eq!(page.items.len(), 1);
    /// # engine.close(std::time::Duration::from_secs(10))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn find_events(
        &self,
        query: &EventQuery,
        after: Option<EventCursor>,
        count_max: usize,
    ) -> Result<Page<EventTrace, EventCursor>> {
        self.shared.check_open()?;
        self.shared.settle_history();
        let query = &query.resolved(self.accounts());
        let shared = &self.shared;
        let (before, kept) = match after.map(|after| after.0) {
            None => (None, None),
            Some(SearchPosition::History(position)) => (Some(position), None),
            Some(SearchPosition::Kept(sequence)) => (None, Some(sequence)),
        };
        let (mut items, mut reads) = (Vec::new(), PageReads::default());
        if let Some(history) = shared.history.as_ref().filter(|_| kept.is_none()) {
            let accounts = query.account.as_deref().map(|account| shared.accounts.ids_of(account));
            let query = query.in_history(accounts);
            let found = history.find(&query, before, count_max, READ_FOR_PAGE_MAX);
            let found = found.map_err(|error| shared.unreadable_history(error))?;
            for (position, accepted) in found.entries {
                let trace = shared.trace(accepted.id())?;
                reads.add_payload(trace.as_ref().map_or(0, |trace| trace.payload.len()));
                items.extend(trace);
                // An event of thousands of webhooks fills a page alone.
                reads.add_items(accepted.targets.len());
                if reads.is_full() {
                    let next = Some(EventCursor(SearchPosition::History(position)));
                    return Ok(Page { items, next });
                }
            }
            if let Some(next) = found.next {
                let next = Some(EventCursor(SearchPosition::History(next)));
                return Ok(Page { items, next });
            }
        }
        let next = shared.find_kept(query, kept, count_max, (&mut items, &mut reads))?;
        Ok(Page { items, next: next.map(|next| EventCursor(SearchPosition::Kept(next))) })
    }
}

/// How long a reader waits for what is being written. A device that hangs must not stop it (I4).
const SETTLE_MAX: Duration = Duration::from_secs(1);

impl Shared {
    /// Waits until what happened before can be found: on the device, unless that refuses, and in the history.
    fn settle_history(&self) {
        self.settle_ends();
        self.history.iter().for_each(History::flush);
    }

    /// Waits until what ended before is on the device, where lists find it. A notice or a counter may be ahead of
    /// that by a group (I2). While the device refuses or hangs, what it took before is found.
    pub(in crate::engine) fn settle_ends(&self) {
        let is_stalled = self.dispatch_state.lock().is_stalled();
        if !is_stalled {
            let _ = self.outbox.settle(SETTLE_MAX);
        }
    }

    /// Finds events that are owed or dead and not in the history. Returns where the search goes on.
    fn find_kept(
        &self,
        query: &EventQuery,
        before: Option<u64>,
        count_max: usize,
        (items, reads): (&mut Vec<EventTrace>, &mut PageReads),
    ) -> Result<Option<u64>> {
        // Events do not store their dedup key.
        if query.dedup_key.is_some() {
            return Ok(None);
        }
        let mut sequences = self.dispatch_state.lock().dispatcher.owed_sequences();
        let letters = self.outbox.letters_before(None, None, usize::MAX);
        sequences.extend(letters.iter().map(|(_, delivery)| delivery.sequence));
        sequences.remove_range(before.unwrap_or(u64::MAX)..);
        if sequences.is_empty() {
            return Ok(None);
        }
        let (account, contact) = (query.account.as_deref(), query.contact.as_deref());
        let contact =
            contact.map(|contact| self.contact_hashes(contact, account, 1)).transpose()?;
        let (mut pages, mut last) = (OwnerPages::default(), None);
        let accounts = self.account_refs(account);
        let may_match = |sequence: &u64| {
            accounts.as_ref().is_none_or(|accounts| self.outbox.may_be_of(*sequence, accounts))
        };
        for sequence in sequences.iter().rev().filter(may_match) {
            if items.len() >= count_max || reads.is_full() {
                return Ok(Some(last.unwrap_or_else(|| sequence.saturating_add(1))));
            }
            last = Some(sequence);
            reads.add_items(1);
            if self.is_kept_match(query, contact.as_ref(), sequence, (&mut pages, reads))? {
                let trace = self.trace(self.outbox.id_of(sequence))?;
                reads.add_items(trace.as_ref().map_or(0, |trace| trace.deliveries.len()));
                reads.add_payload(trace.as_ref().map_or(0, |trace| trace.payload.len()));
                items.extend(trace);
            }
        }
        Ok(None)
    }

    fn is_kept_match(
        &self,
        query: &EventQuery,
        contact: Option<&BTreeSet<u64>>,
        sequence: u64,
        (pages, reads): (&mut OwnerPages, &mut PageReads),
    ) -> Result<bool> {
        let Some(owner) = pages.owner(&self.outbox, sequence)? else { return Ok(false) };
        let event_type = self.catalogue.canonical(&owner.event_type).ok();
        let is_own = |wanted: &String| *wanted == self.accounts.successor(&owner.account);
        let is_match = query.account.as_ref().is_none_or(is_own)
            && is_type_and_number((query.event_type.as_deref(), None), (event_type.as_ref(), None))
            && query.number.is_none_or(|number| owner.number == Some(number))
            && contact.is_none_or(|hashes| hashes.contains(&owner.key_hash))
            && query.since_ms.is_none_or(|since_ms| since_ms <= owner.accepted_at_ms);
        if !is_match {
            return Ok(false);
        }
        if let Some(history) = &self.history {
            let is_found = history.has_accepted(self.outbox.id_of(sequence), owner.accepted_at_ms);
            if is_found.map_err(|error| self.unreadable_history(error))? {
                return Ok(false);
            }
        }
        let Some(id) = &query.message_id else { return Ok(true) };
        let event = self.outbox.event(sequence)?;
        reads.add_payload(event.payload.len());
        Ok(event.payload.windows(id.len().max(1)).any(|part| part == id.as_bytes()))
    }

    pub(in crate::engine) fn unreadable_history(&self, error: std::io::Error) -> Error {
        let path = self.history.as_ref().map(|history| history.path().to_owned());
        let path = path.unwrap_or_default();
        Error::Directory { path, doing: "reading the history", source: Arc::new(error) }
    }

    fn trace(&self, id: EventId) -> Result<Option<EventTrace>> {
        let entries = match &self.history {
            Some(history) => history.entries_of(id),
            None => Ok(Vec::new()),
        };
        let entries = entries.map_err(|error| self.unreadable_history(error))?;
        let accepted = entries.iter().find_map(|entry| match entry {
            HistoryEntry::Accepted(accepted) => Some(accepted),
            _ => None,
        });
        let mut trace = match (accepted, self.kept_event(id)?) {
            (_, Some((event, targets))) => self.trace_of_kept(&event, &targets),
            (Some(accepted), None) => match self.trace_of_accepted(accepted) {
                Some(trace) => trace,
                None => return Ok(None),
            },
            (None, None) => return Ok(None),
        };
        let event_type = trace.event_type.clone();
        for delivery in &mut trace.deliveries {
            self.follow(id, delivery, &entries, &event_type)?;
        }
        let duplicates =
            entries.iter().filter(|entry| matches!(entry, HistoryEntry::Duplicate { .. }));
        trace.duplicates = duplicates.count() as u64;
        Ok(Some(trace))
    }

    /// An event that the outbox still has, and its targets.
    fn kept_event(&self, id: EventId) -> Result<Option<(Arc<StoredEvent>, Vec<SubscriptionId>)>> {
        let sequence = id.sequence();
        if self.outbox.id_of(sequence) != id
            || OwnerPages::default().owner(&self.outbox, sequence)?.is_none()
        {
            return Ok(None);
        }
        let targets = self.outbox.targets_of(sequence)?;
        Ok(Some((self.outbox.event(sequence)?, targets)))
    }

    fn trace_of_kept(&self, event: &StoredEvent, targets: &[SubscriptionId]) -> EventTrace {
        EventTrace {
            id: event.id,
            account: self.accounts.successor(&event.account),
            event_type: event.event_type.clone(),
            number: event.number,
            waba: event.waba.clone(),
            accepted_at_ms: event.accepted_at_ms,
            payload: event.payload.clone(),
            payload_length: event.payload.len() as u64,
            duplicates: 0,
            deliveries: targets.iter().copied().map(DeliveryTrace::new).collect(),
        }
    }

    /// `None` if the stored type is not a valid type.
    fn trace_of_accepted(&self, accepted: &AcceptedEntry) -> Option<EventTrace> {
        Some(EventTrace {
            id: accepted.id(),
            account: self.accounts.successor(&accepted.account),
            event_type: self.catalogue.canonical(&accepted.event_type).ok()?,
            number: accepted.number(),
            waba: accepted.waba.clone(),
            accepted_at_ms: accepted.accepted_at_ms,
            payload: accepted.payload.clone(),
            payload_length: accepted.payload_length,
            duplicates: 0,
            deliveries: accepted.targets.iter().copied().map(DeliveryTrace::new).collect(),
        })
    }

    fn follow(
        &self,
        event: EventId,
        trace: &mut DeliveryTrace,
        entries: &[HistoryEntry],
        event_type: &EventType,
    ) -> Result<()> {
        let id = DeliveryId { sequence: event.sequence(), subscription: trace.subscription };
        let steps = entries.iter().filter_map(|entry| match entry {
            HistoryEntry::Delivery { subscription, step, .. } => {
                Some(step).filter(|_| *subscription == id.subscription)
            }
            _ => None,
        });
        for step in steps {
            trace.take(step, event, event_type);
        }
        // An event of an earlier outbox is owed to nobody here.
        if self.outbox.id_of(id.sequence) != event {
            return Ok(());
        }
        if trace.attempts.is_empty() {
            let failed = self.outbox.history(id)?;
            trace.attempts = self.known_attempts(event, trace.subscription, &failed, event_type);
        }
        self.follow_current(id, trace)
    }

    /// Overrides what the history says by what is owed and dead now.
    fn follow_current(&self, id: DeliveryId, trace: &mut DeliveryTrace) -> Result<()> {
        let mut state = self.dispatch_state.lock();
        let listed = state.dispatcher.listed(id.subscription, id.sequence, |_| true, 1);
        drop(state);
        let owed = listed.first().filter(|listed| listed.sequence == id.sequence);
        if let Some(listed) = owed {
            if let DeliveryStage::Retrying { due_ms, .. } = listed.stage {
                trace.due_at_ms = due_ms.map(|due_ms| self.wall_ms_at(due_ms));
            }
            trace.reason = self.last_reason(id)?;
            trace.outcome = DeliveryOutcome::Current(listed.stage.into());
        } else if let Some(letter) = self.outbox.letter(id)? {
            trace.reason = Some(letter.reason);
            trace.outcome = DeliveryOutcome::Current(DeliveryState::Dead);
        } else if trace.outcome == DeliveryOutcome::Ended {
            trace.outcome = match trace.attempts.last().map(|last| last.outcome) {
                Some(RecentOutcome::Delivered) => DeliveryOutcome::Delivered,
                Some(RecentOutcome::Dead) => DeliveryOutcome::GivenUp,
                Some(RecentOutcome::Retry) | None => DeliveryOutcome::Ended,
            };
        }
        Ok(())
    }

    /// The attempts that are kept without a history.
    fn known_attempts(
        &self,
        event: EventId,
        subscription: SubscriptionId,
        failed: &[FailedAttempt],
        event_type: &EventType,
    ) -> Vec<RecentAttempt> {
        let recent = self.recent_attempts.of(subscription, usize::MAX).into_iter();
        let mut attempts: Vec<_> = recent.filter(|attempt| attempt.event == event).collect();
        for failed in failed {
            let is_same =
                |one: &RecentAttempt| (one.number, one.at_ms) == (failed.number, failed.at_ms);
            if attempts.iter().any(is_same) {
                continue;
            }
            attempts.push(RecentAttempt {
                at_ms: failed.at_ms,
                event,
                event_type: Some(event_type.clone()),
                number: failed.number,
                outcome: RecentOutcome::Retry,
                status: match failed.reason {
                    Reason::Status(status) => Some(status),
                    _ => None,
                },
                reason: Some(failed.reason.clone()),
                took: failed.took,
                excerpt: failed.excerpt.clone(),
            });
        }
        attempts.sort_by_key(|attempt| (attempt.at_ms, attempt.number));
        attempts
    }
}
