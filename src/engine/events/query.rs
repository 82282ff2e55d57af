//! What a search for events selects, and what it returns: the trace of an event, with its deliveries and attempts.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::recent_attempts::{RecentAttempt, RecentOutcome};
use crate::attempt::Reason;
use crate::engine::DeliveryState;
use crate::engine::filter::filter;
use crate::engine::publish::order_hash;
use crate::error::{Error, Result};
use crate::event::{EventId, EventType, WabaNumber};
use crate::history::{AttemptEntry, DeliveryStep, EntryPosition, HistoryQuery, dedup_hash};
use crate::subscription::SubscriptionId;
use crate::text::debug_fields;

/// What became of an event.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EventTrace {
    /// The id of the event.
    pub id: EventId,
    /// The account that published it.
    pub account: String,
    /// Its type.
    pub event_type: EventType,
    /// Its number.
    pub number: Option<WabaNumber>,
    /// Its WABA.
    pub waba: Option<String>,
    /// When it was accepted, in milliseconds since the Unix epoch.
    pub accepted_at_ms: u64,
    /// Its payload, or the first 64 KiB of it, if only the history has it.
    pub payload: Vec<u8>,
    /// The length of the whole payload, in bytes.
    pub payload_length: u64,
    /// How often an event with the same dedup key was published again, as far as the history goes.
    pub duplicates: u64,
    /// Its deliveries, one for each subscription that wanted it.
    pub deliveries: Vec<DeliveryTrace>,
}

/// What became of a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeliveryTrace {
    /// The subscription.
    pub subscription: SubscriptionId,
    /// What became of it.
    pub outcome: DeliveryOutcome,
    /// When its next attempt is due, in milliseconds since the Unix epoch.
    pub due_at_ms: Option<u64>,
    /// Why it failed last, or was given up.
    pub reason: Option<Reason>,
    /// Its attempts, oldest first, as far as they are kept.
    pub attempts: Vec<RecentAttempt>,
}

/// What became of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DeliveryOutcome {
    /// It is still owed, in this state, or is a dead letter.
    Current(DeliveryState),
    /// The receiver accepted it.
    Delivered,
    /// It was given up, and its dead letter is no longer kept.
    GivenUp,
    /// It was cancelled.
    Cancelled,
    /// It ended, and how is no longer kept.
    Ended,
}

impl DeliveryOutcome {
    /// The outcome's name in listings.
    pub fn as_str(self) -> &'static str {
        match self {
            DeliveryOutcome::Current(state) => state.as_str(),
            DeliveryOutcome::Delivered => "delivered",
            DeliveryOutcome::GivenUp => "given_up",
            DeliveryOutcome::Cancelled => "cancelled",
            DeliveryOutcome::Ended => "ended",
        }
    }
}

impl fmt::Display for DeliveryOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// Omits the payload (I9).
debug_fields!(EventTrace: id, event_type, deliveries);

filter! {
    /// Selects events that match everything that is set. Defaults to all that are kept.
    ///
    /// ```
    /// use wabahook::EventQuery;
    /// let query = EventQuery::default().account("acme").message_id("wamid.HBgMOTE5");
    /// # let _ = query;
    /// ```
    pub struct EventQuery {
        /// Only events of this account.
        account: String, given impl Into<String>;
        /// Only events published with this dedup key. Needs a [history](crate::Limits::history_bytes_max).
        dedup_key: String, given impl Into<String>;
        /// Only events whose payload has this message id.
        message_id: String, given impl Into<String>;
        /// Only events published with this key, which is the contact for events of callbacks: its user id where they show
        /// one, else its number. The history finds an event by either, where its callback showed both.
        contact: String, given impl Into<String>;
        /// Only events of this number.
        number: WabaNumber, given WabaNumber;
        /// Only events whose type contains this text, in any case.
        event_type: String, given impl Into<String>;
        /// Only events accepted at this time or later, in milliseconds since the Unix epoch.
        since_ms: u64, given u64;
    }
}

impl EventQuery {
    /// The query of the history, with the ids of its account.
    pub(in crate::engine) fn in_history(&self, accounts: Option<Vec<String>>) -> HistoryQuery {
        HistoryQuery {
            accounts,
            event_type: self.event_type.clone(),
            number: self.number,
            key_hash: self.contact.as_deref().map(order_hash),
            without_contact: None,
            dedup_hash: self.dedup_key.as_deref().map(dedup_hash),
            message_id: self.message_id.clone(),
            since_ms: self.since_ms,
        }
    }
}

/// Where a page of events begins. Its text is opaque.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventCursor(pub(in crate::engine) SearchPosition);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) enum SearchPosition {
    History(EntryPosition),
    /// Before this sequence of what is owed and dead.
    Kept(u64),
}

impl fmt::Display for EventCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            SearchPosition::History(EntryPosition { segment, offset }) => {
                write!(f, "history.{segment}.{offset}")
            }
            SearchPosition::Kept(sequence) => write!(f, "kept.{sequence}"),
        }
    }
}

impl FromStr for EventCursor {
    type Err = Error;

    fn from_str(given: &str) -> Result<EventCursor> {
        let history = || {
            let (segment, offset) = given.strip_prefix("history.")?.split_once('.')?;
            let (segment, offset) = (segment.parse().ok()?, offset.parse().ok()?);
            Some(SearchPosition::History(EntryPosition { segment, offset }))
        };
        let kept = || Some(SearchPosition::Kept(given.strip_prefix("kept.")?.parse().ok()?));
        let position = history().or_else(kept).map(EventCursor);
        position.ok_or_else(|| Error::invalid("cursor", given, "the cursor of a page, unchanged"))
    }
}

impl DeliveryTrace {
    pub(in crate::engine) fn new(subscription: SubscriptionId) -> DeliveryTrace {
        DeliveryTrace {
            subscription,
            outcome: DeliveryOutcome::Ended,
            due_at_ms: None,
            reason: None,
            attempts: Vec::new(),
        }
    }

    /// Adds a step that the history kept.
    pub(in crate::engine) fn take(
        &mut self,
        step: &DeliveryStep,
        event: EventId,
        event_type: &EventType,
    ) {
        match step {
            DeliveryStep::Cancelled { .. } => self.outcome = DeliveryOutcome::Cancelled,
            DeliveryStep::GivenUp { reason, .. } => {
                self.outcome = DeliveryOutcome::GivenUp;
                self.reason = Some(reason.clone());
            }
            DeliveryStep::Attempt(attempt) => {
                let AttemptEntry { number, at_ms, took_ms, status, reason, will_retry, excerpt } =
                    attempt.clone();
                let (outcome, became) = match (&reason, will_retry) {
                    (None, _) => (RecentOutcome::Delivered, DeliveryOutcome::Delivered),
                    (Some(_), true) => (RecentOutcome::Retry, DeliveryOutcome::Ended),
                    (Some(_), false) => (RecentOutcome::Dead, DeliveryOutcome::GivenUp),
                };
                (self.outcome, self.reason) = (became, reason.clone());
                self.attempts.push(RecentAttempt {
                    at_ms,
                    event,
                    event_type: Some(event_type.clone()),
                    number,
                    outcome,
                    status,
                    reason,
                    took: Duration::from_millis(took_ms),
                    excerpt,
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_parses_its_own_text_and_nothing_else() {
        let history = SearchPosition::History(EntryPosition { segment: 7, offset: u32::MAX });
        for position in [history, SearchPosition::Kept(u64::MAX)] {
            let cursor = EventCursor(position);
            assert_eq!(cursor.to_string().parse::<EventCursor>().unwrap(), cursor);
        }
        for text in ["", "history.1", "history.1.x", "kept.", "kept.-1", "7"] {
            let error = text.parse::<EventCursor>().unwrap_err();
            assert_eq!(error.field(), Some("cursor"), "{text}");
        }
    }
}
