//! An accepted event: what its receipt resolves to, and what the outbox keeps of it.

use std::sync::Arc;

use super::{EventId, EventType, WabaNumber};

use crate::text::debug_fields;

/// An accepted event. The outbox keeps it as long as a subscription is owed it or a dead letter refers to it.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoredEvent {
    /// Its id.
    pub id: EventId,
    /// The account that published it.
    pub account: Arc<str>,
    /// Its type.
    pub event_type: EventType,
    /// The number it belongs to.
    pub number: Option<WabaNumber>,
    /// The WABA it belongs to.
    pub waba: Option<String>,
    /// Hash of the event's key, for ordered lanes; 0 for an event without a key.
    pub(crate) key_hash: u64,
    /// When it was accepted, in milliseconds since the Unix epoch.
    pub accepted_at_ms: u64,
    /// Its payload, byte for byte as published.
    pub payload: Vec<u8>,
}

#[cfg(test)]
impl StoredEvent {
    /// An event with every field at its simplest.
    pub(crate) fn example() -> StoredEvent {
        StoredEvent {
            id: EventId::new(1, 1),
            account: "acme".into(),
            event_type: super::Catalogue::default().canonical("MESSAGE_RECEIVED").unwrap(),
            number: None,
            waba: None,
            key_hash: 0,
            accepted_at_ms: 0,
            payload: Vec::new(),
        }
    }
}

// Without the payload (I9).
debug_fields!(StoredEvent: id, event_type, payload.len());

/// What a receipt resolves to when the event is durable.
///
/// ```
/// # use wabahook::{Config, Engine, Event, Subscription};
/// # let directory = tempfile::tempdir()?;
/// # let engine = Engine::open(Config::new(directory.path()))?;
/// engine.subscribe(Subscription::to("https://crm.example/hook")?)?;
/// let event = || Event::new("ADD_TAG", "{}").dedup_key("tag-17");
/// let first = engine.publish(event())?.wait()?;
/// let again = engine.publish(event())?.wait()?;
/// assert_eq!((first.owed, first.duplicate), (1, false));
/// assert_eq!((again.owed, again.duplicate, again.id), (0, true, first.id));
/// # engine.close(std::time::Duration::from_secs(10))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Accepted {
    /// The event's id: the `webhook-id` of each of its attempts.
    pub id: EventId,
    /// How many deliveries the event owes; 0 if it has no subscriber or is a duplicate.
    pub owed: u32,
    /// Whether an event with the same dedup key was accepted before. Then `id` is that event's id.
    pub duplicate: bool,
}
