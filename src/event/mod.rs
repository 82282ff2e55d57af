//! What a host publishes, and the names of events: types, numbers, ids.
//!
//! [`Event`] only collects what it is given; `publish` checks it. The other types are checked when they are
//! made and never again. `Debug` never shows a payload (I9).

mod acceptance_times;
mod catalogue;
mod event_type;
mod id;
mod number;
mod publish_error;
mod stored;
mod type_hint;

pub(crate) use acceptance_times::AcceptanceTimes;
pub(crate) use catalogue::TEST;
pub use catalogue::{Catalogue, RAW_CLOUD_API_WEBHOOK};
pub use event_type::EventType;
pub use id::EventId;
pub use number::WabaNumber;
pub(crate) use number::{NumberInput, number_input};
pub use publish_error::PublishError;
pub use stored::{Accepted, StoredEvent};
pub use type_hint::{HintReason, TypeHint};

use crate::text::debug_fields;

/// An event to publish. The builder only collects; `publish` checks it and names the field at fault.
///
/// ```
/// use wabahook::Event;
/// let event = Event::new("MESSAGE_RECEIVED", r#"{"text":"hello"}"#)
///     .number("+919999999999")
///     .key("919812300001")               // ordered subscriptions keep the order per key
///     .dedup_key("wamid.HBgMOTE5");      // a second publish with this key stores nothing
/// # let _ = event;
/// ```
#[derive(Clone)]
pub struct Event {
    pub(crate) account: Option<String>,
    pub(crate) kind: String,
    pub(crate) number: Option<NumberInput>,
    pub(crate) waba: Option<String>,
    pub(crate) key: Option<String>,
    pub(crate) dedup_key: Option<String>,
    pub(crate) payload: Vec<u8>,
    /// The number of the contact where the key is its user id, so that the history finds it by both.
    pub(crate) contact_number: Option<String>,
    /// Whether it is one update of a callback that is also published as a whole.
    pub(crate) is_part: bool,
}

impl Event {
    /// An event of this type, by any name of the catalogue, with the bytes to deliver.
    pub fn new(event_type: impl Into<String>, payload: impl Into<Vec<u8>>) -> Event {
        Event {
            account: None,
            kind: event_type.into(),
            number: None,
            waba: None,
            key: None,
            dedup_key: None,
            payload: payload.into(),
            contact_number: None,
            is_part: false,
        }
    }

    /// Sets the account that publishes. Defaults to the only account.
    #[must_use]
    pub fn account(mut self, name: impl Into<String>) -> Event {
        self.account = Some(name.into());
        self
    }

    /// Sets the WABA number of the event, which subscriptions filter by.
    #[must_use]
    pub fn number(mut self, number: impl AsRef<str>) -> Event {
        self.number = Some(number_input(number.as_ref()));
        self
    }

    /// Sets the WABA of the event. Used for routing only if there is no number.
    #[must_use]
    pub fn waba(mut self, waba_id: impl Into<String>) -> Event {
        self.waba = Some(waba_id.into());
        self
    }

    /// Sets what the event is about, usually the contact; 1 to 512 bytes. Ordered subscriptions keep the order
    /// per key.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Event {
        self.key = Some(key.into());
        self
    }

    /// Sets the event's id at its source, 1 to 512 bytes. A second event of the same account, type and dedup key
    /// within [`dedup_window`](crate::Limits::dedup_window) stores nothing; its receipt returns the first one's
    /// id.
    #[must_use]
    pub fn dedup_key(mut self, dedup_key: impl Into<String>) -> Event {
        self.dedup_key = Some(dedup_key.into());
        self
    }

    /// The event type as given.
    pub fn event_type(&self) -> &str {
        &self.kind
    }

    /// The bytes to deliver.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }
}

debug_fields!(Event: account, kind, number, waba, payload.len());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_hides_the_payload() {
        let text = format!("{:?}", Event::new("ADD_TAG", "hidden-payload").key("hidden-key"));
        assert!(!text.contains("hidden"), "{text}");
    }
}
